"""The demo's verdict on itself: an answer is allowed or it is not."""

from __future__ import annotations

from typing import Any

import pytest

from headgate_console.demo.audit import Phase, Split, audit, last_answered_by, quantile
from headgate_console.demo.caller import Answered

SPLITS = (
    Split(1, 10.0, {"b": 1000}),
    Split(2, 20.0, {"b": 950, "g": 50}),
    Split(3, 30.0, {"b": 0, "g": 1000}),
)
PHASES = (Phase("blue", 5.0), Phase("green step-5", 19.0), Phase("green step-100", 29.0))


def line(revision: str = "b", generation: int = 1, **fields: Any) -> Answered:
    known: dict[str, Any] = {
        "sent": 11.0,
        "answered": 11.01,
        "late_ms": 10.0,
        "status": 200,
        "request": 0,
        "right": True,
    }
    return Answered(revision=revision, generation=generation, **{**known, **fields})


def test_right_answers_of_revisions_with_traffic_are_allowed() -> None:
    found = audit([line(), line("g", 2), line("b", 2), line("g", 3)], SPLITS, PHASES)
    assert (found.requests, found.failures, found.strangers) == (4, 0, 0)


@pytest.mark.parametrize(
    ("strange", "why"),
    [
        pytest.param(line(right=False), "not what that revision predicts", id="wrong"),
        pytest.param(line(right=None), "nobody knows", id="unknown revision"),
        pytest.param(line("g", 1), "no live traffic", id="not in that split"),
        pytest.param(line("b", 3), "no live traffic", id="left at zero"),
        pytest.param(line("b", 9), "never published", id="unknown generation"),
        pytest.param(line("", 0, right=None), "nobody", id="no headers"),
    ],
)
def test_any_other_answer_is_a_stranger_and_says_why(strange: Answered, why: str) -> None:
    found = audit([line(), strange], SPLITS, PHASES)
    assert found.strangers == 1
    assert why in found.examples[0]


def test_anything_but_200_is_a_failure_even_when_it_names_a_revision() -> None:
    found = audit([line(status=424), line(status=0, revision="", generation=0, note="closed")], SPLITS, PHASES)
    assert (found.failures, found.strangers) == (2, 0)
    assert "closed" in found.examples[1]


def test_shares_are_counted_by_the_phase_in_which_the_route_was_published() -> None:
    late_of_blue = line("b", 1, sent=21.0)
    found = audit([line(), late_of_blue, line("g", 2), line("b", 2), line("g", 3)], SPLITS, PHASES)
    assert [(s.phase, s.requests, dict(s.observed)) for s in found.shares] == [
        ("blue", 2, {"b": 2}),
        ("green step-5", 2, {"g": 1, "b": 1}),
        ("green step-100", 1, {"g": 1}),
    ]
    assert found.shares[1].asked == {"b": (950,), "g": (50,)}


def test_last_answer_of_a_revision_is_told_by_sending_and_by_arrival() -> None:
    lines = [line(sent=1.0, answered=3.0), line(sent=2.0, answered=2.5), line("g", 2, sent=9.0, answered=9.1)]
    assert last_answered_by(lines, "b") == (2.0, 3.0)
    assert last_answered_by(lines, "x") == (0.0, 0.0)


def test_nothing_sent_is_nothing_proved() -> None:
    found = audit([], SPLITS, PHASES)
    assert (found.requests, found.p99_ms, found.shares) == (0, 0.0, ())


def test_quantile_is_an_observed_value() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0

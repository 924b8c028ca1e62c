from __future__ import annotations

import math

import pytest

from headgate_policies.wording import classes, duration, milliseconds, more, part, percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.5, "50 %"),
        (0.005, "0.5 %"),
        (0.0933, "9.33 %"),
        (0.12345, "12.3 %"),
        (0.00042, "0.042 %"),
        (12.0, "1,200 %"),
        (math.nan, "unknown"),
    ],
)
def test_a_share_is_written_as_a_person_would(share: float, text: str) -> None:
    assert percent(share) == text


def test_counts_are_written_with_their_share() -> None:
    assert part(12, 1_500) == "12 of 1,500 (0.8 %)"
    assert part(0, 0) == "0 of 0"


@pytest.mark.parametrize(("ms", "text"), [(1234.5, "1,234 ms"), (21.44, "21.4 ms"), (0.5, "0.5 ms")])
def test_milliseconds_keep_three_digits(ms: float, text: str) -> None:
    assert milliseconds(ms) == text


def test_classes_come_most_frequent_first_and_empty_ones_not_at_all() -> None:
    assert classes({"timeout": 1, "refused": 0, "model_error": 12, "cut": 1}) == "12 model_error, 1 cut, 1 timeout"


@pytest.mark.parametrize(
    ("count", "start"),
    [
        (7, "about 7 more"),
        (1_873, "about 1,900 more"),
        (2_000_000, "more than a million more"),
        (None, "more candidate requests: what was seen lies too near"),
    ],
)
def test_what_is_missing_pretends_to_no_more_than_two_digits(count: int | None, start: str) -> None:
    assert more(count).startswith(start)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (119, "119 s"), (120, "2 min"), (661, "12 min"), (7_201, "3 h"), (86_401, "more than a day")],
)
def test_a_duration_is_one_unit_rounded_up(seconds: float, text: str) -> None:
    assert duration(seconds) == text

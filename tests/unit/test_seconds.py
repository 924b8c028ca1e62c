"""Looks of one second become one: what is joined, what waits for nothing, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence

from headgate.evidence import Approval, Counts, Look, Outcome
from headgate_policies.seconds import MUCH, Heard, Seconds


def look(at: float, ok: int = 10, **more: object) -> Look:
    return Look("step", 1, at, 0.5, Counts({Outcome.OK: ok}, {3: ok}), Counts({Outcome.OK: 9 * ok}), **more)  # type: ignore[arg-type]


def handed_on(looks: Sequence[Look], much: int = MUCH) -> list[Heard]:
    seconds = Seconds()
    return [heard for each in (look(0.0, ok=much * 100), *looks) for heard in seconds.take(each, "")][1:]


def test_looks_of_one_second_are_one_look_when_the_next_begins() -> None:
    (joined, fault), *rest = handed_on([look(10.0), look(10.5), look(10.9), look(11.0)])
    assert (joined.at, joined.candidate.requests, joined.stable.requests, fault) == (10.0, 30, 270, "")
    assert joined.candidate.latency == {3: 30}
    assert rest == [], "the second that is open waits"


def test_early_in_a_phase_nothing_waits() -> None:
    seconds = Seconds()
    assert [heard.at for at in (10.0, 10.1, 10.2) for heard, _ in seconds.take(look(at), "")] == [10.0, 10.1, 10.2]


def test_what_is_much_beside_all_before_is_handed_on_at_once() -> None:
    assert [heard.candidate.requests for heard, _ in handed_on([look(10.0), look(10.1, ok=90)])] == [100]


def test_a_clock_set_back_opens_another_second() -> None:
    assert [heard.at for heard, _ in handed_on([look(10.0), look(9.9), look(9.95), look(12.0)])] == [10.0, 9.9]


def test_what_a_person_said_waits_for_nothing_and_takes_along_what_waited() -> None:
    said = Approval("manual", approved=True, who="ada")
    (heard, _), *rest = handed_on([look(10.0), look(10.2, ok=0, approvals=(said,))])
    assert (heard.approvals, heard.candidate.requests, rest) == ((said,), 10, [])


def test_a_broken_look_comes_alone_after_what_was_before_it() -> None:
    seconds = Seconds()
    list(seconds.take(look(0.0, ok=10_000), ""))
    assert list(seconds.take(look(1.0), "")) == []
    first, second = seconds.take(look(1.1), "negative")
    assert (first[0].at, first[1], second[0].at, second[1]) == (1.0, "", 1.1, "negative")


def test_whatever_failed_the_same_looks_are_joined() -> None:
    """A cut that followed outcomes would let a gate stop when luck is bad."""

    def cuts(bad: int) -> list[tuple[float, int]]:
        failing = Counts({Outcome.OK: 10 - bad, Outcome.MODEL_ERROR: bad})
        looks = [Look("step", 1, 10 + at / 3, 0.3, failing, failing) for at in range(40)]
        return [(heard.at, heard.candidate.requests) for heard, _ in handed_on(looks)]

    assert cuts(0) == cuts(5) == cuts(10)

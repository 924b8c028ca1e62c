from __future__ import annotations

import pytest

from headgate.evidence import Counts, Look, Outcome, Result, Traffic, bucket
from headgate_policies.gates.stream import StreamParams, gate

ALPHA = 0.001


def streams(n: int, *, first: float = 80.0, gap: float = 40.0, pace: float | None = 12.0, **finishes: int) -> Counts:
    times = {"first_event": {bucket(first): n}, "gap": {bucket(gap): n}}
    times |= {} if pace is None else {"pace": {bucket(pace): n}}
    ends = finishes or {"stop": n}
    return Counts({Outcome.OK: n}, {}, {}, {}, times, ends)


STABLE = streams(300)


def judge(candidate: Counts, n: int = 60, stable: Counts = STABLE, **params: float) -> tuple[Result, str, str]:
    looks = [Look("step", 1, float(at), 1.0, candidate, stable) for at in range(n)]
    verdict = gate.judge(StreamParams(**params), looks, ALPHA)  # type: ignore[arg-type]
    return verdict.result, verdict.explanation, verdict.missing


def test_streams_alike_pass() -> None:
    result, said, _ = judge(streams(30), 120)
    assert result is Result.PASS, said
    assert "no slower to the first event, longest gap, between events (95 % sure)" in said


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (streams(30, first=400.0), "to the first event: "),
        (streams(30, gap=2_000.0), "longest gap: "),
        (streams(30, pace=60.0), "between events: "),
        (streams(30, stop=25, broken=5), "streams did not end as they should"),
        (streams(30, stop=25, open=5), "streams did not end as they should"),
        (streams(30, stop=20, length=10), "streams were ended by a length limit"),
    ],
    ids=["late", "stalls", "slow", "broken", "unfinished", "cut"],
)
def test_streams_that_are_worse_fail_and_it_says_how(candidate: Counts, says: str) -> None:
    result, said, _ = judge(candidate)
    assert (result, says in said) == (Result.FAIL, True), said


def test_without_a_stream_it_holds() -> None:
    assert judge(Counts({Outcome.OK: 500}), 10)[::2] == (Result.INCONCLUSIVE, "event streams")


def test_a_few_streams_are_not_enough() -> None:
    result, _, missing = judge(streams(2), 5)
    assert (result, bool(missing)) == (Result.INCONCLUSIVE, True)


def test_a_time_that_no_stream_shows_is_not_waited_for() -> None:
    result, said, _ = judge(streams(30, pace=None), 120, streams(300, pace=None))
    assert (result, "between events" in said) == (Result.PASS, False)


def test_at_the_bake_the_stable_is_what_was_measured_before() -> None:
    def bake(candidate: Counts, reference: Counts) -> Result:
        looks = [Look("bake", 1, float(at), 1.0, candidate, Counts(), reference) for at in range(120)]
        return gate.judge(StreamParams(), looks, ALPHA).result

    before = streams(20_000)
    assert bake(streams(30), before) is Result.PASS
    assert bake(streams(30, gap=3_000.0), before) is Result.FAIL
    assert bake(streams(30, stop=10, broken=20), before) is Result.FAIL
    assert bake(streams(30), Counts()) is Result.INCONCLUSIVE


def test_a_forecast_is_made_before_the_rollout() -> None:
    found = gate.power(StreamParams(), Traffic(10), ALPHA)
    assert found is not None
    assert found.effect == "streams that do not end rising by 3 %"

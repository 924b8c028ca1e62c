from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.codec import canonical, decode
from headgate.control import Point
from headgate.evidence import Look, Result, Verdict
from headgate.process import Process
from headgate.testing import counts, look, pair
from headgate_policies.gates.error_rate import gate as error_rate
from headgate_policies.gates.latency import gate as latency
from headgate_policies.gates.mirror_diff import gate as mirror_diff
from headgate_policies.judge import judge_phase
from headgate_policies.replay import Trace, again, course, course_of, differences

GATES = {"error-rate": error_rate, "latency": latency, "mirror-diff": mirror_diff}


def trace(looks: int = 90, bad: int = 0) -> Trace:
    seen = [look(counts(20 - bad, bad), counts(180, 1), at=float(at)) for at in range(looks)]
    return Trace(Process(), "step-5", "step", 5, tuple(seen))


def recorded(made: Trace, gate: str) -> Verdict:
    """As the record has it: through JSON."""
    found = judge_phase(
        made.process, phase=made.phase, kind=made.kind, looks=made.looks, gates=GATES, phases_total=made.phases_total
    )
    return decode(Verdict, canonical(next(verdict for verdict in found if verdict.gate == gate)))


@pytest.mark.parametrize("gate", ["minimum-evidence", "error-rate", "latency-p99"])
@pytest.mark.parametrize("bad", [0, 3], ids=["healthy", "failing"])
def test_a_recorded_verdict_comes_again_byte_for_byte(gate: str, bad: int) -> None:
    made = trace(bad=bad)
    before = recorded(made, gate)
    after = again(made, before, GATES)
    assert after is not None
    assert canonical(after) == canonical(before)
    assert differences(before, after) == ()


def test_pairs_are_part_of_what_comes_again() -> None:
    pairs = [pair({"y": n}, {"y": n + 1}, request=str(n)) for n in range(6)]
    looks = [look(counts(6), counts(60), *pairs, phase="mirror", at=float(at)) for at in range(9)]
    process = Process(gates={"mirror-diff": {"rel": 0.01, "min_echoes": 0}})
    made = Trace(process, "mirror", "mirror", 5, tuple(looks))
    before = recorded(made, "mirror-diff")
    assert before.result is Result.FAIL
    assert canonical(again(made, before, GATES)) == canonical(before)
    touched = replace(looks[0], pairs=(pair({"y": 0}, {"y": 9}, request="0"), *pairs[1:]))
    other = again(replace(made, looks=(touched, *looks[1:])), before, GATES)
    assert other is not None
    assert any(line.startswith("evidence: ") for line in differences(before, other))


def test_looks_that_came_after_the_verdict_change_nothing() -> None:
    before = recorded(trace(40), "error-rate")
    assert again(trace(90), before, GATES) == before


def test_another_version_of_the_gate_is_told() -> None:
    before = replace(recorded(trace(), "error-rate"), version="0")
    after = again(trace(), before, GATES)
    assert after is not None
    assert differences(before, after) == ("version: 0 was recorded, now 2",)


def test_a_gate_that_does_not_judge_here_has_no_verdict() -> None:
    assert again(trace(), replace(recorded(trace(), "error-rate"), gate="mirror-diff"), GATES) is None


def test_a_course_ends_with_the_verdict_itself() -> None:
    made = trace(130)
    points = course_of(made, "error-rate", GATES, 60)
    last = recorded(made, "error-rate")
    assert len(points) <= 60
    assert points[-1] == Point(130, 129.0, str(last.result), last.figures)
    assert [p.looks for p in points] == sorted({p.looks for p in points})


@pytest.mark.parametrize("looks", [0, 1, 2, 59, 60, 61, 121])
def test_a_course_is_the_same_however_it_is_cut(looks: int) -> None:
    made = trace(looks)
    each = list(course(made, GATES, 60))
    assert len(each) <= 60
    assert [until for until, _ in each][-1:] == ([looks] if looks else [])
    for until, verdicts in each[-3:]:
        whole = judge_phase(
            made.process, phase="step-5", kind="step", looks=made.looks[:until], gates=GATES, phases_total=5
        )
        assert canonical(verdicts) == canonical(whole)


def test_one_gate_alone_has_the_share_it_has_beside_the_others() -> None:
    made = trace()
    alone = made.analysis(GATES, "error-rate").hear(made.looks).verdicts()
    assert [verdict.gate for verdict in alone] == ["error-rate"]
    assert alone[0].alpha == recorded(made, "error-rate").alpha


def test_no_looks_are_a_trace_too() -> None:
    empty: tuple[Look, ...] = ()
    made = replace(trace(), looks=empty)
    before = recorded(made, "error-rate")
    assert (before.result, again(made, before, GATES)) == (Result.INCONCLUSIVE, before)

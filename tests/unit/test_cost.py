from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.evidence import INSTANCE, INSTANCE_FACTS, Counts, Look, Result, Sample, Traffic, Verdict, bucket
from headgate.params import parse
from headgate_policies.gates.cost import CostParams, busy_s, gate

ALPHA = 0.001


def facts(candidate: dict[str, float] | None = None, **stable: float) -> Look:
    """What the controller says of the two; what is not given is as with the stable."""
    whole = {"at_once": 4.0, "gpus": 0.0, "price_per_hour": 0.0} | stable
    arms = {"stable": whole, "candidate": whole | (candidate or {})}
    said = [Sample(INSTANCE, fact, arm, arms[arm][fact]) for arm in arms for fact in INSTANCE_FACTS]
    return Look("step", 1, 0.0, 0.0, samples=tuple(said))


def busy(ms: float, n: int) -> Counts:
    """Requests that take `ms` on average: most of them less, one in five three times as long."""
    slow = n // 5
    return Counts({"ok": n}, {bucket(ms * 0.5): n - slow, bucket(ms * 3): slow})


def traffic(candidate_ms: float = 50.0, stable_ms: float = 50.0, seconds: int = 200, phase: str = "step") -> list[Look]:
    """Seconds of different load: in some everything takes half as long again, of each arm at times of its own."""
    found = []
    for at in range(1, seconds + 1):
        ours, theirs = busy(candidate_ms * (1 + 0.25 * (at % 3)), 10), busy(stable_ms * (1 + 0.25 * (at % 5 % 3)), 40)
        found.append(Look(phase, 1, float(at), 1.0, ours, theirs))
    return found


def judge(looks: list[Look], **params: object) -> Verdict:
    made, faults = parse(gate.params, params)
    assert made is not None, faults
    return gate.judge(made, looks, ALPHA)


def test_an_equal_candidate_passes_and_says_what_a_thousand_requests_take() -> None:
    verdict = judge([facts(), *traffic()])
    assert verdict.result is Result.PASS
    assert verdict.explanation.startswith("1,000 requests take ")
    assert "replica-seconds, the stable's" in verdict.explanation
    assert verdict.figures["ratio"] == pytest.approx(1.25 / 1.2, rel=0.03)
    mean_s = sum(busy_s(look.candidate) for look in traffic()) / sum(look.candidate.requests for look in traffic())
    assert verdict.figures["candidate_cost"] == pytest.approx(1000 * mean_s / 4, rel=0.02)


def test_a_candidate_that_takes_half_as_long_again_fails() -> None:
    verdict = judge([facts(), *traffic(75.0)])
    assert verdict.result is Result.FAIL
    assert "tolerated +20 %" in verdict.explanation
    assert verdict.figures["ratio"] == pytest.approx(1.5 * 1.25 / 1.2, rel=0.03)


def test_a_dear_candidate_is_a_warning_where_that_is_declared() -> None:
    verdict = judge([facts(), *traffic(75.0)], on_increase="warn")
    assert verdict.result is Result.PASS
    assert verdict.explanation.startswith("a warning, as declared: 1,000 requests take")


@pytest.mark.parametrize(
    ("candidate", "stable", "by", "result"),
    [
        ({}, {}, "replica", Result.PASS),
        ({"gpus": 2.0}, {"gpus": 1.0}, "gpu", Result.FAIL),
        ({"price_per_hour": 3.0}, {"price_per_hour": 4.0, "gpus": 1.0}, "price", Result.PASS),
        ({"price_per_hour": 6.0}, {"price_per_hour": 4.0}, "price", Result.FAIL),
        ({"at_once": 8.0, "gpus": 2.0}, {"gpus": 1.0}, "gpu", Result.PASS),
        ({"price_per_hour": 9.0}, {"price_per_hour": 0.0}, "replica", Result.PASS),
    ],
    ids=["replicas", "more GPUs", "cheaper type", "dearer type", "twice as many at once", "one price unknown"],
)
def test_what_counts_is_the_first_unit_that_is_known_of_both(
    candidate: dict[str, float], stable: dict[str, float], by: str, result: Result
) -> None:
    units = {"replica": "replica-seconds", "gpu": "GPU-seconds", "price": "(by price_per_hour)"}
    verdict = judge([facts(candidate, **stable), *traffic()])
    assert units[by] in verdict.explanation
    assert verdict.result is result


def test_the_replicas_that_all_traffic_keeps_busy_are_told() -> None:
    figures = judge([facts(), *traffic()]).figures
    assert figures["requests_per_s"] == pytest.approx(50, rel=0.03)
    assert figures["stable_busy"] == pytest.approx(figures["requests_per_s"] * figures["stable_cost"] / 1000, rel=1e-6)


def test_nothing_is_said_before_the_controller_says_what_an_instance_costs() -> None:
    verdict = judge(traffic())
    assert (verdict.result, verdict.missing) == (
        Result.INCONCLUSIVE,
        "what an instance costs: the controller has not said it yet",
    )


def test_a_unit_that_headgate_yml_does_not_know_is_named() -> None:
    verdict = judge([facts(), *traffic()], by="price")
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.missing == "`price_per_hour` of the instance types of both, in headgate.yml"


@pytest.mark.parametrize(
    ("looks", "missing"),
    [
        (traffic(seconds=10), "candidate requests"),
        ([Look("step", 1, 1.0, 1.0, busy(50.0, 600), busy(50.0, 600))] * 3, "in 20 different seconds"),
        ([replace(look, stable=Counts()) for look in traffic()], "stable requests"),
    ],
    ids=["few requests", "one burst", "no stable"],
)
def test_too_little_holds_and_is_named(looks: list[Look], missing: str) -> None:
    verdict = judge([facts(), *looks], warmup_requests=0)
    assert verdict.result is Result.INCONCLUSIVE
    assert missing in verdict.missing


def test_one_dear_second_does_not_decide() -> None:
    looks = traffic()
    stall = replace(looks[60], candidate=Counts({"ok": 40}, {bucket(9_000.0): 40}))
    verdict = judge([facts(), *looks[:60], stall, *looks[61:]])
    assert verdict.figures["ratio"] > 3
    assert verdict.result is Result.INCONCLUSIVE


def test_what_is_between_is_looked_at_again_when_requests_have_doubled() -> None:
    looks = [facts(), *traffic(58.0, seconds=60)]
    first = judge(looks, max_increase="18%")
    assert first.result is Result.INCONCLUSIVE
    assert "more candidate requests" in first.missing
    assert judge([facts(), *traffic(75.0, seconds=400)], max_increase="18%").result is Result.FAIL


@pytest.mark.parametrize(("most", "result"), [(10.0, Result.FAIL), (20.0, Result.PASS)])
def test_a_ceiling_is_held_at_the_bake_where_no_stable_is_left(most: float, result: Result) -> None:
    looks = [replace(look, stable=Counts()) for look in traffic(phase="bake")]
    verdict = judge([facts(), *looks], max=most, by="replica")
    assert verdict.result is result
    assert f"at most {most:g} may be" in verdict.explanation


def test_it_judges_in_steps_and_at_the_bake_only_by_a_ceiling() -> None:
    assert {phase for need in gate.needs(CostParams()) for phase in need.phases} == {"step"}
    assert {phase for need in gate.needs(CostParams(max=1.0, by="gpu")) for phase in need.phases} == {"step", "bake"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"by": "hours"}, "by is `hours`"),
        ({"on_increase": "shrug"}, "write fail or warn"),
        ({"max": 2}, "`max` needs a unit"),
        ({"max": 0, "by": "gpu"}, "outside"),
    ],
    ids=str,
)
def test_parameters_that_make_no_sense_are_faults(given: dict[str, object], says: str) -> None:
    _, (fault,) = parse(gate.params, given)
    assert says in fault.message


def test_a_plan_promises_what_it_can_find() -> None:
    promise = gate.power(CostParams(), Traffic(10.0), ALPHA)
    assert promise is not None
    assert promise.effect == "a cost 40 % higher"
    assert 500 <= promise.requests < 5_000
    assert gate.power(CostParams(on_increase="warn"), Traffic(10.0), ALPHA) is None

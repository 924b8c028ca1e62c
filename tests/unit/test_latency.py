from __future__ import annotations

import random
from dataclasses import replace

import pytest

from headgate.evidence import Counts, Look, Outcome, Result, Traffic, add, bucket
from headgate_policies.gates.latency import LatencyParams, gate

ALPHA = 0.001


def measured(*milliseconds: float) -> Counts:
    latency: dict[int, int] = {}
    for ms in milliseconds:
        latency[bucket(ms)] = latency.get(bucket(ms), 0) + 1
    return Counts({Outcome.OK: len(milliseconds)}, latency)


def look(candidate: Counts, stable: Counts, phase: str = "step", reference: Counts | None = None) -> Look:
    return Look(phase, 1, 0.0, 1.0, candidate, stable, reference or Counts())


def usual(rng: random.Random, n: int) -> list[float]:
    """Heavy-tailed: a median of 20 ms, one in a hundred beyond 200 ms, some without end."""
    return [20 * rng.paretovariate(2) for _ in range(n)]


def test_the_same_latency_passes() -> None:
    rng = random.Random(1)
    looks = [look(measured(*usual(rng, 30)), measured(*usual(rng, 270))) for _ in range(120)]
    verdict = gate.judge(LatencyParams(), looks, ALPHA)
    assert verdict.result is Result.PASS
    assert "1 % more or worse is ruled out" in verdict.explanation


def test_every_second_request_300_ms_slower_fails_soon() -> None:
    looks = [look(measured(*[20.0, 320.0] * 7), measured(*[20.0] * 285))] * 5
    verdict = gate.judge(LatencyParams(), looks, ALPHA)
    assert verdict.result is Result.FAIL
    assert "21 of 42 (50 %) candidate requests were slower than" in verdict.explanation
    assert "the stable's p99 is 20" in verdict.explanation


def test_a_spike_that_slows_both_fails_nobody() -> None:
    calm = look(measured(*[20.0] * 30), measured(*[20.0] * 270))
    spike = look(measured(*[500.0] * 30), measured(*[500.0] * 270))
    assert gate.judge(LatencyParams(), [*[calm] * 20, *[spike] * 20], ALPHA).result is not Result.FAIL


def sized(**classes: list[float]) -> Counts:
    """`s0`, `s3`: latencies of requests of that size class."""
    sizes = {int(name[1:]): measured(*ms).latency for name, ms in classes.items()}
    parts = [measured(*ms) for ms in classes.values()]
    whole = add(parts)
    return Counts(whole.outcomes, whole.latency, {}, sizes)


def test_a_model_slower_only_for_big_inputs_is_found_when_sizes_are_asked_for() -> None:
    """Among all requests a big one is so rare that the whole quantile hardly moves."""
    rare = [look(sized(s0=[20.0] * 399, s3=[200.0]), sized(s0=[20.0] * 1190, s3=[150.0] * 10))] * 300
    params = LatencyParams(quantile=0.9, by_size=True)
    assert gate.judge(LatencyParams(quantile=0.9), rare, ALPHA).result is Result.PASS
    verdict = gate.judge(params, rare, ALPHA)
    assert verdict.result is Result.FAIL
    assert verdict.explanation.startswith("of requests up to 64 KiB: ")
    assert verdict.figures["size_3_candidate_rate"] > 0.9


def test_the_same_latency_of_every_size_passes_and_says_so() -> None:
    even = [look(sized(s0=[20.0] * 90, s3=[80.0] * 30), sized(s0=[20.0] * 270, s3=[80.0] * 90))] * 60
    verdict = gate.judge(LatencyParams(by_size=True), even, ALPHA)
    assert verdict.result is Result.PASS
    assert verdict.explanation.endswith("also of requests up to 1 KiB, up to 64 KiB")


def test_a_size_that_is_common_is_waited_for_and_a_rare_one_is_not() -> None:
    few = [look(sized(s0=[20.0] * 90, s3=[80.0] * 10), sized(s0=[20.0] * 270, s3=[80.0] * 30))] * 4
    verdict = gate.judge(LatencyParams(by_size=True, quantile=0.9), few, ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.missing.startswith("of requests up to 64 KiB: about ")
    assert gate.judge(LatencyParams(by_size=True, quantile=0.9, size_share=0.2), few, ALPHA).result is Result.PASS


def test_the_first_seconds_are_not_judged_when_asked() -> None:
    slow = [replace(look(measured(*[900.0] * 30), measured(*[20.0] * 270)), at=100.0 + k) for k in range(30)]
    fine = [replace(look(measured(*[20.0] * 30), measured(*[20.0] * 270)), at=130.0 + k) for k in range(60)]
    assert gate.judge(LatencyParams(), [*slow, *fine], ALPHA).result is Result.FAIL
    assert gate.judge(LatencyParams(warmup=30.0), [*slow, *fine], ALPHA).result is Result.PASS


def test_twice_nothing_is_still_nothing() -> None:
    """A quantile of 2 ms + 50 % is noise: the threshold is at least slack_ms above it."""
    looks = [look(measured(*[3.0] * 30), measured(*[2.0] * 270))] * 40
    assert gate.judge(LatencyParams(), looks, ALPHA).result is Result.PASS
    assert gate.judge(LatencyParams(slack_ms=0.0), looks, ALPHA).result is Result.FAIL


def test_the_first_requests_are_not_judged() -> None:
    cold = look(measured(*[900.0] * 20), measured(*[20.0] * 270))
    warm = look(measured(*[20.0] * 20), measured(*[20.0] * 270))
    verdict = gate.judge(LatencyParams(), [cold, *[warm] * 60], ALPHA)
    assert verdict.result is Result.PASS
    assert verdict.figures["warmup_skipped"] == 20
    assert (
        gate.judge(LatencyParams(warmup_requests=0), [warm, cold, cold, cold, *[warm] * 60], ALPHA).result
        is Result.FAIL
    )


def test_a_quantile_that_is_not_known_yet_holds() -> None:
    looks = [look(measured(*[20.0] * 2), measured(*[20.0] * 2))] * 20
    verdict = gate.judge(LatencyParams(), looks, ALPHA)
    assert verdict.result is Result.INCONCLUSIVE


def test_a_ceiling_fails_even_when_the_stable_is_as_slow() -> None:
    looks = [look(measured(*[400.0] * 30), measured(*[400.0] * 270))] * 5
    verdict = gate.judge(LatencyParams(max_ms=250.0), looks, ALPHA)
    assert verdict.result is Result.FAIL
    assert "slower than 250 ms; at most 1 % may be" in verdict.explanation


def test_a_ceiling_that_is_kept_passes() -> None:
    looks = [look(measured(*[20.0] * 30), measured(*[20.0] * 270))] * 60
    assert gate.judge(LatencyParams(max_ms=250.0), looks, ALPHA).result is Result.PASS


@pytest.mark.parametrize(("slow", "result"), [(20.0, Result.PASS), (120.0, Result.FAIL)])
def test_the_bake_is_judged_by_the_quantile_measured_before(slow: float, result: Result) -> None:
    before = measured(*[20.0] * 3_000)
    looks = [look(measured(*[20.0] * 90, *[slow] * 10), Counts(), "bake", before)] * 20
    assert gate.judge(LatencyParams(), looks, ALPHA).result is result


def test_a_bake_without_a_reference_holds() -> None:
    looks = [look(measured(*[20.0] * 100), Counts(), "bake")] * 20
    assert gate.judge(LatencyParams(), looks, ALPHA).result is Result.INCONCLUSIVE


def test_a_looser_extra_share_needs_fewer_requests() -> None:
    looks = [look(measured(*[20.0] * 5), measured(*[20.0] * 95))] * 25
    assert gate.judge(LatencyParams(), looks, ALPHA).result is Result.INCONCLUSIVE
    assert gate.judge(LatencyParams(max_extra=0.1), looks, ALPHA).result is Result.PASS


def test_an_unknown_bucket_is_an_error() -> None:
    broken = look(Counts({Outcome.OK: 1}, {100_000: 1}), measured(20.0))
    assert gate.judge(LatencyParams(), [broken], ALPHA).result is Result.ERROR


def test_what_a_plan_promises_is_a_sentence_and_a_number() -> None:
    promise = gate.power(LatencyParams(quantile=0.95), Traffic(100.0), ALPHA)
    assert promise is not None
    assert promise.effect == "slow requests rising from 2.5 % to 17.5 %"
    assert 50 < promise.requests < 1_000


@pytest.mark.parametrize(("ms", "result"), [(35.0, Result.PASS), (90.0, Result.FAIL)])
def test_copies_may_be_twice_as_slow_before_it_counts(ms: float, result: Result) -> None:
    looks = [look(measured(*[ms] * 30), measured(*[20.0] * 270), "mirror")] * 40
    assert gate.judge(LatencyParams(), looks, ALPHA).result is result
    assert gate.judge(LatencyParams(mirror_factor=1.0), looks, ALPHA).result is Result.FAIL

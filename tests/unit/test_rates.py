"""Rates judged: what a forecast promises against what happens, and what the bake forgives. Seeded simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headgate.evidence import Result
from headgate_policies.rates import DRIFT, RateTest, Sample, detection, passing

ALPHA = 0.001


def requests_until_failed(rng: np.random.Generator, stable: float, rate: float, tolerance: float, echoes: int) -> int:
    """With 20 candidate and `echoes` stable requests a look."""
    test = RateTest(tolerance, alpha=ALPHA, confidence=0.95)
    for look in range(1, 2_000):
        bad, stable_bad = int(rng.binomial(20, rate)), int(rng.binomial(echoes, stable))
        test.add(Sample(20, bad, echoes, stable_bad))
        if test.result is Result.FAIL:
            return 20 * look
    raise AssertionError("never failed")


@pytest.mark.parametrize(
    ("stable", "effect", "tolerance", "echoes"),
    [
        pytest.param(0.005, 0.045, 0.005, 380, id="5 % of traffic, 0.5 -> 5 %"),
        pytest.param(0.0, 0.3, 0.1, 2, id="pairs with a tenth of echoes"),
        pytest.param(0.01, 0.03, 0.01, 20, id="half of the traffic"),
    ],
)
def test_what_a_forecast_promises_is_kept(stable: float, effect: float, tolerance: float, echoes: int) -> None:
    promised = detection("", stable, effect, tolerance, ALPHA, echoes / 20)
    assert promised is not None
    rng = np.random.default_rng(1)
    times = sorted(requests_until_failed(rng, stable, stable + effect, tolerance, echoes) for _ in range(40))
    assert times[math.ceil(0.9 * len(times)) - 1] <= promised.requests
    assert times[0] > promised.requests / 20, "nor is it a promise that says nothing"


@pytest.mark.parametrize(
    ("rate", "tolerance", "beside", "times"),
    [
        pytest.param(0.0, 0.01, 2, 2.0, id="no noise, a tenth of echoes"),
        pytest.param(0.06, 0.02, 10, 2.0, id="noise, half of echoes"),
        pytest.param(0.01, 0.02, 60, 1.0, id="a quarter of the traffic"),
    ],
)
def test_an_equal_one_passes_within_what_a_forecast_says(
    rate: float, tolerance: float, beside: int, times: float
) -> None:
    promised = passing(rate, tolerance, 0.95, beside / 20, times)
    rng = np.random.default_rng(2)
    found = []
    for _ in range(30):
        test = RateTest(tolerance, alpha=ALPHA, confidence=0.95, times=times)
        while test.result is not Result.PASS and test.total.candidates <= promised:
            test.add(Sample(20, int(rng.binomial(20, rate)), beside, int(rng.binomial(beside, rate))))
        found.append(test.total.candidates)
    late = sum(count > promised for count in found)
    assert late <= 3
    assert sorted(found)[len(found) // 2] > promised / 20, "nor is it a promise that says nothing"


def test_fewer_stable_requests_beside_it_make_a_forecast_longer() -> None:
    few, many, known = (detection("", 0.005, 0.02, 0.005, ALPHA, stables) for stables in (0.1, 10, None))
    assert few is not None
    assert many is not None
    assert known is not None
    assert few.requests > many.requests > 0.9 * known.requests


@pytest.mark.parametrize(("times", "result"), [(DRIFT, Result.INCONCLUSIVE), (5.0, Result.FAIL)])
def test_at_the_bake_the_world_may_have_moved_on(times: float, result: Result) -> None:
    test = RateTest(0.005, alpha=ALPHA, confidence=0.95, reference=Sample(stables=100_000, stable_bad=1_000))
    for _ in range(30):
        test.add(Sample(1_000, round(times * 10) + 5))
    assert test.result is result


def test_a_bake_like_the_reference_passes() -> None:
    test = RateTest(0.005, alpha=ALPHA, confidence=0.95, reference=Sample(stables=100_000, stable_bad=1_000))
    for _ in range(30):
        test.add(Sample(1_000, 10))
    assert test.result is Result.PASS

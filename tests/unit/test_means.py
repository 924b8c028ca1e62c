from __future__ import annotations

import math
import random

import numpy
import pytest
from scipy import stats

from headgate_policies.means import LEAST_SECONDS, Mean, estimate, look_level, ratio, without_the_dearest


def drawn(rng: random.Random, seconds: int, scale: float = 1.0) -> list[tuple[int, float]]:
    found = []
    for _ in range(seconds):
        n = rng.randrange(1, 12)
        found.append((n, sum(scale * rng.lognormvariate(0, 1) for _ in range(n))))
    return found


def test_the_error_is_that_of_many_repetitions() -> None:
    rng = random.Random(7)
    means = [estimate(drawn(rng, 200)) for _ in range(400)]
    known = [each for each in means if each is not None]
    spread = float(numpy.std([math.log(each.mean) for each in known]))
    assert float(numpy.mean([each.error for each in known])) == pytest.approx(spread, rel=0.1)


def test_of_equal_seconds_it_is_the_error_of_a_mean() -> None:
    values = [1.0, 2.0, 3.0, 4.0] * 10
    found = estimate([(1, value) for value in values])
    assert found is not None
    assert found.mean == 2.5
    assert found.error == pytest.approx(float(stats.sem(values)) / 2.5)


def test_bounds_of_a_ratio_are_left_as_often_as_they_say() -> None:
    rng = random.Random(11)
    outside = 0
    for _ in range(400):
        found = ratio(drawn(rng, 150, 1.3), drawn(rng, 150))
        assert found is not None
        outside += found.low(0.05) > 1.3
    assert outside <= stats.binom.ppf(0.999, 400, 0.05)


def test_few_seconds_or_nothing_taken_are_not_known() -> None:
    assert estimate([(1, 1.0)] * (LEAST_SECONDS - 1)) is None
    assert estimate([(1, 0.0)] * LEAST_SECONDS) is None
    assert ratio([(1, 1.0)] * LEAST_SECONDS, []) is None


def test_looks_of_one_second_are_one_and_empty_seconds_none() -> None:
    arm = Mean()
    for requests, fresh in [(1, True), (2, False), (0, True), (3, True)]:
        arm.add(requests, 10.0 * requests, fresh)
    assert arm.seconds == [(3, 30.0), (3, 30.0)]
    assert arm.requests == 6


def test_the_dearest_second_is_taken_out_once() -> None:
    assert without_the_dearest([(1, 1.0), (1, 9.0), (1, 9.0)]) == [(1, 1.0), (1, 9.0)]
    assert without_the_dearest([]) == []


def test_all_looks_together_spend_no_more_than_there_is() -> None:
    assert math.fsum(look_level(0.01, look) for look in range(1000)) < 0.01

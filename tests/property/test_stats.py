from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate_policies.bets import divergence, project
from headgate_policies.stats import Concurrent, Fixed, upper_bound

RATES = st.floats(0.0, 1.0)
INNER = st.floats(1e-6, 1 - 1e-6)
ARM = st.integers(0, 10**9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
SMALL = st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(RATES, RATES)
def test_divergence_is_finite_and_never_negative(p: float, q: float) -> None:
    assert -1e-9 <= divergence(p, q) < 30


@given(st.integers(1, 10**9), INNER, st.integers(1, 10**9), INNER, st.floats(1e-4, 0.99))
def test_the_projection_lies_on_the_line_inside_the_square(n: int, a: float, m: int, b: float, delta: float) -> None:
    s = project(n, a, m, b, delta)
    assert 0 <= s <= 1 - delta + 1e-12


@settings(max_examples=60)
@given(st.lists(st.tuples(ARM, ARM), max_size=12), st.floats(1e-4, 0.99))
def test_any_counts_keep_the_evidence_a_number(
    looks: list[tuple[tuple[int, int], tuple[int, int]]], delta: float
) -> None:
    test, fixed = Concurrent(delta), Fixed(delta)
    for candidate, stable in looks:
        test.add(*candidate, *stable)
        fixed.add(*candidate)
    values = [test.worse.value, test.fine.value, fixed.worse.value, fixed.fine.value, test.growth(), fixed.growth()]
    assert all(math.isfinite(value) for value in values)
    assert test.growth() >= -1e-9


@settings(max_examples=60)
@given(st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=12))
def test_the_peak_never_falls(looks: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    test = Concurrent(0.02)
    highest = 0.0
    for candidate, stable in looks:
        test.add(*candidate, *stable)
        assert test.worse.peak >= highest
        highest = test.worse.peak


@given(ARM, st.floats(1e-6, 0.5))
def test_the_upper_bound_is_not_below_what_was_seen(arm: tuple[int, int], level: float) -> None:
    requests, failures = arm
    assert (failures / requests if requests else 0.0) - 1e-12 <= upper_bound(requests, failures, level) <= 1.0

"""The sequential tests against exact enumeration, scipy, and seeded simulation."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from scipy import optimize, stats

from headgate_policies.bets import Bet, EProcess, divergence, project
from headgate_policies.stats import Concurrent, Fixed, requests_to, upper_bound

ALPHA = 0.05


def binomial(rng: random.Random, n: int, p: float) -> int:
    return sum(rng.random() < p for _ in range(n))


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.005, 0.3, 0.999])
@pytest.mark.parametrize("q", [1e-6, 0.01, 0.5, 0.99])
def test_divergence_is_the_relative_entropy_scipy_computes(p: float, q: float) -> None:
    assert divergence(p, q) == pytest.approx(stats.entropy([p, 1 - p], [q, 1 - q]), rel=1e-6, abs=1e-10)


@pytest.mark.parametrize(
    ("candidates", "a", "stables", "b", "delta"),
    [(5, 0.1, 95, 0.0005, 0.02), (1, 0.001, 1, 0.001, 0.005), (150, 0.5, 20, 0.3, 0.1), (1, 0.2, 10**9, 0.01, 0.05)],
)
def test_the_projection_is_the_minimum_scipy_finds(
    candidates: int, a: float, stables: int, b: float, delta: float
) -> None:
    def distance(s: float) -> float:
        return (candidates * divergence(a, s + delta) + stables * divergence(b, s)) / (candidates + stables)

    found = project(candidates, a, stables, b, delta)
    best = optimize.minimize_scalar(distance, bounds=(1e-12, 1 - delta - 1e-12), method="bounded").x
    assert distance(found) <= distance(best) + 1e-12


@pytest.mark.parametrize(("candidates", "stables"), [(1, 1), (2, 3), (4, 1), (1, 6)])
@pytest.mark.parametrize("delta", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("ratio", [0.2, 1.0, 6.0, 1e6], ids=lambda ratio: f"tuned to {ratio:g} to 1")
def test_a_bet_wins_nothing_on_average_under_any_null(
    candidates: int, stables: int, delta: float, ratio: float
) -> None:
    """Exact: every outcome of a block, on a grid of null rates, both directions, several bets, of whatever sizes each
    bet was made for."""
    for (a, b), p, q in itertools.product(((0.6, 0.1), (0.05, 0.3), (0.99, 0.001)), _GRID, _GRID):
        worse = a > b + delta
        if (p <= q + delta) if worse else (p >= q + delta):
            bet = Bet(a, b, delta, ratio)
            assert _expectation(bet, candidates, stables, p, q) <= 1 + 1e-9


_GRID = [k / 10 for k in range(11)]


def _expectation(bet: Bet, n: int, m: int, p: float, q: float) -> float:
    return math.fsum(
        math.exp(bet.gain(n, y, m, z)) * float(stats.binom.pmf(y, n, p) * stats.binom.pmf(z, m, q))
        for y in range(n + 1)
        for z in range(m + 1)
    )


@pytest.mark.parametrize(("candidates", "stables"), [(2, 3), (5, 1)])
@pytest.mark.parametrize(("delta", "times"), [(0.01, 2.0), (0.1, 1.5), (0.2, 4.0)])
def test_a_bet_on_a_steeper_line_wins_nothing_either(candidates: int, stables: int, delta: float, times: float) -> None:
    for (a, b), p, q in itertools.product(((0.6, 0.05), (0.05, 0.3), (0.2, 0.2)), _GRID, _GRID):
        worse = a > times * b + delta
        if (p <= times * q + delta) if worse else (p >= times * q + delta):
            bet = Bet(a, b, delta, 0.5, times)
            assert _expectation(bet, candidates, stables, p, q) <= 1 + 1e-9


@pytest.mark.parametrize("ratio", [0.5, 8.0])
def test_what_is_divided_away_is_no_more_than_it_must_be(ratio: float) -> None:
    """Somewhere on the line a bet is fair: its expectation is 1, for sizes it was not tuned to as well."""
    bet = Bet(0.4, 0.1, 0.1, ratio)
    assert max(_expectation(bet, 3, 6, q / 1_000 + 0.1, q / 1_000) for q in range(901)) == pytest.approx(1, abs=1e-4)


def test_requests_of_a_block_may_differ_in_how_likely_they_fail() -> None:
    """Only their mean rates must be in the null: exact, over all outcomes of two requests of each arm."""
    bet = Bet(0.5, 0.1, 0.1, 1.0)
    for apart in (0.0, 0.1, 0.2):
        each = (0.3 + apart, 0.3 - apart, 0.2 - apart, 0.2 + apart)
        mean = math.fsum(
            math.exp(bet.gain(2, one + two, 2, three + four))
            * math.prod(rate if bad else 1 - rate for rate, bad in zip(each, (one, two, three, four), strict=True))
            for one, two, three, four in itertools.product((0, 1), repeat=4)
        )
        assert mean <= 1 + 1e-12


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.1])
def test_the_fixed_test_is_exact_over_every_sequence_of_requests(rate: float) -> None:
    """All 2^10 sequences, looked at after each request: how often is it ever rejected at a level of 20 %?"""
    rejected = 0.0
    for sequence in itertools.product((0, 1), repeat=10):
        test = Fixed(0.1)
        for failure in sequence:
            test.add(1, failure)
        if test.worse.peak >= math.log(5):
            rejected += math.prod(rate if failure else 1 - rate for failure in sequence)
    assert rejected <= 0.2


@pytest.mark.parametrize(("requests", "failures"), [(30, 0), (500, 2), (20_000, 100), (7, 7)])
def test_the_upper_bound_is_never_below_clopper_and_pearsons(requests: int, failures: int) -> None:
    exact = 1.0 if failures == requests else stats.beta.ppf(1 - 0.01, failures + 1, requests - failures)
    assert exact - 1e-9 <= upper_bound(requests, failures, 0.01) <= min(1.0, 3 * exact)


def test_without_a_reference_the_upper_bound_is_one() -> None:
    assert upper_bound(0, 0, 0.01) == 1.0


@pytest.mark.parametrize("drifting", [False, True], ids=["steady", "drifting"])
def test_false_failures_stay_below_the_level_at_every_look(drifting: bool) -> None:
    """On the boundary itself, the worst null: the candidate is worse by exactly what is tolerated."""
    rng = random.Random(20)
    false = 0
    for _ in range(300):
        test = Concurrent(0.02)
        for look in range(60):
            base = 0.05 * (1 + 0.9 * math.sin(look / 7)) if drifting else 0.05
            test.add(10, binomial(rng, 10, base + 0.02), 40, binomial(rng, 40, base))
        false += test.worse.peak >= math.log(1 / ALPHA)
    assert false / 300 <= ALPHA


def test_false_passes_stay_below_the_level_at_every_look() -> None:
    rng = random.Random(21)
    false = 0
    for _ in range(300):
        test = Concurrent(0.05)
        highest = 0.0
        for _ in range(60):
            test.add(10, binomial(rng, 10, 0.06), 40, binomial(rng, 40, 0.01))
            highest = max(highest, test.fine.value)
        false += highest >= math.log(1 / ALPHA)
    assert false / 300 <= ALPHA


@pytest.mark.parametrize(
    ("candidate", "stable", "delta", "n", "m", "within"),
    [
        pytest.param(0.10, 0.0, 0.02, 5, 95, 450, id="one in ten fails, 5 % of traffic"),
        pytest.param(1.0, 0.0, 0.005, 1, 19, 10, id="all fail"),
        pytest.param(0.5, 0.003, 0.01, 15, 285, 30, id="every second one is slow"),
        pytest.param(0.02, 0.005, 0.005, 100, 900, 9_000, id="0.5 % becomes 2 %"),
    ],
)
def test_a_regression_is_found_within(
    candidate: float, stable: float, delta: float, n: int, m: int, within: int
) -> None:
    rng = random.Random(22)
    for _ in range(20):
        test = Concurrent(delta)
        for _ in range(within // n):
            test.add(n, binomial(rng, n, candidate), m, binomial(rng, m, stable))
        assert test.worse.peak >= math.log(1 / 0.001)


@pytest.mark.parametrize(
    ("delta", "n", "m", "most"),
    [
        pytest.param(0.05, 5, 95, 80, id="5 % tolerated"),
        pytest.param(0.005, 5, 95, 750, id="0.5 % tolerated"),
        pytest.param(0.005, 100, 100, 750, id="as many of each"),
        pytest.param(0.005, 800, 3_200, 800, id="all in one look"),
    ],
)
def test_without_any_failure_a_pass_takes_little_more_than_it_must(delta: float, n: int, m: int, most: int) -> None:
    test = Concurrent(delta)
    for _ in range(most // n):
        test.add(n, 0, m, 0)
    assert test.fine.value >= math.log(20)
    assert most >= math.log(20) / delta


def test_noise_of_both_arms_is_no_obstacle_where_twice_as_much_is_tolerated() -> None:
    rng = random.Random(24)
    passed = {1.0: 0, 2.0: 0}
    for times in passed:
        for _ in range(20):
            test = Concurrent(0.01, times=times)
            for _ in range(500):
                test.add(10, binomial(rng, 10, 0.06), 2, binomial(rng, 2, 0.06))
            passed[times] += test.fine.value >= math.log(20)
    assert passed[2.0] >= 19
    assert passed[1.0] <= 8


def test_false_passes_stay_below_the_level_where_twice_as_much_is_tolerated() -> None:
    rng = random.Random(25)
    false = 0
    for _ in range(200):
        test = Concurrent(0.02, times=2.0)
        highest = 0.0
        for _ in range(60):
            test.add(10, binomial(rng, 10, 0.12), 4, binomial(rng, 4, 0.05))
            highest = max(highest, test.fine.value)
        false += highest >= math.log(1 / ALPHA)
    assert false / 200 <= ALPHA


def test_a_fault_that_begins_late_is_found() -> None:
    test = Concurrent(0.02)
    for _ in range(200):
        test.add(20, 0, 80, 0)
    assert test.worse.peak < math.log(100)
    for _ in range(120):
        test.add(20, 6, 80, 0)
    assert test.worse.peak >= math.log(1000)


def test_one_look_after_a_tiny_one_is_not_for_ever() -> None:
    """A bet made on 3 requests may be far off for a million; later starts forget it."""
    test = Concurrent(0.005)
    test.add(3, 1, 3, 0)
    test.add(10**6, 5_000, 10**6, 5_000)
    for _ in range(40):
        test.add(1_000, 5, 1_000, 5)
    assert test.fine.value >= math.log(20)


def test_looks_without_one_arm_are_joined_with_the_next() -> None:
    apart, joined = Concurrent(0.05), Concurrent(0.05)
    for _ in range(100):
        apart.add(0, 0, 19, 0)
        apart.add(1, 0, 0, 0)
        joined.add(1, 0, 19, 0)
    assert apart.fine.value == joined.fine.value >= math.log(20)


def test_an_empty_look_changes_nothing() -> None:
    test = Concurrent(0.05)
    test.add(0, 0, 0, 0)
    assert (test.fine.value, test.worse.value) == (0.0, 0.0)


def test_a_billion_requests_do_not_overflow() -> None:
    test = Concurrent(0.005)
    fixed = Fixed(0.01)
    for _ in range(5):
        test.add(10**9, 10**6, 10**9, 10**6)
        fixed.add(10**9, 10**6)
    assert math.isfinite(test.fine.value)
    assert math.isfinite(test.worse.value)
    assert fixed.fine.value > 1e6


def test_stakes_not_yet_bet_are_kept() -> None:
    process = EProcess((1,))
    process.add([-1e9])
    assert process.value == pytest.approx(math.log(0.2))


def test_weights_of_all_starts_add_up_to_one() -> None:
    process = EProcess((1, 3))
    for _ in range(1_000):
        process.add([0.0, 0.0])
        assert process.value == pytest.approx(0.0, abs=1e-12)


def test_the_growth_says_how_many_requests_are_missing() -> None:
    test = Concurrent(0.01)
    for _ in range(20):
        test.add(10, 0, 100, 0)
    missing = (math.log(20) - test.fine.value) / test.growth()
    for _ in range(math.ceil(missing / 10 * 1.3)):
        test.add(10, 0, 100, 0)
    assert test.fine.value >= math.log(20)


def test_the_forecast_of_detection_holds() -> None:
    rate, limit = 0.08, 0.03
    spread = abs(math.log(rate / limit) - math.log((1 - rate) / (1 - limit))) * math.sqrt(rate * (1 - rate))
    forecast = requests_to(0.001, divergence(rate, limit), spread)
    assert forecast is not None
    rng = random.Random(23)
    found = 0
    for _ in range(60):
        test = Concurrent(0.02)
        for _ in range(forecast // 10):
            test.add(10, binomial(rng, 10, rate), 190, binomial(rng, 190, 0.01))
        found += test.worse.peak >= math.log(1000)
    assert found >= 0.9 * 60


def test_what_does_not_grow_is_never_found() -> None:
    assert requests_to(0.01, 0.0, 1.0) is None


LEVELS = pytest.mark.parametrize("level", [0.05, 0.001, 1e-6])


@LEVELS
def test_two_windows_never_fail_anybody_and_three_may(level: float) -> None:
    for test, add in _capped(level):
        for _ in range(2):
            add()
            assert test.worse.peak < math.log(1 / level)
        add()
        assert test.worse.peak >= math.log(1 / level)


@LEVELS
def test_a_window_cut_into_many_looks_is_one_window(level: float) -> None:
    for test, add in _capped(level):
        for window in range(2):
            for number in range(20):
                add(fresh=number == 0)
            assert test.worse.peak < math.log(1 / level), window


def _capped(level: float) -> list[tuple[Any, Any]]:
    concurrent, fixed = Concurrent(0.01, level), Fixed(0.01, level=level)
    return [
        (concurrent, lambda fresh=True: concurrent.add(10**6, 10**6, 10**6, 0, fresh)),
        (fixed, lambda fresh=True: fixed.add(10**6, 10**6, fresh)),
    ]


def test_what_a_window_loses_makes_no_room_to_win_more() -> None:
    process = EProcess((1,), cap=1.0)
    for gain, fresh in ((-2.0, True), (5.0, False)):
        process.add([gain], fresh)
    assert process.value == pytest.approx(math.log(0.8 * math.exp(-1.0) + 0.1 * math.exp(1.0) + 0.1))


@pytest.mark.parametrize(("a", "b"), [pytest.param(0.005, 0.005, id="as good"), pytest.param(0.03, 0.005, id="worse")])
@pytest.mark.parametrize("candidates", [1, 100, 140, 167, 200, 400, 3000])
def test_a_block_of_other_sizes_costs_a_bet_next_to_nothing(a: float, b: float, candidates: int) -> None:
    """Sizes vary by chance where callers choose or copies are drawn; evidence must not be lost to it."""
    stables, delta = 3166, 0.005
    block = (candidates, round(a * candidates), stables, round(b * stables))
    kept, own = (Bet(a, b, delta, ratio).gain(*block) for ratio in (19.0, stables / candidates))
    assert kept == pytest.approx(own, rel=0.02, abs=0.01)

"""Looks until a rise of errors from 0.5 to 2 % is found: ours against sequential tests of the same promise.

Every look has 900 stable and 100 candidate requests. Two set-ups: no tolerance at 5 %, and the default gate (tolerance
0.5 %, its share of false_abort). The bound is Wald's test that knows both rates beforehand: nobody who must learn them
is faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from bench.judgement.ours import JUDGED, PROCESS

from headgate_policies.bets import log_ratio, project
from headgate_policies.judge import alpha_share
from headgate_policies.rates import RateTest, Sample

CANDIDATES, STABLES = 100, 900
STABLE_RATE, BAD_RATE = 0.005, 0.02
MIXTURE_SD = 0.01  # of the differences that mSPRT is tuned to
LOOKS, EQUAL_LOOKS = 400, 60
Stop = Callable[[np.ndarray, np.ndarray, float, float], int | None]


@dataclass(frozen=True)
class SetUp:
    name: str
    alpha: float
    tolerance: float


SETUPS = (
    SetUp("no tolerance, 5 %", 0.05, 0.0001),
    SetUp("default gate", alpha_share(PROCESS, JUDGED), 0.005),
)


def ours(bad: np.ndarray, stable_bad: np.ndarray, alpha: float, tolerance: float) -> int | None:
    test = RateTest(tolerance, alpha=alpha, confidence=0.95)
    for look, (x, y) in enumerate(zip(bad, stable_bad, strict=True), 1):
        test.add(Sample(CANDIDATES, int(x), STABLES, int(y)))
        if test.failed_on:
            return look
    return None


def msprt(bad: np.ndarray, stable_bad: np.ndarray, alpha: float, tolerance: float) -> int | None:
    """Normal mixture with plug-in variance, one side of a two-sided test: Johari, Pekelis, Walsh (2015)."""
    looks = np.arange(1, len(bad) + 1)
    x, y = np.cumsum(bad) / (looks * CANDIDATES), np.cumsum(stable_bad) / (looks * STABLES)
    variance = x * (1 - x) / (looks * CANDIDATES) + y * (1 - y) / (looks * STABLES)
    variance = np.maximum(variance, 1e-9)
    excess = x - y - tolerance
    log_value = 0.5 * np.log(variance / (variance + MIXTURE_SD**2))
    log_value += MIXTURE_SD**2 * excess**2 / (2 * variance * (variance + MIXTURE_SD**2))
    found = np.flatnonzero((excess > 0) & (log_value >= math.log(1 / alpha)))
    return int(found[0]) + 1 if len(found) else None


def bound(bad: np.ndarray, stable_bad: np.ndarray, alpha: float, tolerance: float) -> int | None:
    null = project(CANDIDATES, BAD_RATE, STABLES, STABLE_RATE, tolerance)
    value = 0.0
    for look, (x, y) in enumerate(zip(bad, stable_bad, strict=True), 1):
        value += log_ratio(CANDIDATES, x, BAD_RATE, null + tolerance) + log_ratio(STABLES, y, STABLE_RATE, null)
        if value >= math.log(1 / alpha):
            return look
    return None


TESTS: dict[str, Stop] = {"ours": ours, "mSPRT": msprt, "bound": bound}


@dataclass(frozen=True)
class Found:
    setup: str
    test: str
    median: float
    looks_95: float  # infinite: more than one in twenty were not found
    false_alarms: float  # of equal arms, 60 looks


def measure(seeds: int) -> list[Found]:
    found = []
    for setup in SETUPS:
        for name, stop in TESTS.items():
            rng = np.random.default_rng(5)
            times = sorted(_run(rng, BAD_RATE, LOOKS, stop, setup) or math.inf for _ in range(seeds))
            # Equal arms: on the boundary of the null, where a false alarm is most likely.
            at_edge = STABLE_RATE + setup.tolerance
            false = sum(_run(rng, at_edge, EQUAL_LOOKS, stop, setup) is not None for _ in range(2 * seeds))
            last = times[math.ceil(0.95 * seeds) - 1]
            found.append(Found(setup.name, name, times[seeds // 2], last, false / (2 * seeds)))
    return found


def _run(rng: np.random.Generator, rate: float, looks: int, stop: Stop, setup: SetUp) -> int | None:
    bad, stable_bad = rng.binomial(CANDIDATES, rate, looks), rng.binomial(STABLES, STABLE_RATE, looks)
    return stop(bad, stable_bad, setup.alpha, setup.tolerance)

"""What others do with the same numbers, as their documentation configures it. A minute is their look.

Fixed thresholds: Flagger's page "Metrics Analysis" (success at least 99 %, p99 at most 500 ms, one minute) with the
threshold of 5 failed checks of its examples; Argo Rollouts' `successCondition` with `failureLimit` is the same rule.
z-test: two proportions, cumulated, 5 % one-sided, at each look, errors and slow requests; what a dashboard invites to.
Kayenta: the published rules of its default judge. Per-minute series of a step, outliers beyond three inter-quartile
ranges dropped, Mann-Whitney interval (98 %) of the Hodges-Lehmann shift; high when it lies above a quarter of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from bench.judgement.traffic import LOOKS_A_MINUTE, Array, Phase
from scipy.stats import norm

from headgate.evidence import bucket, bucket_ms

SUCCESS, SLOWEST_MS, FAILED_CHECKS = 0.99, 500.0, 5
Z_LEVEL = 0.05
KAYENTA_CONFIDENCE, KAYENTA_TOLERANCE = 0.98, 0.25


@dataclass(frozen=True)
class Outcome:
    aborted: bool
    minute: int | None = None  # of the rollout, counted from 1


def fixed(phases: Sequence[Phase]) -> Outcome:
    failed = 0
    for minute, n, bad, times in _minutes(phases):
        slow = _quantile(times, 0.99)
        if n == 0 or 1 - bad / n < SUCCESS or (slow is not None and slow > SLOWEST_MS):
            failed += 1
        if failed >= FAILED_CHECKS:
            return Outcome(True, minute)
    return Outcome(False)


def _minutes(phases: Sequence[Phase]) -> list[tuple[int, int, int, Array]]:
    found, at = [], 0
    for phase in phases:
        for minute in range(phase.looks // LOOKS_A_MINUTE):
            at += 1
            found.append((at, *phase.candidate.minute(minute)))
    return found


def z_test(phases: Sequence[Phase]) -> Outcome:
    limit = NormalDist().inv_cdf(1 - Z_LEVEL)
    at, sums, known = 0, np.zeros(6), np.zeros(0)
    for phase in phases:
        for minute in range(phase.looks // LOOKS_A_MINUTE):
            at += 1
            if phase.share == 1.0:
                continue  # nothing beside it to test against
            n, bad, times = phase.candidate.minute(minute)
            m, stable_bad, stable_times = phase.stable.minute(minute)
            known = stable_times if not len(known) else known + stable_times
            slow = bucket(_quantile(known, 0.99) or 0.0)
            sums += (n, bad, m, stable_bad, times[slow + 1 :].sum(), stable_times[slow + 1 :].sum())
            n_all, bad_all, m_all, stable_all, slow_all, stable_slow = sums
            if min(n_all, m_all) and max(_z(n_all, bad_all, m_all, stable_all),
                                         _z(n_all, slow_all, m_all, stable_slow)) > limit:  # fmt: skip
                return Outcome(True, at)
    return Outcome(False)


def _z(n: float, x: float, m: float, y: float) -> float:
    pooled = (x + y) / (n + m)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return float((x / n - y / m) / spread) if spread else 0.0


def kayenta(phases: Sequence[Phase]) -> Outcome:
    """One judgement at the end of each step; either metric high is below the marginal score of two equal groups."""
    at = 0
    for phase in phases:
        minutes = range(phase.looks // LOOKS_A_MINUTE)
        at += len(minutes)
        if phase.share == 1.0:
            continue
        series: list[list[float]] = [[], [], [], []]
        for minute in minutes:
            for arm, counted in enumerate((phase.candidate, phase.stable)):
                n, bad, times = counted.minute(minute)
                slow = _quantile(times, 0.99)
                if n and slow is not None:
                    series[arm].append(bad / n)
                    series[2 + arm].append(slow)
        if _high(series[0], series[1]) or _high(series[2], series[3]):
            return Outcome(True, at)
    return Outcome(False)


def _high(candidate: Sequence[float], stable: Sequence[float]) -> bool:
    a, b = _inliers(np.array(candidate)), _inliers(np.array(stable))
    if len(a) < 2 or len(b) < 2:
        return False  # no data: the metric is not classified
    shifts = np.sort(np.subtract.outer(a, b).ravel())
    low = shifts[min(len(shifts) - 1, _rank(len(a), len(b)))]
    return bool(low > KAYENTA_TOLERANCE * abs(np.median(shifts)))


def _inliers(values: Array) -> Array:
    if len(values) < 4:
        return values
    low, high = np.percentile(values, (25, 75))
    kept: Array = values[(values >= low - 3 * (high - low)) & (values <= high + 3 * (high - low))]
    return kept


@lru_cache
def _rank(n: int, m: int) -> int:
    """How many of the smallest shifts lie below the interval: normal approximation of the U statistic."""
    spread = np.sqrt(n * m * (n + m + 1) / 12)
    return max(0, int(n * m / 2 - norm.ppf((1 + KAYENTA_CONFIDENCE) / 2) * spread))


def _quantile(times: Array, q: float) -> float | None:
    total = times.sum()
    if not total:
        return None
    return bucket_ms(int(np.searchsorted(np.cumsum(times), np.ceil(q * total))))


PEERS = {"fixed threshold": fixed, "z-test": z_test, "Kayenta": kayenta}

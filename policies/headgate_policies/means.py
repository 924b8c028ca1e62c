"""Mean of something that every request takes, of two arms: their ratio, and how sure one can be of it.

Requests of one second depend on each other (they queue behind each other), so the unit of evidence is the second: a
cluster, whose total varies however its requests do (ratio estimator with clustered errors; Cochran, "Sampling
Techniques", 1977, chapters 6 and 9). What makes both arms slow at once moves both and is counted against each: the
interval is then too wide, never too narrow. Normal approximation of the logarithm of a mean (delta method).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

LEAST_SECONDS = 20  # of each arm: an error estimated from fewer clusters is too small
Second = tuple[int, float]  # requests, and what they took together


class Mean:
    """One arm."""

    def __init__(self) -> None:
        self._seconds: list[list[float]] = []
        self.requests = 0

    def add(self, requests: int, total: float, fresh: bool) -> None:
        """What one look adds. `fresh`: it begins another second than the look before."""
        if fresh or not self._seconds:
            self._seconds.append([0.0, 0.0])
        self._seconds[-1][0] += requests
        self._seconds[-1][1] += total
        self.requests += requests

    @property
    def seconds(self) -> list[Second]:
        """Those in which there was a request."""
        return [(int(n), total) for n, total in self._seconds if n]


@dataclass(frozen=True, slots=True)
class Estimate:
    mean: float
    error: float  # standard error of its logarithm


def estimate(seconds: Sequence[Second]) -> Estimate | None:
    """None: too few seconds, or nothing that took anything."""
    total = math.fsum(s for _, s in seconds)
    if len(seconds) < LEAST_SECONDS or total <= 0:
        return None
    mean = total / sum(n for n, _ in seconds)
    squares = math.fsum((s - mean * n) ** 2 for n, s in seconds)
    return Estimate(mean, math.sqrt(squares * len(seconds) / (len(seconds) - 1)) / total)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The candidate's mean over the stable's."""

    value: float
    error: float  # standard error of its logarithm

    def low(self, level: float) -> float:
        """Below it with probability `level`, 0 to 0.5."""
        return self.value * math.exp(-self._quantile(level) * self.error)

    def high(self, level: float) -> float:
        return self.value * math.exp(self._quantile(level) * self.error)

    def _quantile(self, level: float) -> float:
        return NormalDist().inv_cdf(1 - level)


def ratio(candidate: Sequence[Second], stable: Sequence[Second]) -> Ratio | None:
    """None: one of the two is not known well enough to have an error."""
    ours, theirs = estimate(candidate), estimate(stable)
    if ours is None or theirs is None:
        return None
    return Ratio(ours.mean / theirs.mean, math.hypot(ours.error, theirs.error))


def without_the_dearest(seconds: Sequence[Second]) -> list[Second]:
    """All but the second whose requests took most: no second decides alone."""
    dearest = max(range(len(seconds)), key=lambda index: seconds[index][1], default=-1)
    return [second for index, second in enumerate(seconds) if index != dearest]


def look_level(alpha: float, look: int) -> float:
    """What the `look`-th look, from 0, may spend of alpha: all of them together spend no more than alpha."""
    return alpha / ((look + 1) * (look + 2))


def requests_for(ratio_to_find: float, ratio_tolerated: float, alpha: float, power: float = 0.95) -> int:
    """Requests of each arm after which a ratio is found, for times that vary as much as they last."""
    distance = math.log(ratio_to_find / ratio_tolerated)
    normal = NormalDist()
    return math.ceil(2 * ((normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)) / distance) ** 2)

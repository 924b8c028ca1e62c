"""Gross drift: numbers that are another order of magnitude, or of another sign, in most answers.

All that can be asked of a model that is *meant* to answer differently, when nobody said by how much. Per path, a
sequential sign test: in how many pairs is the typical number grossly off? More than half means that the median ratio
is beyond the factor. Cannot see a smaller shift, a wrong ranking, or answers that are grossly wrong in fewer than
half of the cases: for those, declare `rel` or `abs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from headgate.evidence import PairKind
from headgate_policies.stats import Fixed

FACTOR = 3.0
NEAR_ZERO = 0.1  # of the typical size at a path: below it, ratio and sign say nothing
MAX_PATHS = 64  # judged; in the order they first appear
TYPICAL_OF = 101  # first values that tell the typical size
NOISY = 0.25  # a path where the stable is this often grossly off from itself is not judged
LEAST_PAIRS = 10  # before a point estimate may hold up a pass

Numbers = Mapping[str, Sequence[tuple[float, float]]]  # path -> (stable, candidate) of one pair


class _Path:
    def __init__(self, number: int) -> None:
        self.log_weight = -math.log(number * (number + 1))  # 1/2 + 1/6 + 1/12 + ... = 1: alpha, over all paths
        self.test = Fixed(0.5)
        self.sizes: list[float] = []
        self.echoes = self.echoes_off = 0
        self.stable_sum = self.candidate_sum = 0.0
        self.example: tuple[float, float] | None = None
        self.pending: list[tuple[PairKind, bool]] = []

    @property
    def share(self) -> float:
        return self.test.candidate_failures / self.test.candidates if self.test.candidates else 0.0

    @property
    def noisy(self) -> bool:
        return self.echoes > 0 and self.echoes_off / self.echoes >= NOISY

    def settle(self, typical: Sequence[float], *, judged: bool) -> None:
        """Ends a look: its pairs are judged together, with what was known before it."""
        compared = [off for kind, off in self.pending if kind is PairKind.COMPARE]
        if judged and not self.noisy:
            self.test.add(len(compared), sum(compared))
        echoed = [off for kind, off in self.pending if kind is PairKind.ECHO]
        self.echoes += len(echoed)
        self.echoes_off += sum(echoed)
        self.sizes += typical[: TYPICAL_OF - len(self.sizes)]
        self.pending = []


class Drift:
    def __init__(self, alpha: float) -> None:
        self._threshold = math.log(1 / alpha)
        self._paths: dict[str, _Path] = {}
        self._typical: dict[str, list[float]] = {}
        self.peak = 0.0  # log evidence, highest at any look

    def see(self, kind: PairKind, numbers: Numbers) -> None:
        """One pair of the look that is open."""
        for path in sorted(numbers):
            if path not in self._paths and len(self._paths) < MAX_PATHS:
                self._paths[path] = _Path(len(self._paths) + 1)
            if path in self._paths:
                self._see(self._paths[path], path, kind, numbers[path])

    def _see(self, known: _Path, path: str, kind: PairKind, values: Sequence[tuple[float, float]]) -> None:
        floor = NEAR_ZERO * median(known.sizes) if known.sizes else 0.0
        off = [(s, c) for s, c in values if grossly_off(s, c, floor)]
        known.pending.append((kind, 2 * len(off) > len(values)))
        self._typical.setdefault(path, []).extend(abs(s) for s, _ in values[:TYPICAL_OF])
        if kind is PairKind.COMPARE and 2 * len(off) > len(values):
            known.stable_sum += math.fsum(s for s, _ in off)
            known.candidate_sum += math.fsum(c for _, c in off)
            known.example = known.example or off[0]

    def close_look(self, *, judged: bool) -> None:
        """`judged`: False for a look that only teaches."""
        for path, known in self._paths.items():
            known.settle(self._typical.get(path, []), judged=judged)
        self._typical = {}
        terms = [known.log_weight + known.test.worse.value for known in self._paths.values() if not known.noisy]
        # The weight of paths not seen yet, and of noisy ones, holds its stake: leaving it out only loses evidence.
        if terms:
            top = max(terms)
            self.peak = max(self.peak, top + math.log(math.fsum(math.exp(term - top) for term in terms)))

    @property
    def failed(self) -> bool:
        return self.peak >= self._threshold

    @property
    def suspicious(self) -> list[str]:
        """Paths that are grossly off in most pairs so far: no pass while there is one."""
        return [
            path
            for path, known in self._paths.items()
            if not known.noisy and known.test.candidates >= LEAST_PAIRS and known.share > 0.5
        ]

    def findings(self) -> list[tuple[str, float, float, float, float, float]]:
        """path, share of pairs, example (stable, candidate), sums (stable, candidate); the most frequent first."""
        found = [
            (path, known.share, *known.example, known.stable_sum, known.candidate_sum)
            for path, known in self._paths.items()
            if known.example is not None and not known.noisy and known.share > 0.5
        ]
        return sorted(found, key=lambda item: (-item[1], item[0]))


def grossly_off(stable: float, candidate: float, near_zero: float) -> bool:
    """Whether one number is FACTOR times the other or of another sign; both near zero never are."""
    small, large = sorted((abs(stable), abs(candidate)))
    if large <= near_zero:
        return False
    return large > FACTOR * small or stable * candidate < 0

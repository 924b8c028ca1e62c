"""Which paths of an answer differ by themselves: learnt from echoes, pairs of the stable with itself.

A timestamp, an id, a sampled text differs between two answers of one and the same model. Such a path is left out of
the comparison, as long as the candidate differs there no more than twice as often as the stable does from itself, by
a standard error. Left out once, it is until it differs half as often: a path near the edge that came and went would
make the rates that are tested another thing each time.
What is left out in one look is decided from the looks before it, and for both kinds of pair alike; so whatever this
chooses, an equal model is still as likely to differ as an echo, and the test on top keeps its promise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from headgate.evidence import PairKind

MAX_PATHS = 2_000  # remembered; a model that invents new paths for ever cannot fill the memory


class Noise:
    def __init__(self, noisy: float) -> None:
        """`noisy`: the share of echoes that must differ at a path for it to count as noise, 0 to 1."""
        self._noisy = noisy
        self._left_out: set[str] = set()
        self._pairs = {PairKind.COMPARE: 0, PairKind.ECHO: 0}
        self._seen: dict[PairKind, Counter[str]] = {PairKind.COMPARE: Counter(), PairKind.ECHO: Counter()}

    def learn(self, kind: PairKind, paths: Iterable[str]) -> None:
        """One more pair and the paths it differs at."""
        self._pairs[kind] += 1
        seen = self._seen[kind]
        seen.update(path for path in sorted(set(paths)) if path in seen or len(seen) < MAX_PATHS)

    def share(self, kind: PairKind, path: str) -> float:
        return self._seen[kind][path] / self._pairs[kind] if self._pairs[kind] else 0.0

    def excluded(self) -> Mapping[str, float]:
        """Path -> share of echoes that differ there: what the next look leaves out. Asked once for each look."""
        shares = {path: self.share(PairKind.ECHO, path) for path in sorted(self._seen[PairKind.ECHO])}
        found = {path: share for path, share in shares.items() if self._leaves_out(path, share)}
        self._left_out = set(found)
        return found

    def _leaves_out(self, path: str, share: float) -> bool:
        enough = self._noisy / 2 if path in self._left_out else self._noisy
        if share < enough:
            return False
        error = math.sqrt(share * (1 - share) / self._pairs[PairKind.ECHO])
        return self.share(PairKind.COMPARE, path) <= 2 * (share + error)

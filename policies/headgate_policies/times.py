"""Times of many looks, and a quantile of them: each look costs its own buckets, not those of all before it.

What `Counts.quantile_ms` answers over the sum of the looks. Buckets must be sound (0 to `LAST_BUCKET`), as
`sitting.broken` has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from headgate.evidence import LAST_BUCKET, bucket_ms


class Times:
    def __init__(self, quantile: float) -> None:
        """`quantile`: the one that is asked for, above 0, at most 1."""
        self._quantile = quantile
        self._counts = [0] * (LAST_BUCKET + 1)
        self._at, self._below = 0, 0  # the quantile's bucket when last asked, and the requests in lower ones
        self.total = 0

    def add(self, latency: Mapping[int, int]) -> None:
        """Bucket -> requests of one more look."""
        counts, at = self._counts, self._at
        for index, n in latency.items():
            counts[index] += n
            if index < at:
                self._below += n
        self.total += sum(latency.values())

    def quantile_ms(self) -> float | None:
        """Upper bound of the bucket that holds the quantile; None without a request."""
        if not self.total:
            return None
        rank = math.ceil(self._quantile * self.total)
        while self._below >= rank:
            self._at -= 1
            self._below -= self._counts[self._at]
        while self._below + self._counts[self._at] < rank:
            self._below += self._counts[self._at]
            self._at += 1
        return bucket_ms(self._at)

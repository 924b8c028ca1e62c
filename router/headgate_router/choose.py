"""Which revision answers a request: the split, the caller's override, the sticky point.

Pure: random numbers come from the `Random` passed in. Refuses to look at readiness: a split that moved away from an
unready revision would hide it from its gates, and pour its share on the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from random import Random

from headgate.table import EndpointRoute, RouteRevision
from headgate.traffic import WHOLE


class Unroutable(Exception):
    """No revision for this request; the text is for the caller."""


class Split:
    """Indices in proportion to their shares: exact over every period, in a fresh order each period.

    A period is the shortest run that can hold the shares exactly (95 and 5 of 100: 20 requests). A fixed order would
    alias with callers that alternate kinds of requests; a free draw would need 20 times the requests for the same
    accuracy.
    """

    __slots__ = ("_left", "_period", "_random")

    def __init__(self, shares: Sequence[int], random: Random) -> None:
        unit = math.gcd(*shares)
        if not unit:
            raise ValueError("nothing has a share")
        self._period = [index for index, share in enumerate(shares) for _ in range(share // unit)]
        self._left: list[int] = []
        self._random = random

    @property
    def period(self) -> int:
        """Requests in one period, 1 to 1,000."""
        return len(self._period)

    def next(self) -> int:
        if not self._left:
            self._left = self._period.copy()
            if len(self._left) > 1:
                _shuffle(self._left, self._random.random)
        return self._left.pop()


def _shuffle(indices: list[int], draw: Callable[[], float]) -> None:
    """As Random.shuffle, which costs several times as much. `draw`: 0 <= x < 1."""
    for last in range(len(indices) - 1, 0, -1):
        other = int(draw() * (last + 1))
        indices[last], indices[other] = indices[other], indices[last]


class Chooser:
    """One endpoint's choice under one generation of its route."""

    __slots__ = ("_bounds", "_by_name", "_random", "_revisions", "_split")

    def __init__(self, route: EndpointRoute, random: Random) -> None:
        self._revisions = route.revisions
        self._random = random
        self._by_name: dict[str, tuple[Split, Sequence[RouteRevision]]] = {}
        shares = [revision.per_mille for revision in route.revisions]
        self._split = Split(shares, random) if any(shares) else None
        self._bounds = [sum(shares[: index + 1]) for index in range(len(shares))]

    def live(self) -> RouteRevision:
        """The next of the split. Raises Unroutable: the endpoint is drained."""
        if self._split is None:
            raise Unroutable("no deployment of this endpoint has traffic")
        return self._revisions[self._split.next()]

    def sticky(self, point: int) -> RouteRevision:
        """The revision whose half-open interval holds `point` (0 to 999): the same point, the same revision."""
        for bound, revision in zip(self._bounds, self._revisions, strict=True):
            if point < bound:
                return revision
        raise Unroutable("no deployment of this endpoint has traffic")

    def named(self, override: str) -> RouteRevision:
        """What the header azureml-model-deployment asks for: `NAME`, or exactly one with `NAME@REVISION`.

        A name's live revisions answer in proportion. When none is live, the one listed last does: a candidate that is
        only warmed up or mirrored can be reached before it has traffic.
        Raises Unroutable: nothing is called that.
        """
        name, at, revision = override.partition("@")
        if at:
            for candidate in self._revisions:
                if candidate.deployment == name and candidate.revision == revision:
                    return candidate
            raise Unroutable(f"no revision {override[:100]!r} here")
        if name not in self._by_name:
            self._by_name[name] = self._of_name(name)
        split, revisions = self._by_name[name]
        return revisions[split.next()]

    def _of_name(self, name: str) -> tuple[Split, Sequence[RouteRevision]]:
        every = [revision for revision in self._revisions if revision.deployment == name]
        if not every:
            raise Unroutable(f"no deployment {name[:100]!r} here")
        live = [revision for revision in every if revision.per_mille]
        chosen = live or every[-1:]
        return Split([revision.per_mille or 1 for revision in chosen], self._random), chosen


def sticky_point(endpoint: str, key: bytes) -> int:
    """A caller's place on the scale of 1,000, the same on every worker and after every restart.

    Keyed with the endpoint's name, so that a caller who is early on one endpoint is not early on all.
    """
    hashed = hashlib.blake2b(key, key=hashlib.sha256(endpoint.encode()).digest(), digest_size=8).digest()
    return int.from_bytes(hashed) * WHOLE >> 64

"""Tunnels of this worker: how long one may live, how many are open to which revision, why they ended.

Refuses to keep a label of what is gone: a revision is listed while a tunnel to it is open.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from headgate.table import RouteTable

Key = tuple[str, str, str]  # endpoint, deployment, revision


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one tunnel, in seconds."""

    idle_s: float = 120.0  # without a byte either way; clients that ping do so every 20 to 60 s
    life_s: float = 14_400.0  # whatever moves: a caller comes back by the keys and the split of then
    drain_s: float = 25.0  # after SIGTERM; below the 30 s after which the worker ends all that is left


class Why(StrEnum):
    """What ended a tunnel."""

    CALLER = "caller"  # it said Close first
    MODEL = "model"
    CALLER_LOST = "caller_lost"  # its connection ended without a Close from either side
    MODEL_LOST = "model_lost"
    IDLE = "idle"
    LIFE = "life"
    DRAINED = "drained"  # the worker ended
    FAULT = "fault"  # the worker failed on it


@dataclass(slots=True)
class Tunnels:
    open: Counter[Key] = field(default_factory=Counter)
    ended: Counter[Why] = field(default_factory=Counter)
    _left: set[Key] = field(default_factory=set)

    def opened(self, key: Key) -> None:
        self.open[key] += 1

    def closed(self, key: Key, why: Why) -> None:
        self.ended[why] += 1
        self.open[key] -= 1
        if not self.open[key]:
            del self.open[key]
            self._left.discard(key)

    def left_behind(self, table: RouteTable) -> list[tuple[Key, int]]:
        """Revisions that a new table lists no more, with their open tunnels: those live on. Each is told once."""
        listed = {(name, r.deployment, r.revision) for name, route in table.endpoints.items() for r in route.revisions}
        found = self.open.keys() - listed
        new, self._left = found - self._left, found
        return [(key, self.open[key]) for key in sorted(new)]

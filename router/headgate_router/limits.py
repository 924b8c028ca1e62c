"""How many requests of one revision run at once in this worker, and how many wait for how long.

Azure's rule: m x n run (`max_concurrent_requests_per_instance` x instances), as many again wait at most
`max_queue_wait_ms`; all else is refused at once (429). First come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque


class InFlight:
    """Places for running requests. Not thread-safe: one event loop."""

    __slots__ = ("_queue", "limit", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit  # may be changed while requests run; a lower one takes hold as they leave
        self.running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def try_enter(self) -> bool:
        """Takes a place if one is free and nobody waits for it."""
        if self.running >= self.limit or self._queue:
            return False
        self.running += 1
        return True

    def may_wait(self, wait_s: float) -> bool:
        """Whether `enter` would wait rather than refuse at once."""
        return len(self._queue) < self.limit and wait_s > 0

    async def enter(self, wait_s: float) -> bool:
        """Takes a place, waiting for one at most `wait_s` seconds. False: refused."""
        if self.try_enter():
            return True
        if not self.may_wait(wait_s):
            return False
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await asyncio.wait((place,), timeout=wait_s)
        except asyncio.CancelledError:
            self._give_up(place)
            raise
        if place.done():
            return True
        self._queue.remove(place)
        return False

    def _give_up(self, place: asyncio.Future[None]) -> None:
        if place.done():
            self.leave()
        else:
            self._queue.remove(place)

    def leave(self) -> None:
        """Gives a place back; the one who waited longest gets it."""
        self.running -= 1
        while self._queue and self.running < self.limit:
            self.running += 1
            self._queue.popleft().set_result(None)

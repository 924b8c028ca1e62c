"""Waiting for something to change, from asyncio, when threads change it: the long polls of ops and routers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress


class News:
    """One bell per topic. `ring` may be called from any thread; `wait` ends at the next ring or after a while."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bells: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def ring(self, topic: str) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed, perhaps just now: nobody waits any more
                self._loop.call_soon_threadsafe(self._ring, topic)

    def _ring(self, topic: str) -> None:
        # Whoever waits holds the event itself, so a fresh one for the next waiters loses no ring.
        bell = self._bells.pop(topic, None)
        if bell is not None:
            bell.set()

    def bell(self, topic: str) -> asyncio.Event:
        """The event of the next ring. Take it before looking, so that a change in between is not missed."""
        return self._bells[topic]

    @staticmethod
    async def wait(bell: asyncio.Event, seconds: float) -> None:
        try:
            await asyncio.wait_for(bell.wait(), seconds)
        except TimeoutError:
            return

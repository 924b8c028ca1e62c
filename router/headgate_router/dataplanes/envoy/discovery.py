"""What Envoy asks for and what it is told: REST discovery, each question held until there is news.

A version counts as taken when Envoy names it in its next question; a question that names an older one after the
answer was sent says that Envoy refused it. Refuses to believe a process that is no longer the one it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from headgate_router.dataplanes.envoy.resources import CALLERS, CLUSTER_TYPE, COPIES, ROUTES_TYPE, Resource

CLUSTERS = "clusters"
TYPES = {CLUSTERS: CLUSTER_TYPE, CALLERS: ROUTES_TYPE, COPIES: ROUTES_TYPE}
HOLD_S = 20.0
TRIES = 3  # an answer may also be lost on its way
AGAIN_S = 1.0  # what was refused is offered again


class Refused(Exception):
    """Envoy does not take what it was offered."""


@dataclass(slots=True)
class _Kind:
    version: str = ""  # offered; empty: nothing yet
    resources: Sequence[Resource] = ()
    sent: str = ""
    tries: int = 0  # of sending `version`
    taken: str = ""
    news: asyncio.Event = field(default_factory=asyncio.Event)  # replaced at each change


class Discovery:
    """Not thread-safe: one event loop."""

    def __init__(self) -> None:
        self._kinds = {kind: _Kind() for kind in TYPES}
        self._node = ""

    def expect(self, node: str) -> None:
        """A new process has been started, which knows nothing. Questions of others are not answered."""
        self._node = node
        for one in self._kinds.values():
            one.sent = one.taken = ""
            one.tries = 0
            _tell(one)

    def close(self) -> None:
        """Every question held is answered: nothing new."""
        self.expect("")

    def offer(self, kind: str, version: str, resources: Sequence[Resource]) -> None:
        one = self._kinds[kind]
        one.version, one.resources, one.tries = version, resources, 0
        _tell(one)

    async def taken(self, kind: str, version: str) -> None:
        """Until Envoy says that it took this version. Raises Refused."""
        one = self._kinds[kind]
        await _until(one, lambda: one.taken == version or one.tries > TRIES)
        if one.taken != version:
            raise Refused(f"Envoy refused {kind} {version}; its log says why")

    async def answer(self, kind: str, node: str, has: str) -> Resource | None:
        """For a question of `node`, which has version `has`. None: nothing newer in time."""
        one = self._kinds[kind]
        if node != self._node:
            return None
        if has and has == one.version:
            one.taken = has
            _tell(one)
        wait_s = AGAIN_S if one.sent == one.version and one.tries >= TRIES else HOLD_S
        refused = one.version if wait_s == AGAIN_S else ""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await _until(one, lambda: node != self._node or one.version not in (has, "", refused))
        if one.version in (has, "") or node != self._node:
            return None
        one.tries = one.tries + 1 if one.sent == one.version else 1
        one.sent = one.version
        if one.tries > TRIES:
            _tell(one)
        return {"version_info": one.version, "type_url": TYPES[kind], "resources": list(one.resources)}


def _tell(one: _Kind) -> None:
    one.news.set()
    one.news = asyncio.Event()


async def _until(one: _Kind, true: Callable[[], bool]) -> None:
    while not true():
        await one.news.wait()

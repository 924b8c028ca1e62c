"""The caller's side of a request while it runs: its body, held or streamed, and whether the caller is still there.

A body up to `HELD` bytes is held, so that the request can be repeated and copied; a longer one is streamed as the
model reads it. An ASGI server says that a caller left only to who asks for more of the request: so somebody must.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from functools import partial
from typing import Any

from headgate_router import refusals
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.failures import UpstreamError
from headgate_router.headers import chunk
from headgate_router.refusals import Refusal
from headgate_router.request import CAME_TO_NOTHING, HELD

log = logging.getLogger("headgate.router")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

WATCH_AFTER_S = 0.02  # a model that answers sooner costs no task: its caller gets the answer or is gone


class Body:
    """What was read of a request's body."""

    __slots__ = ("_length", "first", "gone", "more", "whole")

    def __init__(self, first: bytes, length: int | None, *, whole: bool, gone: bool) -> None:
        self.first = first
        self.whole = whole  # there is nothing after `first`
        self.more = not gone and (not whole or len(first) > HELD)  # longer than HELD: streamed
        self.gone = gone  # the caller left
        self._length = length

    @classmethod
    async def read(cls, receive: Receive, length: int | None, most: int) -> Body:
        """Reads to the end, or until there is too much to hold, or more than `most`."""
        message = await receive()
        first: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body", False):
            return cls(first, length, whole=True, gone=False)
        parts = [first]
        size = len(first)
        while message["type"] == "http.request" and message.get("more_body", False) and size <= min(HELD, most):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        gone = message["type"] != "http.request"
        return cls(b"".join(parts), length, whole=not message.get("more_body", False), gone=gone)

    @property
    def chunked(self) -> bool:
        """Whether the rest goes out in chunks, for want of a declared length."""
        return self.more and self._length is None


def _ignore() -> None:
    """Nobody to tell yet."""


class Watch:
    """Sees a caller leave while its answer is made; starts to look only after a while."""

    __slots__ = ("_handle", "_receive", "_task", "on_leave", "sent", "why_not")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._handle: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._arm)
        self.on_leave: Callable[[], None] = _ignore
        self.sent = True  # the model has the whole request
        self.why_not: Refusal | None = None  # it gets no more of it, by our doing

    def _arm(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._guarded(self._until_gone))

    async def _guarded(self, watch: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`watch` is called here: the task may be cancelled before its first step."""
        try:
            await watch()
        except Exception:
            log.exception(CAME_TO_NOTHING, "a model")
            self.why_not = refusals.FAULT
            self.on_leave()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.on_leave()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._task is not None:
            self._task.cancel()


class Pump(Watch):
    """Streams the rest of a long body to the model, then watches."""

    __slots__ = ("_body", "_max", "_size")

    def __init__(self, receive: Receive, body: Body, most: int) -> None:
        self._receive = receive
        self._handle = None
        self._task = None
        self.on_leave = _ignore
        self.sent = False
        self.why_not = None
        self._body = body
        self._max = most
        self._size = len(body.first)

    def start(self, connection: Connection) -> None:
        self._task = asyncio.get_running_loop().create_task(self._guarded(partial(self._run, connection)))

    async def _run(self, connection: Connection) -> None:
        try:
            if not await self._rest(connection):
                self.on_leave()
                return
        except UpstreamError:
            return  # the model stopped reading: what it answered, if anything, is its answer
        self.sent = True
        await self._until_gone()

    async def _rest(self, connection: Connection) -> bool:
        """False: the caller left, or sent more than we take."""
        more = not self._body.whole
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                return False
            data: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            self._size += len(data)
            if self._size > self._max:
                self.why_not = refusals.TOO_LARGE
                return False
            if data:
                await connection.send(chunk(data) if self._body.chunked else data)
        if self._body.chunked:
            await connection.send(b"0\r\n\r\n")
        return True

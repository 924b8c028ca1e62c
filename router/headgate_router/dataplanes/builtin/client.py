"""A small HTTP/1.1 client connection over asyncio: one request at a time, answers as they come, pooled by its owner.

Why not a library: the general clients cost 2 to 100 times the CPU of everything else on the way of a request.
It knows nothing of revisions, retries or counting; it never follows redirects, never decompresses, never keeps a
connection whose answer did not end cleanly.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

import httptools

from headgate_router.dataplanes.builtin import chunks
from headgate_router.dataplanes.builtin.answer import Answer
from headgate_router.dataplanes.builtin.failures import Abandoned, Broken, TimedOut, UpstreamError

HIGH_WATER: Final = 64 * 1024  # bytes of an unread answer before the model is slowed down
MAX_HEAD: Final = 256 * 1024  # bytes of an answer before its head is whole


class Listener:
    """Who runs a request by callbacks. Empty here, as asyncio's protocols are: who waits instead needs none of them.

    A base, not a typing.Protocol: compiled, that is faster.
    """

    __slots__ = ()

    def heard(self) -> None:
        """Something came, or ended: look at `headed`, `take()`, `error` and `done`."""

    def writable(self, yes: bool) -> None:
        """Whether the model reads what it is sent."""

    def passed(self, body: bytes, framed: bytes, now: float) -> None:
        """More of the body, where the connection `passes` whole chunks: what they hold, and as they came."""


class Connection(Answer):
    """`start`, `await head()`, then `read()` until it returns b"" (or `take()` what is there).

    Or `start` with a listener, which takes what came whenever it is called. After that `reusable` says whether another
    request may be started. An asyncio.Protocol by its methods, not by its base: a compiled class has none that is not.
    """

    __slots__ = (
        "_drained",
        "_error",
        "_expires",
        "_fires",
        "_held",
        "_idle_s",
        "_loop",
        "_paused",
        "_timer",
        "_transport",
        "_waiter",
        "before_head",
        "busy",
        "idle_since",
        "listener",
        "open",
        "passes",
        "used",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expires = 0.0  # when an answer is too late, of the monotonic clock
        self._fires = 0.0  # when the timer does
        self.listener: Listener | None = None
        self.open = False
        self.busy = False
        self.used = 0  # requests started on it
        self.idle_since = 0.0  # on its owner's clock
        self._reset(head_only=False)

    def _reset(self, *, head_only: bool) -> None:
        super()._reset(head_only=head_only)
        self.passes = False  # set by the listener: it wants to have whole chunks as they are
        self._paused = False
        self._held = False
        self.before_head = 0  # bytes
        self._idle_s = 0.0
        self._error: UpstreamError | None = None

    @property
    def reusable(self) -> bool:
        """The last answer ended cleanly and the peer keeps the connection."""
        return self.open and self.keep and self.done and self._error is None

    @property
    def error(self) -> UpstreamError | None:
        """Why no more will come; None: nothing is wrong."""
        return self._error

    # What the owner calls.

    def start(
        self,
        head: bytes,
        body: bytes,
        *,
        timeout_s: float,
        head_only: bool = False,
        listener: Listener | None = None,
        now: float | None = None,
    ) -> None:
        """Sends a request; `timeout_s` limits the wait for the answer's head, then each wait for more of it.

        `now`: of the monotonic clock, if its owner has just looked at it.
        """
        self._reset(head_only=head_only)
        self.listener = listener
        self.busy = True
        self.used += 1
        self._idle_s = timeout_s
        self._expire_at((time.monotonic() if now is None else now) + timeout_s)
        if not self.open:
            self._error = Broken("closed while idle")
        else:
            self._transport.write(head + body if body else head)

    async def send(self, chunk: bytes) -> None:
        """More of the request's body; waits while the model does not read."""
        if not self.open:
            raise self._error or Broken("closed while the request was sent")
        self.write(chunk)
        if self._drained is not None:
            await self._drained

    def write(self, chunk: bytes) -> None:
        """More of the request's body, now; the time for an answer counts from the last of it."""
        if self.open:
            self._transport.write(chunk)
            self._expires = max(self._expires, time.monotonic() + self._idle_s)

    def hold(self) -> None:
        """The listener's caller reads no more for now: neither does this, and no time runs."""
        if not self._held and self.open and not self.done:
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """The end of `hold`."""
        if self._held:
            self._held = False
            self._expires = max(self._expires, time.monotonic() + self._idle_s)
            if self.open:
                self._transport.resume_reading()

    async def head(self) -> None:
        """Waits until `status`, `reason` and `fields` are there. Raises UpstreamError."""
        while not self.headed:
            await self._more()

    def take(self) -> bytes:
        """What came of the body since the last call."""
        buffer = self._buffer
        if not buffer:
            return b""
        chunk = buffer[0] if len(buffer) == 1 else b"".join(buffer)
        self._buffer = []
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def read(self) -> bytes:
        """The next piece of the body, as soon as there is one; b"" at the end. Raises UpstreamError."""
        while not self._buffer:
            if self.done:
                return b""
            await self._more()
        return self.take()

    def finish(self, now: float) -> None:
        """The owner is done with this answer; whatever comes now makes the connection useless."""
        self.busy = False
        self.listener = None
        self.idle_since = now
        self.fields = []

    def abort(self, error: UpstreamError | None = None) -> None:
        """Ends the connection at once, so that the model sees its caller leave."""
        if not self.done and self._error is None:
            self._error = error or Abandoned("ended by us")
        self.busy = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.open:
            self.open = False
            self._transport.abort()
        self._wake()

    # Waiting.

    async def _more(self) -> None:
        self._raise()
        self._waiter = self._loop.create_future()
        self._expires = max(self._expires, time.monotonic() + self._idle_s) if self.headed else self._expires
        try:
            await self._waiter
        finally:
            self._waiter = None
        if not self._buffer:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self.listener is not None:
            self.listener.heard()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None and not self.done:
            self._error = error
        self.keep = False
        self._wake()

    def _expire_at(self, when: float) -> None:
        """One timer per connection, moved on only when it fires: a request costs no timer of its own."""
        self._expires = when
        if self._timer is not None and self._fires > when:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._fire_in(when - time.monotonic())

    def _fire_in(self, seconds: float) -> None:
        self._fires = time.monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self.busy or self.done:
            return
        left = self._expires - time.monotonic()
        waits = self._waiter is not None or (self.listener is not None and not self._held)
        if left <= 0 and waits:
            self._fail(TimedOut(f"nothing for {self._idle_s:g} s"))
        else:  # moved on, or it is the caller who is slow now
            self._fire_in(max(left, 0.001) if left > 0 else 0.05)

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self.headed and self._until_eof and exc is None and self._error is None:
            self.done = True
        elif self.busy and not self.done:
            self._fail(Broken("the connection was reset" if exc else "the connection was closed"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        self._wake()

    def eof_received(self) -> None:
        """The model says no more: the connection ends."""

    def pause_writing(self) -> None:
        if self.listener is not None:
            self.listener.writable(False)
        elif self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self.listener is not None:
            self.listener.writable(True)
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def data_received(self, data: bytes) -> None:
        if not self.busy or self.done:
            self.keep = False  # nobody asked: never trust what follows
            self.abort()
            return
        if self._between and self.passes and self.listener is not None:
            body = chunks.whole(data)
            if body is not None:
                now = time.monotonic()
                self._expires = now + self._idle_s
                self.listener.passed(body, data, now)
                return
        first = not self.answered
        self.answered = True
        if first and self._seen_before(data):
            self._wake()
            return
        self._parse(data, first)

    def _parse(self, data: bytes, first: bool) -> None:
        error: Broken | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self.switches(data[upgrade.args[0] :]):
                error = Broken("the model switched protocols unasked")
        except httptools.HttpParserCallbackError:
            raise  # what we note of it failed: no fault of the model's
        except httptools.HttpParserError:
            error = Broken("the model did not answer in HTTP")
        if not self.headed:
            self.before_head += len(data)
            if self.before_head > MAX_HEAD:
                error = error or Broken("the head of the model's answer has no end")
        if error is not None:
            self._fail(error)
            return
        if first:
            self._remember(data)
        self._between = self._coded and not self._in_chunk and data.endswith(b"\r\n")
        if self.listener is not None:
            if self.headed:
                self._expires = time.monotonic() + self._idle_s
            self.listener.heard()
            return
        if self._size > HIGH_WATER and not self._paused and not self.done:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def switches(self, rest: bytes) -> bool:
        """Whether another protocol may follow the head of this answer; `rest`: what came of it."""
        return False

"""A small HTTP/1.1 client connection over asyncio: one request at a time, answers as they come, pooled by its owner.

Why not a library: the general clients cost 2 to 100 times the CPU of everything else on the way of a request.
It knows nothing of revisions, retries or counting; it never follows redirects, never decompresses, never keeps a
connection whose answer did not end cleanly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

import httptools

from headgate_router.dataplanes.builtin import chunks

HIGH_WATER = 64 * 1024  # bytes of an unread answer before the model is slowed down
MAX_HEAD = 256 * 1024  # bytes of an answer before its head is whole
MAX_KNOWN = 4 * 1024  # bytes of a head that is remembered

C = TypeVar("C", bound="Connection")


class UpstreamError(Exception):
    """No whole answer. The text says what happened, without any of the request's content."""


class Unreachable(UpstreamError):
    """No connection: nothing was sent."""


class Broken(UpstreamError):
    """The connection ended, or spoke something else than HTTP, before the answer was whole."""


class TimedOut(UpstreamError):
    """Nothing came for too long."""


class Abandoned(UpstreamError):
    """We ended it ourselves: the caller left."""


class Listener:
    """Who runs a request by callbacks instead of waiting for it. A base, not a protocol: compiled, that is faster."""

    __slots__ = ()

    def heard(self) -> None:
        """Something came, or ended: look at `headed`, `take()`, `error` and `done`."""
        raise NotImplementedError

    def writable(self, yes: bool) -> None:
        """Whether the model reads what it is sent."""
        raise NotImplementedError

    def passed(self, body: bytes, framed: bytes) -> None:
        """More of the body, where the connection `passes` whole chunks: as they came, and what they hold."""
        raise NotImplementedError


class Known:
    """The head of a whole answer of declared length, as it was parsed: the same bytes mean the same again."""

    __slots__ = ("fields", "lines", "raw", "reason", "size", "status")

    def __init__(self, raw: bytes, size: int, status: int, reason: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        self.raw = raw
        self.size = size  # bytes of head and body
        self.status = status
        self.reason = reason
        self.fields = fields
        self.lines: bytes | None = None  # for the listener: what it says to its caller of such an answer


class Connection:
    """`start`, `await head()`, then `read()` until it returns b"" (or `take()` what is there).

    Or `start` with a listener, which takes what came whenever it is called. After that `reusable` says whether another
    request may be started. An asyncio.Protocol by its methods, not by its base: a compiled class has none that is not.
    """

    __slots__ = (
        "_between",
        "_buffer",
        "_coded",
        "_drained",
        "_error",
        "_expires",
        "_head_only",
        "_held",
        "_idle_s",
        "_in_chunk",
        "_informational",
        "_known",
        "_length",
        "_loop",
        "_parser",
        "_paused",
        "_size",
        "_timer",
        "_transport",
        "_until_eof",
        "_waiter",
        "answered",
        "before_head",
        "busy",
        "done",
        "fields",
        "headed",
        "idle_since",
        "keep",
        "known",
        "listener",
        "open",
        "passes",
        "reason",
        "status",
        "used",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expires = 0.0
        self._known: Known | None = None  # of the last answer that came at once
        self.listener: Listener | None = None
        self.open = False
        self.busy = False
        self.used = 0  # requests started on it
        self.idle_since = 0.0  # on its owner's clock
        self._reset(head_only=False)

    def _reset(self, *, head_only: bool) -> None:
        self.status = 0
        self.reason = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.answered = False  # any byte of the answer came
        self.headed = False  # status and fields are complete
        self.done = False
        self.keep = False
        self._head_only = head_only
        self._informational = False
        self._until_eof = False
        self._length = False  # the answer's length is declared
        self._coded = False  # it comes in chunks
        self._in_chunk = False
        self._between = False  # the parser stands between two chunks: of whole ones it need not know
        self.passes = False  # set by the listener: it wants to have whole chunks as they are
        self.known: Known | None = None  # the answer has this head
        self._buffer: list[bytes] = []
        self._size = 0
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
        self, head: bytes, body: bytes, *, timeout_s: float, head_only: bool = False, listener: Listener | None = None
    ) -> None:
        """Sends a request; `timeout_s` limits the wait for the answer's head, then each wait for more of it."""
        self._reset(head_only=head_only)
        self.listener = listener
        self.busy = True
        self.used += 1
        self._idle_s = timeout_s
        self._expire_in(timeout_s)
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
            self._expires = max(self._expires, self._loop.time() + self._idle_s)

    def hold(self) -> None:
        """The listener's caller reads no more for now: neither does this, and no time runs."""
        if not self._held and self.open and not self.done:
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """The end of `hold`."""
        if self._held:
            self._held = False
            self._expires = max(self._expires, self._loop.time() + self._idle_s)
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
        self._expires = max(self._expires, self._loop.time() + self._idle_s) if self.headed else self._expires
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

    def _expire_in(self, seconds: float) -> None:
        """One timer per connection, moved on only when it fires: a request costs no timer of its own."""
        self._expires = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._expires:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._expires, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self.busy or self.done:
            return
        left = self._expires - self._loop.time()
        waits = self._waiter is not None or (self.listener is not None and not self._held)
        if left <= 0 and waits:
            self._fail(TimedOut(f"nothing for {self._idle_s:g} s"))
        else:  # moved on, or it is the caller who is slow now
            self._timer = self._loop.call_later(max(left, 0.05), self._on_timer)

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
                self._expires = self._loop.time() + self._idle_s
                self.listener.passed(body, data)
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
                self._expires = self._loop.time() + self._idle_s
            self.listener.heard()
            return
        if self._size > HIGH_WATER and not self._paused and not self.done:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def switches(self, rest: bytes) -> bool:
        """Whether another protocol may follow the head of this answer; `rest`: what came of it."""
        return False

    def _seen_before(self, data: bytes) -> bool:
        """Whether it is a whole answer with the head of one before: then the parser need not read it.

        A model says the same head again and again, but for its date. The parser stands between two messages then and
        now: it would come to the same result.
        """
        known = self._known
        if known is None or len(data) != known.size or self._head_only or not data.startswith(known.raw):
            return False
        self.known = known
        self.status, self.reason, self.fields = known.status, known.reason, known.fields
        self.headed = self.keep = self.done = True
        if known.size > len(known.raw):
            self._buffer.append(data[len(known.raw) :])
        return True

    def _remember(self, data: bytes) -> None:
        """If the answer came at once, and is whole."""
        size = len(data) - self._size
        if self.done and self.keep and self._length and size <= MAX_KNOWN and data.endswith(b"\r\n\r\n", 0, size):
            known = Known(data[:size], len(data), self.status, self.reason, self.fields)
            self._known = self.known = known

    # httptools callbacks.

    def on_message_begin(self) -> None:
        if self.done:
            self.keep = False

    def on_status(self, reason: bytes) -> None:
        if not self.headed:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:  # else a trailer: dropped, for no caller agreed to any
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._informational = True
            return
        if self.headed:
            return
        self.status = status
        self.headed = True
        # Asked here and not at the end of the message, where the parser always says no.
        self.keep = self._parser.should_keep_alive()
        names = [name for name, _ in self.fields]
        self._coded = b"transfer-encoding" in names
        self._length = b"content-length" in names and not self._coded
        self._until_eof = status not in (204, 304) and not self._length and not self._coded
        if self._head_only:  # no body follows, which the parser cannot know
            self.done = True
            self.keep = False

    def on_chunk_header(self) -> None:
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        self._in_chunk = False

    def on_body(self, chunk: bytes) -> None:
        if not self.done:
            self._buffer.append(chunk)
            self._size += len(chunk)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            self.reason = b""
            self.fields = []
        else:
            self.done = True


async def connect(host: str, port: int, timeout_s: float, made: Callable[[asyncio.AbstractEventLoop], C]) -> C:
    """A new connection, of the kind `made`. Raises Unreachable."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, opened = await loop.create_connection(lambda: cast(asyncio.Protocol, made(loop)), host, port)
    except TimeoutError as error:
        raise Unreachable(f"no connection within {timeout_s:g} s") from error
    except OSError as error:
        raise Unreachable(f"no connection: {error.strerror or 'refused'}") from error
    return cast(C, opened)

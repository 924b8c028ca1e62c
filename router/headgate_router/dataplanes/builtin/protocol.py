"""The caller's connection as a protocol inside uvicorn: scoring requests by callbacks, everything else by uvicorn.

Nothing of a next request is read before the one before it is answered, so what the parser has not seen can be handed
over, byte for byte, to uvicorn's own protocol (documents, metrics, health, targets in absolute form). Limits hold while
bytes come in. Refuses to read on when framing can be understood in two ways.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from headgate_router import headers, refusals
from headgate_router.dataplanes.builtin.doors import Doors
from headgate_router.dataplanes.builtin.ending import Ending
from headgate_router.dataplanes.builtin.exchange import Exchange
from headgate_router.dataplanes.builtin.guard import LINGER_S, MAX_HEAD, Guarded
from headgate_router.dataplanes.builtin.reading import END, OVERHEAD, Known
from headgate_router.dataplanes.builtin.tunnel import End, Tunnel
from headgate_router.place import SWAGGER, place
from headgate_router.request import CAME_TO_NOTHING

log = logging.getLogger("headgate.router")

IDLE_S = 75.0  # longer than load balancers keep theirs, so that the caller's side is the one that closes
MAX_LATER: Final = 64 * 1024  # bytes of further requests that wait while one is answered
MAX_REST: Final = 64 * 1024  # bytes of a refused request's body that are read to keep the connection
MAX_KNOWN: Final = 2 * 1024  # bytes of a head that is remembered, on each connection


def protocol(doors: Doors) -> type[asyncio.Protocol]:
    """What uvicorn's `http=` calls for each connection, bound to what its connections share."""

    def made(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> CallerConnection:
        def other() -> Guarded:
            return Guarded(config=config, server_state=server_state, app_state=app_state, _loop=_loop)

        return CallerConnection(doors, server_state, other)

    return cast(type[asyncio.Protocol], made)


class CallerConnection(Ending):
    """One connection of a caller. At most one request of it is open; the next begins when its answer is out.

    An asyncio.Protocol by its methods, not by its base: a compiled class has none that is not.
    """

    def __init__(self, doors: Doors, state: ServerState, other: Callable[[], Guarded]) -> None:
        super().__init__(doors, state)
        self._open: set[Any] = state.connections
        self._other = other  # uvicorn's protocol, for what is not scoring
        self._client = ""
        self._feeding = False
        self._slow = False  # the caller has not taken what was written
        self._known: Known | None = None  # of the request before
        self._reset()

    def _reset(self) -> None:
        super()._reset()
        self._replied = self._old = self._last = False

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._since = time.monotonic()
        peer = transport.get_extra_info("peername")
        client = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if self._doors.enter(client, len(self._open)):
            self._client = client
            self._open.add(self)
        else:
            self._doors.desk.book.no_endpoint(refusals.CROWDED.status)
            self._ending = True
            self._refuse(refusals.CROWDED)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._open:
            self._open.discard(self)
            self._doors.leave(self._client)
        self._ending = True
        self._later.clear()
        if self._exchange is not None:
            self._exchange.leave()
            self._exchange = None

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        if self._later:
            self._keep_for_later(data)
        else:
            self._feed(data)

    def eof_received(self) -> None:
        """The caller says no more, so that nobody reads our answers either: the connection ends."""

    def pause_writing(self) -> None:
        self._slow = True
        if self._exchange is not None:
            self._exchange.slow(True)

    def resume_writing(self) -> None:
        self._slow = False
        if self._exchange is not None:
            self._exchange.slow(False)
        elif not self._ending and not self._feeding:
            self._go_on()

    # Reading.

    def _feed(self, data: bytes) -> None:
        self._feeding = True
        try:
            while data and not self._ending:
                if self._exchange is not None and not self._whole:
                    data = self._body(data)
                elif self._exchange is None and not self._slow:
                    data = self._head(data)
                else:
                    self._keep_for_later(data)
                    return
        except Exception:
            log.exception(CAME_TO_NOTHING, self._exchange.name if self._exchange is not None else "no endpoint")
            self._fault()
        finally:
            self._feeding = False
            if self._exchange is not None and not self._whole:
                self._since = time.monotonic()

    def _keep_for_later(self, data: bytes) -> None:
        self._later += data
        if len(self._later) > MAX_LATER:
            self.hold()

    def _head(self, data: bytes) -> bytes:
        """Feeds the parser up to the end of a head; what follows it."""
        raw = self._raw
        known = self._known
        if known is not None and not raw and data.startswith(known.raw):
            return self._again(known, data[len(known.raw) :])
        before = bytes(raw[-3:])
        found = (before + data).find(END) if before else data.find(END)
        cut = found + len(END) - len(before) if found >= 0 else len(data)
        piece, rest = (data, b"") if cut == len(data) else (data[:cut], data[cut:])
        if not raw and found < 0 and self._idle_s == IDLE_S:
            self._since = time.monotonic()
        if len(raw) + len(piece) > MAX_HEAD:
            self._fail(refusals.HEAD_TOO_LARGE)
            return b""
        if not self._parsed(piece):
            return b""
        if not self._headed:
            raw += piece
            return rest
        self._begin(bytes(raw) + piece if raw else piece, rest)
        return b"" if self._ending else rest

    def _begin(self, head: bytes, rest: bytes) -> None:
        """A head is whole."""
        parser = self._parser
        version: str = parser.get_http_version()
        method: bytes = parser.get_method()
        if version not in ("1.1", "1.0") or method == b"CONNECT":
            self._fail(refusals.VERSION if version not in ("1.1", "1.0") else refusals.BAD_REQUEST)
            return
        path, _, query = self._url.partition(b"?")
        suffix = self._doors.suffix
        name, below = place(path, headers.find(self._fields, b"host") if suffix else b"", suffix)
        if not name or path[:1] != b"/" or (below == SWAGGER and method == b"GET"):
            self._hand_over(head + rest)
            return
        self._old = version == "1.0"
        self._keep = self._keep and not self._old
        asked = headers.read(self._fields)
        made = Tunnel if asked.websocket and self._upgrade and not self._old else Exchange
        exchange = made(self._doors.desk, self, name, below, method, query, self._fields, version, asked)
        self._rest = None if asked.coded else asked.length or 0
        self._known = None
        if self._upgrade:  # the parser takes the message to end here
            asked.ambiguous |= asked.coded
            self._counts = True
            self._whole = not self._rest
        elif self._keep and not asked.coded and len(head) <= MAX_KNOWN:
            self._known = Known(head, name, below, method, query, self._fields, asked)
        self._open_with(exchange)

    def _again(self, known: Known, rest: bytes) -> bytes:
        """A head as that of the request before; what follows it.

        Callers say the same head again and again. The parser stands between two messages then and now, and would come
        to the same result; it does not see this message at all.
        """
        self._headed = self._counts = True
        self._rest = known.asked.length or 0
        self._whole = not self._rest
        self._open_with(
            Exchange(
                self._doors.desk, self, known.name, known.below, known.method, known.query, known.fields, "1.1",
                known.asked,
            )
        )  # fmt: skip
        return b"" if self._ending else rest

    def _open_with(self, exchange: Exchange) -> None:
        self._exchange = exchange
        exchange.head(complete=self._whole)
        if self._replied and self._whole and not self._ending:
            self._next()

    def _body(self, data: bytes) -> bytes:
        """Feeds the parser up to the end of a body; what follows it."""
        if self._rest is None:
            fed = self._chunked(data)
        else:
            fed = min(len(data), self._rest)
            self._rest -= fed
            self._counted(data if fed == len(data) else data[:fed])
        exchange, pieces, self._pieces = self._exchange, self._pieces, []
        if self._ending or exchange is None:
            return b""
        if self._rest is None:
            self._overhead += OVERHEAD * sum(map(len, pieces)) - fed
            if self._overhead < 0:  # endless chunk extensions, or trailers
                self._fail(refusals.BAD_REQUEST)
                return b""
        for piece in pieces:
            exchange.body(piece)
        if self._whole and not self._ending:
            exchange.complete()
            if self._replied and not self._ending:
                self._next()
        return b"" if self._ending else data[fed:]

    def _hand_over(self, data: bytes) -> None:
        """Not ours: uvicorn's protocol gets the connection, with every byte of this request and what followed."""
        self._ending = True
        client, doors = self._client, self._doors
        self._open.discard(self)
        other = self._other()
        other.on_lost = lambda: doors.leave(client)
        self._transport.set_protocol(other)
        other.connection_made(self._transport)
        other.data_received(data)
        if self._draining:
            other.shutdown()

    def surrender(self, to: End) -> tuple[asyncio.Transport, bytes, bool]:
        """The request became a tunnel: `to` gets the connection, and what came meanwhile is handed out; the last says
        whether the caller has not taken what was written.
        """
        self._ending = True
        self._exchange = None
        self._open.discard(self)
        self._open.add(to)
        later = bytes(self._later)
        self._later.clear()
        self._transport.set_protocol(to)
        self.release()
        if self._draining:
            to.shutdown()
        return self._transport, later, self._slow

    def surrendered(self, to: End) -> None:
        """That connection has ended."""
        self._open.discard(to)
        self._doors.leave(self._client)

    # What a request asks of its connection.

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def date(self) -> bytes:
        return self._doors.date(self._state.default_headers)

    def stays(self, *, last: bool) -> bool:
        rest = 0 if self._whole else self._rest
        self._last = last
        self._keep = self._keep and not (self._draining or last) and rest is not None and rest <= MAX_REST
        return self._keep

    def answered(self) -> None:
        self._replied = True
        if not self._keep:
            self._finish()
        elif self._whole:
            if not self._feeding:
                self._next()
        else:
            self.release()

    def _next(self) -> None:
        """The request is read and answered."""
        self._exchange = None
        self._reset()
        self._idle_s = IDLE_S
        self._since = time.monotonic()
        self.release()
        if self._draining:
            asyncio.get_running_loop().call_later(LINGER_S, self._close_idle)
        if not self._feeding and not self._slow:
            self._go_on()

    def _go_on(self) -> None:
        """Reads what came meanwhile."""
        self.release()
        if self._later:
            later = bytes(self._later)
            self._later.clear()
            self._feed(later)

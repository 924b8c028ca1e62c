"""uvicorn's HTTP protocol with the limits it lacks: bytes and seconds of a request's head, seconds of a stalled body.

Kept apart from the data path: on another ASGI server these limits are that server's. It touches only hooks of
uvicorn's protocol that a test holds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger("headgate.router")

MAX_HEAD = 64 * 1024  # bytes; a longer one is refused (431) while it is read
HEAD_S = 15.0  # from a connection's or a head's first byte to the end of the head
BODY_S = 30.0  # without a byte of a request body that is not whole
SWEEP_S = 1.0
LINGER_S = 1.0  # a drained connection may still bring a request that is on its way

_FRAMING = (b"content-length", b"transfer-encoding")
_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: 74\r\n\r\n"
    b'{"error": {"code": "head-too-large", "message": "more than 64 KiB of head"}}'
)


class Guarded(HttpToolsProtocol):
    """Counts what came of a head; its age is looked at by `sweep`, with no timer per request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0  # bytes of a head that is not whole yet
        self._since = time.monotonic()  # when that head, or the connection, began
        self._complete = False  # a head was completed by the bytes fed last
        self._awaits_head = True
        self._draining = False
        self.on_lost: Callable[[], None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        self._complete = False
        if not self._awaits_head:
            self._since = time.monotonic()
        super().data_received(data)
        if self._complete or not self._awaits_head:
            self._head = 0
            return
        self._head += len(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.transport.write(_TOO_LONG)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._awaits_head:
            self._since = time.monotonic()
        self._awaits_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._awaits_head:  # else a trailer: it would be taken for a field of the head
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._awaits_head = False
        self._complete = True
        if self.parser.should_upgrade() and any(name in _FRAMING for name, _ in self.headers):
            # The parser takes what follows for another protocol, not for a body: it could be read as a request.
            raise ValueError("an upgrade with a body")
        super().on_headers_complete()
        if self._draining and self.cycle is not None:
            self.cycle.keep_alive = False  # its task has not begun: the answer will say `connection: close`

    def shutdown(self) -> None:
        """Drains: an idle connection is not closed in the face of a request that is already on its way."""
        self._draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_S, self._close_idle)
        else:
            self.cycle.keep_alive = False

    def _close_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def expired(self, now: float) -> bool:
        """Whether the caller has been sending a head, or a body, for too long."""
        if self._awaits_head:
            return now - self._since > HEAD_S
        reads = self.cycle is not None and self.cycle.more_body and not self.flow.read_paused
        return bool(reads) and now - self._since > BODY_S

    def expire(self) -> None:
        self.transport.abort()


def bound(listening: socket.socket, seconds: float) -> None:
    """Ends each connection it accepts when the caller's machine has confirmed nothing of what was sent for so long.

    A caller may be gone without a word, and an answer of few bytes never fill a buffer. Linux; elsewhere the system's
    own limits hold, which are a quarter of an hour and more.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, option, round(seconds * 1000))


class Expires(Protocol):
    """A connection whose caller may take too long."""

    def expired(self, now: float) -> bool: ...

    def expire(self) -> None:
        """Ends it."""


async def sweep(connections: Callable[[], Iterable[Expires]]) -> None:
    """Ends connections that take too long; runs until cancelled."""
    while True:
        await asyncio.sleep(SWEEP_S)
        now = time.monotonic()
        for connection in list(connections()):
            try:
                if connection.expired(now):
                    connection.expire()
            except Exception:  # the others are looked at all the same
                log.exception("a connection that took too long was not ended")

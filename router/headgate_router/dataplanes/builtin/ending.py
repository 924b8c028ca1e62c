"""How a caller's connection ends: by a refusal, by a drain, or because the caller took too long.

Refuses to end one in the face of an answer: what is written goes out, and what the caller still sends is read for a
while.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time

from uvicorn.server import ServerState

from headgate_router import refusals
from headgate_router.dataplanes.builtin.doors import Doors
from headgate_router.dataplanes.builtin.exchange import Exchange
from headgate_router.dataplanes.builtin.guard import BODY_S, HEAD_S, LINGER_S
from headgate_router.dataplanes.builtin.reading import Reading
from headgate_router.refusals import Refusal

STALL_S = 60.0  # an answer of which the caller reads nothing for so long is ended


class Ending(Reading):
    """What of a connection its end is about; what leads there is `protocol`'s."""

    def __init__(self, doors: Doors, state: ServerState) -> None:
        super().__init__()
        self._doors = doors
        self._state = state
        self._transport: asyncio.Transport
        self._since = 0.0  # monotonic: when what is awaited now was begun to be awaited
        self._idle_s = HEAD_S
        self._draining = False
        self._ending = False  # what still comes is thrown away
        self._held = False
        self._later = bytearray()
        self._unread = 0  # bytes of answers the caller had not taken at the last look
        self._stalled = 0.0  # since when that is so
        self._exchange: Exchange | None = None
        self._old = False  # HTTP/1.0
        self._last = False  # we end the connection, not the caller

    def _fail(self, refusal: Refusal) -> None:
        """What came cannot be read as a request: says so, unless an answer was begun, and ends."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            self._doors.desk.book.no_endpoint(refusal.status)
        elif exchange.ended:
            self._finish()
            return
        else:
            begun = exchange.begun
            exchange.leave(refusals.CLIENT_GONE if begun else refusal.status)
            if begun:
                self.abort()
                return
        self._refuse(refusal)

    def _fault(self) -> None:
        """What nobody expected was raised while bytes were read, and is logged."""
        if self._exchange is not None:
            self._exchange.fault()
        elif self._ending:
            self._transport.abort()
        else:
            self._doors.desk.book.no_endpoint(refusals.FAULT.status)
            self._refuse(refusals.FAULT)

    def _refuse(self, refusal: Refusal) -> None:
        body = refusal.body()
        fields = [*self._state.default_headers, (b"content-type", b"application/json"), *refusal.fields]
        head = b"HTTP/1.1 %d \r\n%b" % (refusal.status, b"".join([b"%b: %b\r\n" % field for field in fields]))
        self._transport.write(b"%bconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self._finish()

    def _finish(self) -> None:
        """Ends the connection when all is written; what the caller is still sending is read for a while, or it might
        lose the answer.
        """
        transport = self._transport
        self._ending = True
        self._later.clear()
        if (self._whole and not self._last) or transport.is_closing():
            transport.close()
            return
        self.release()
        if transport.can_write_eof():
            transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_S, transport.close)

    def shutdown(self) -> None:
        """Drains: an idle connection is not closed in the face of a request that is already on its way."""
        self._draining = True
        if self._exchange is None:
            asyncio.get_running_loop().call_later(LINGER_S, self._close_idle)

    def _close_idle(self) -> None:
        if self._exchange is None:
            self._transport.close()

    # What its request may ask of it on the way there.

    def hold(self) -> None:
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        if self._held:
            self._held = False
            self._since = time.monotonic()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def abort(self) -> None:
        self._ending = True
        if self._old:  # the end of the connection may be the end of the answer: only a reset says that it is not
            sock = self._transport.get_extra_info("socket")
            if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()

    # Time, looked at by `guard.sweep`.

    def expired(self, now: float) -> bool:
        """Whether the caller has been silent, or has not read, for too long."""
        if self._transport.is_closing():
            unread = self._transport.get_write_buffer_size()
        elif self._exchange is None:
            return now - self._since > (HEAD_S if self._raw else self._idle_s)
        elif not self._whole and not self._held:
            return now - self._since > BODY_S
        else:
            unread = self._transport.get_write_buffer_size()
        if not unread or unread != self._unread:
            self._unread, self._stalled = unread, now
            return False
        return now - self._stalled > STALL_S

    def expire(self) -> None:
        """Says why, if a request was begun and nothing of an answer."""
        silent = self._exchange is None and not self._raw
        begun = self._exchange is not None and (self._exchange.begun or self._whole)
        if self._ending or silent or begun or self._transport.is_closing():
            self._transport.abort()
        else:
            self._fail(refusals.TOO_SLOW)

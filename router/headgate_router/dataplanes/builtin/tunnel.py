"""WebSocket: an upgrade is a request until the model has switched protocols; from then on two connections joined.

The handshake is an `Exchange`: keys, split, override, places, time and counting are those of any request, and what is
not a switch is answered as any answer. Of a tunnel's bytes only the ends of frames are looked at; they are passed on
as fast as the slower side takes them. Refuses to copy a tunnel to a mirror, to send a handshake twice, and to use a
connection a second time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol, cast

from headgate.evidence import Outcome
from headgate_router import headers, refusals
from headgate_router.dataplanes.builtin.caller import Caller
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.exchange import Exchange
from headgate_router.dataplanes.builtin.frames import GOING_AWAY, GOING_AWAY_MASKED, Frames
from headgate_router.mirror import WEBSOCKET
from headgate_router.refusals import Refusal
from headgate_router.request import CAME_TO_NOTHING, Desk
from headgate_router.routes import LiveRoute
from headgate_router.tunnels import Key, Why
from headgate_router.upstream import Message, Replica

log = logging.getLogger("headgate.router")

_CUT = (Why.MODEL_LOST, Why.FAULT)
LINGER_S = 10.0  # what an ended tunnel has written, and nobody takes in that time, is thrown away
_SWITCH = b"connection: Upgrade\r\nupgrade: websocket\r\n"
_SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n"
_LENGTH = b"content-length"


class Switching(Connection):
    """A connection to a model that may become a tunnel."""

    __slots__ = ("switched", "unread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.switched = False
        self.unread = b""  # came after the head of a 101

    def on_headers_complete(self) -> None:
        upgrade = headers.find(self.fields, b"upgrade").strip().lower()
        if self._parser.should_upgrade() and upgrade == b"websocket":
            self.status, self.headed, self.switched = 101, True, True
        else:
            super().on_headers_complete()

    def switches(self, rest: bytes) -> bool:
        self.unread = rest
        return self.switched

    def surrender(self, to: asyncio.Protocol) -> asyncio.Transport:
        """The transport, which speaks to `to` from now on."""
        self.open = False
        self.listener = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.set_protocol(to)
        return self._transport


class Surrenders(Protocol):
    """The caller's connection, when its request becomes a tunnel."""

    def surrender(self, to: End) -> tuple[asyncio.Transport, bytes, bool]:
        """Its transport, which speaks to `to` from now on; what came meanwhile; whether the caller reads too slowly."""

    def surrendered(self, to: End) -> None:
        """That connection has ended."""


class Tunnel(Exchange):
    __slots__ = ("far", "first", "joined", "key", "moved", "near", "over")

    takes_websocket = True

    def __init__(
        self,
        shared: Desk,
        caller: Caller,
        name: str,
        rest: bytes,
        method: bytes,
        query: bytes,
        fields: Sequence[headers.Field],
        version: str,
        asked: headers.Asked,
    ) -> None:
        super().__init__(shared, caller, name, rest, method, query, fields, version, asked)
        self.key: Key = ("", "", "")
        self.near: End  # the caller's
        self.far: End  # the model's
        self.joined: float | None = None  # monotonic; None: it is a handshake yet
        self.moved = 0.0  # monotonic: when the last byte came from either side
        self.first: Why | None = None  # who began to end it, and how
        self.over = False

    # The handshake, where it differs from a request.

    def admit(self) -> Refusal | None:
        refusal = super().admit()
        if refusal is not None or self.live is None:
            return refusal
        if not any(revision.route.websocket for revision in self.live.revisions.values()):
            return refusals.NO_WEBSOCKET
        has_body = self.asked.coded or self.asked.length
        return refusals.BAD_REQUEST if self.method != b"GET" or has_body else None

    def choose(self) -> Refusal | None:
        refusal = super().choose()
        if refusal is None and self.revision is not None and not self.revision.route.websocket:
            self.revision = None
            return refusals.NO_WEBSOCKET
        return refusal

    def message(self, body: bytes, *, more: bool) -> Message | None:
        message = super().message(body, more=more)
        return message.adding(_SWITCH) if message is not None else None

    def _why_not(self, live: LiveRoute, *, more: bool) -> str:
        return WEBSOCKET

    def _attempt(self, now: float) -> None:
        self.attempts.max_idle_s = 0.0
        self.attempts.may_repeat = False
        super()._attempt(now)

    async def _opened(self, replica: Replica, timeout_s: float) -> Connection:
        return await replica.connect(Switching, timeout_s)

    def _answer(self, connection: Connection) -> None:
        if isinstance(connection, Switching) and connection.switched:
            self._join(connection)
        else:
            connection.keep = False
            super()._answer(connection)

    # The tunnel.

    def _join(self, connection: Switching) -> None:
        """The model has switched: says so to the caller, and joins the two connections."""
        if self.revision is None:
            return
        self.begun = True
        self.status = 101
        self.replica.answered()
        self.first_ms = self.elapsed()
        date = self.caller.date()
        self.near, self.far = End(self), End(self)
        near, early, slow = cast(Surrenders, self.caller).surrender(self.near)
        far = connection.surrender(self.far)
        self.connection = None
        self.near.begin(near, self.far)
        self.far.begin(far, self.near)
        self.joined = self.moved = time.monotonic()
        self.key = (self.name, self.revision.route.deployment, self.revision.route.revision)
        self.shared.book.tunnels.opened(self.key)
        if slow:
            far.pause_reading()
        fields = [field for field in headers.of_answer(connection.fields) if field[0] != _LENGTH]
        head = b"".join((_SWITCHED, date, headers.lines(fields), self.said_lines(), _SWITCH, b"\r\n"))
        near.write(head)
        if connection.unread:
            self.far.data_received(connection.unread)
        if early:
            self.near.data_received(early)

    def end(self, why: Why) -> None:
        """Once. What is written still goes out."""
        if self.over or self.ended:
            return
        self.over = True
        if self.first is None:
            self._go_away()
        why = self.first or why
        if why is Why.CALLER_LOST:
            self.left()
        else:
            self.outcome, self.status = Outcome.TRUNCATED if why in _CUT else Outcome.OK, 101
        self._uncount()
        self.shared.book.tunnels.closed(self.key, why)
        self._close()
        for side in (self.near, self.far):
            side.transport.close()
        asyncio.get_running_loop().call_later(LINGER_S, self._abort)

    def fault(self) -> None:
        if self.joined is None or self.ended:
            super().fault()
            return
        self.first = Why.FAULT
        self.end(Why.FAULT)

    def _go_away(self) -> None:
        """It is we who end it: says so to both, unless that would break into a frame."""
        for side, said in ((self.near, GOING_AWAY), (self.far, GOING_AWAY_MASKED)):
            if side.other.frames.between and not side.transport.is_closing():
                side.transport.write(said)

    def _abort(self) -> None:
        for side in (self.near, self.far):
            side.transport.abort()


class End(asyncio.Protocol):
    """One side of a tunnel. The caller's also stands where its connection stood: it drains, and its time is watched."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self.transport: asyncio.Transport
        self.other: End
        self.frames = Frames()  # that come from here
        self._silent = False  # nothing more comes from here
        self._due: asyncio.TimerHandle | None = None

    def begin(self, transport: asyncio.Transport, other: End) -> None:
        self.transport = transport
        self.other = other

    def data_received(self, data: bytes) -> None:
        tunnel = self.tunnel
        try:
            tunnel.moved = time.monotonic()
            self.frames.feed(data)
            if tunnel.first is None and self.frames.closed:
                tunnel.first = Why.CALLER if self is tunnel.near else Why.MODEL
            if not self.other.transport.is_closing():
                self.other.transport.write(data)
        except Exception:
            log.exception(CAME_TO_NOTHING, tunnel.name)
            tunnel.fault()

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """It has nothing more to say, and may still listen. TLS knows no such half: there it is the end."""
        self._silent = True
        if self.tunnel.ended:
            return False
        halves = self.transport.can_write_eof() and self.other.transport.can_write_eof()
        if self.other._silent or not halves:
            self._lost()
            return False
        self._note()
        self.other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self is self.tunnel.near:
            cast(Surrenders, self.tunnel.caller).surrendered(self)
            if self._due is not None:
                self._due.cancel()
        self._lost()

    def _note(self) -> Why:
        """Its bytes ended: without a Close from either side, that is no good end."""
        tunnel = self.tunnel
        if tunnel.first is None and not tunnel.over:
            tunnel.first = Why.CALLER_LOST if self is tunnel.near else Why.MODEL_LOST
        return tunnel.first or Why.DRAINED

    def _lost(self) -> None:
        self.tunnel.end(self._note())

    # As one of the worker's connections.

    def shutdown(self) -> None:
        """Drains: the two have a while to part by themselves."""
        if self._due is None:
            after = self.tunnel.shared.tunnel_limits.drain_s
            self._due = asyncio.get_running_loop().call_later(after, self.tunnel.end, Why.DRAINED)

    def expired(self, now: float) -> bool:
        return self._too_long(now) is not None

    def expire(self) -> None:
        self.tunnel.end(self._too_long(time.monotonic()) or Why.IDLE)

    def _too_long(self, now: float) -> Why | None:
        tunnel, limits = self.tunnel, self.tunnel.shared.tunnel_limits
        if tunnel.over or tunnel.joined is None:
            return None
        if now - tunnel.moved > limits.idle_s:
            return Why.IDLE
        return Why.LIFE if now - tunnel.joined > limits.life_s else None

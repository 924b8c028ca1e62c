"""Replicas: which one is asked, which one rests after it refused, and when a request may be asked again.

Least in-flight of two random replicas. Ejection is a short rest, never a verdict: when every replica rests, they are
asked all the same. It never moves the split: that is `choose`, which does not look here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final
from urllib.parse import urlsplit

from headgate_kit import identity
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.dial import C, connect, meet
from headgate_router.dataplanes.builtin.failures import Broken, TimedOut, Unreachable, Untrusted, UpstreamError
from headgate_router.trust import Trust

CONNECT_TIMEOUT_S = 2.0
REST_S = 0.5  # a replica that refused is left alone for so long, twice as long each further time
MAX_REST_S = 8.0
MAX_IDLE: Final = 64  # pooled connections per replica
SURE_IDLE_S: Final = 1.0  # what cannot be repeated goes out on a connection idle no longer: models close idle ones
FOREVER_S: Final = float("inf")
ATTEMPTS: Final = 3  # per request; of these at most one after an attempt that may have been processed


class NoReplica(UpstreamError):
    """The revision has no replica at all."""


class Message:
    """A request as the model gets it, less the Host field, which is the replica's. Never changed.

    Not a dataclass: each request makes one, and a frozen one costs ten times as much to make.
    """

    __slots__ = ("body", "fields", "head_only", "start_line")

    def __init__(self, start_line: bytes, fields: bytes, body: bytes, head_only: bool = False) -> None:
        self.start_line = start_line  # `POST /score HTTP/1.1\r\n`
        self.fields = fields  # each with its line end
        self.body = body  # the whole of it, or what is known yet of one that is streamed
        self.head_only = head_only  # a HEAD request: no body comes back

    def adding(self, fields: bytes) -> Message:
        """The same with more fields."""
        return Message(self.start_line, self.fields + fields, self.body, self.head_only)

    def head(self, host: bytes) -> bytes:
        return b"%bhost: %b\r\n%b\r\n" % (self.start_line, host, self.fields)


class Replica:
    """One address and its pooled connections."""

    __slots__ = (
        "_failures",
        "_idle",
        "_rests_until",
        "_secure",
        "_trust",
        "address",
        "host",
        "in_flight",
        "name",
        "port",
        "retired",
    )

    def __init__(self, address: str, trust: Trust | None = None) -> None:
        """`trust`: for addresses that begin with https."""
        parts = urlsplit(address)
        self._secure = parts.scheme == "https"
        self._trust = trust or Trust()
        self.address = address
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self._secure else 80)
        self.name = parts.netloc.rpartition("@")[2].encode("ascii", "replace")
        self.in_flight = 0
        self.retired = False  # no longer in the table: connections are closed when their answer ends
        self._idle: list[Connection] = []
        self._failures = 0
        self._rests_until = 0.0

    def rests(self, now: float) -> bool:
        return now < self._rests_until

    def failed(self, now: float) -> None:
        """It refused or reset: rest."""
        self._rests_until = now + min(MAX_REST_S, REST_S * 2**self._failures)
        self._failures = min(self._failures + 1, 10)

    def answered(self) -> None:
        self._failures = 0
        self._rests_until = 0.0

    def pooled(self, max_idle_s: float, now: float) -> Connection | None:
        """A kept connection that was idle no longer than that."""
        oldest = now - max_idle_s
        while self._idle and max_idle_s:
            pooled = self._idle.pop()
            if pooled.open and pooled.idle_since >= oldest:
                return pooled
            pooled.abort()
        return None

    async def connection(self, *, max_idle_s: float, timeout_s: float) -> Connection:
        """A pooled connection that was idle no longer than that, or a new one. Raises Unreachable."""
        pooled = self.pooled(max_idle_s, time.monotonic())
        return pooled or await self.connect(Connection, timeout_s)

    async def connect(self, made: Callable[[asyncio.AbstractEventLoop], C], timeout_s: float) -> C:
        """A new connection, of that kind. Raises Unreachable."""
        within_s = min(CONNECT_TIMEOUT_S, max(timeout_s, 0.001))
        if not self._secure:
            return await connect(self.host, self.port, within_s, made)
        try:
            async with asyncio.timeout(max(timeout_s, 0.001)):  # of all its steps
                return await meet(self.host, self.port, within_s, made, self._trust.context(), identity.NAME)
        except TimeoutError as error:
            raise Unreachable(f"no TLS within {timeout_s:g} s") from error
        except Untrusted as error:
            self._trust.note(self.address, str(error))
            raise

    async def warm(self, timeout_s: float) -> None:
        """Makes sure that somebody listens, and that a connection is pooled. Raises Unreachable."""
        self._idle.append(await self.connection(max_idle_s=FOREVER_S, timeout_s=timeout_s))

    def give_back(self, connection: Connection) -> None:
        """Pools a connection whose answer ended cleanly, ends any other."""
        if connection.reusable and not self.retired and len(self._idle) < MAX_IDLE:
            connection.finish(time.monotonic())
            self._idle.append(connection)
        else:
            connection.abort()

    def retire(self) -> None:
        self.retired = True
        while self._idle:
            self._idle.pop().abort()


class Answering:
    """A replica that has begun to answer. Its owner reads `connection`, then closes this, once."""

    __slots__ = ("_replica", "connection")

    def __init__(self, replica: Replica, connection: Connection) -> None:
        self._replica = replica
        self.connection = connection

    def close(self) -> None:
        self._replica.in_flight -= 1
        self._replica.give_back(self.connection)


class Replicas:
    """The replicas of one revision."""

    __slots__ = ("_random", "every")

    def __init__(self, every: Sequence[Replica], random: Random) -> None:
        self.every = every
        self._random = random

    def pick(self, avoid: Replica | None = None) -> Replica:
        """Raises NoReplica."""
        every = self.every
        if len(every) == 1:
            return every[0]
        if not every:
            raise NoReplica("no replica is ready")
        now = time.monotonic()
        able = [replica for replica in every if replica is not avoid and not replica.rests(now)]
        able = able or [replica for replica in every if replica is not avoid] or list(every)
        if len(able) == 1:
            return able[0]
        first = int(self._random.random() * len(able))
        second = int(self._random.random() * (len(able) - 1))
        one, other = able[first], able[second + (second >= first)]
        return one if one.in_flight <= other.in_flight else other


class Attempts:
    """Which replica is asked, and whether another one may be: the rules, without the asking."""

    __slots__ = ("_insists", "_left", "avoid", "max_idle_s", "may_repeat", "replicas")

    def __init__(self, replicas: Replicas, *, may_repeat: bool, streams: bool, insists: bool = True) -> None:
        """`streams`: the request's body is not held, and cannot be sent twice. `insists`: it is sent again even when
        a new connection broke, and not merely one that the model had closed.
        """
        self.replicas = replicas
        self._insists = insists
        self.may_repeat = may_repeat and not streams
        self.avoid: Replica | None = None
        self._left = ATTEMPTS
        self.max_idle_s = FOREVER_S if self.may_repeat else SURE_IDLE_S
        if streams:
            self.max_idle_s = 0.0  # a kept connection may be stale

    def pick(self) -> Replica:
        """The replica of the next attempt. Raises NoReplica."""
        self._left -= 1
        return self.replicas.pick(self.avoid)

    def unreachable(self, replica: Replica) -> bool:
        """It took no connection, so it surely did not run the request: may another be asked?"""
        replica.failed(time.monotonic())
        self.avoid = replica
        return self._left > 0 and len(self.replicas.every) > 1

    def broke(self, replica: Replica, connection: Connection | None) -> bool:
        """The connection ended: may the request, which may have run, be sent again? Yes, once, if nothing of an answer
        came and running twice does no harm.
        """
        if connection is None or connection.answered:
            return False
        if connection.used == 1:  # not merely a kept connection that the model had closed
            replica.failed(time.monotonic())
            if not self._insists:
                return False
        if not self.may_repeat or not self._left:
            return False
        self.may_repeat = False
        self.max_idle_s = 0.0
        self.avoid = replica
        return True


class Ask:
    """One request to a revision, on as many replicas as it takes and may take."""

    __slots__ = ("_attempts", "_message", "_on_start", "abandoned", "current")

    def __init__(
        self,
        replicas: Replicas,
        message: Message,
        *,
        may_repeat: bool,
        insists: bool = True,
        on_start: Callable[[Connection], None] | None = None,
    ) -> None:
        """`insists`: see `Attempts`. `on_start` is called when the head is out, to send the rest of a streamed body;
        then nothing is repeated.
        """
        self._attempts = Attempts(replicas, may_repeat=may_repeat, streams=on_start is not None, insists=insists)
        self._message = message
        self._on_start = on_start
        self.current: Connection | None = None  # what a leaving caller aborts
        self.abandoned = False

    async def answer(self, timeout_s: float) -> Answering:
        """Waits for the head of an answer.

        Raises: NoReplica; Unreachable: surely not processed; Broken, TimedOut, Abandoned: it may have been.
        """
        ends = time.monotonic() + timeout_s
        while True:
            replica = self._attempts.pick()
            try:
                return await self._once(replica, ends)
            except Unreachable:
                if not self._attempts.unreachable(replica):
                    raise
            except Broken:
                if self.abandoned or not self._attempts.broke(replica, self.current):
                    raise

    async def _once(self, replica: Replica, ends: float) -> Answering:
        replica.in_flight += 1
        connection = None
        try:
            left = ends - time.monotonic()
            if left <= 0:
                raise TimedOut("no time left")
            connection = self.current = await replica.connection(max_idle_s=self._attempts.max_idle_s, timeout_s=left)
            message = self._message
            connection.start(message.head(replica.name), message.body, timeout_s=left, head_only=message.head_only)
            if self.abandoned:
                connection.abort()
            elif self._on_start is not None:
                self._on_start(connection)
            await connection.head()
            replica.answered()
        except BaseException:
            replica.in_flight -= 1
            if connection is not None:
                connection.abort()
            raise
        return Answering(replica, connection)

    def abandon(self) -> None:
        """The caller left: the model sees it at once."""
        self.abandoned = True
        if self.current is not None:
            self.current.abort()

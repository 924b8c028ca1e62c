"""Copies on their way to a mirror: bounded in number, bytes and time, and whatever becomes of one no caller is told.

A copy goes over connections of its own, after the caller has been answered, by callbacks as a request does: a task for
each cost more than all else on the way of a request. Copies that do not run are counted with the reason, and so are
those that a fault of ours ends: it costs the copy, and neither the request nor its place among copies.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Final

from headgate.evidence import Outcome, Pair, PairKind
from headgate_router import mirror
from headgate_router.count import Book
from headgate_router.dataplanes.builtin.client import Connection, Listener
from headgate_router.dataplanes.builtin.failures import Broken, TimedOut, Unreachable, UpstreamError
from headgate_router.mirror import Copy, Seen, marked
from headgate_router.streams import Stream, opened
from headgate_router.upstream import Attempts, NoReplica, Replica

log = logging.getLogger("headgate.router")

MAX_RUNNING = 64  # copies at once, per worker
MAX_WAITING: Final = 64
MAX_BYTES: Final = 32 * 1024 * 1024  # of request and answer bodies held for copies
MAX_SECONDS = 600.0  # a copy that streams for longer is ended
FAULT = "a copy to %s came to nothing"


class Mirrors:
    """This worker's copies. Not thread-safe: one event loop."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._waiting: deque[Copy] = deque()
        self._running: set[Copying] = set()
        self._held = 0
        self._none: asyncio.Future[None] | None = None  # whoever waits for the last one

    @property
    def running(self) -> int:
        return len(self._running)

    def offer(self, copy: Copy) -> None:
        """Sends it, or drops it. Never waits."""
        if self._held + copy.held > MAX_BYTES:
            self._drop(copy, mirror.BUSY)
        elif len(self._running) < MAX_RUNNING:
            self._held += copy.held
            self._begin(copy)
        elif len(self._waiting) < MAX_WAITING:
            self._held += copy.held
            self._waiting.append(copy)
        else:
            self._drop(copy, mirror.BUSY)

    def _drop(self, copy: Copy, why: str) -> None:
        self._book.dropped(copy.route.route.name, copy.route.route.generation, why)

    def _begin(self, copy: Copy) -> None:
        copying = Copying(self, copy)
        self._running.add(copying)
        copying.begin()

    def absent(self, copying: Copying) -> None:
        """There is nobody to send it to."""
        self._leave(copying)
        self._drop(copying.copy, mirror.NO_UPSTREAM)

    def ended(
        self,
        copying: Copying,
        outcome: Outcome,
        status: int,
        whole_ms: float | None,
        first_ms: float | None,
        stream: Stream | None,
        seen: Seen | None,
    ) -> None:
        """What became of a copy that was sent. `seen`: its answer, if that is whole."""
        self._leave(copying)
        self._count(copying.copy, outcome, status, whole_ms, first_ms, stream)
        self._pair(copying.copy, seen)

    def failed(self, copying: Copying) -> None:
        """Something is wrong here: of the target nothing is said."""
        self._leave(copying)
        self._drop(copying.copy, mirror.COPY_FAILED)

    def abandoned(self, copying: Copying) -> None:
        """It was ended by us: nothing is counted."""
        self._leave(copying)

    def _leave(self, copying: Copying) -> None:
        if copying not in self._running:
            return
        self._running.discard(copying)
        self._held -= copying.copy.held
        if self._waiting:
            self._begin(self._waiting.popleft())
        elif self._none is not None and not self._running and not self._none.done():
            self._none.set_result(None)

    def _count(
        self,
        copy: Copy,
        outcome: Outcome,
        status: int,
        whole_ms: float | None,
        first_ms: float | None,
        stream: Stream | None,
    ) -> None:
        if copy.mirror.kind is PairKind.COMPARE:
            route, revision = copy.route.route, copy.mirror.target.route.revision
            name, generation, size = route.name, route.generation, len(copy.message.body)
            self._book.mirrored(
                name, generation, revision, outcome, status, whole_ms, first_ms, size=size, stream=stream
            )

    def _pair(self, copy: Copy, seen: Seen | None) -> None:
        if copy.live is None:
            self._drop(copy, mirror.LIVE_FAILED)
        elif seen is None:
            self._drop(copy, mirror.COPY_FAILED)
        elif not self._book.wants_pair(copy.route.route.name, copy.route.route.generation):
            self._drop(copy, mirror.NOT_SAMPLED)
        else:
            route = copy.route
            pair = Pair(copy.mirror.kind, copy.request_id, copy.live.answer(route.redact), seen.answer(route.redact))
            self._book.pair(route.route.name, route.route.generation, pair)

    async def drain(self, seconds: float) -> None:
        """Waits for running copies, then ends what is left."""
        while self._waiting:
            waiting = self._waiting.popleft()
            self._held -= waiting.held
            self._drop(waiting, mirror.BUSY)
        if self._running:
            self._none = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._none,), timeout=seconds)
        for copying in list(self._running):
            copying.abandon()


class Copying(Listener):
    """One copy on its way, by callbacks: a task only to wait for a new connection."""

    __slots__ = (
        "_attempts",
        "_connection",
        "_counted",
        "_ends",
        "_first_ms",
        "_headed",
        "_kept",
        "_message",
        "_mirrors",
        "_over",
        "_replica",
        "_size",
        "_started",
        "_stream",
        "_task",
        "copy",
    )

    def __init__(self, mirrors: Mirrors, copy: Copy) -> None:
        self.copy = copy
        self._mirrors = mirrors
        self._message = marked(copy)
        # A target that ends each connection is not to cost two of them for a copy that nobody waits for.
        self._attempts = Attempts(copy.mirror.target.copies, may_repeat=True, streams=False, insists=False)
        self._replica: Replica
        self._counted = False  # among the requests in flight to `_replica`
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = time.monotonic()
        self._ends = self._started + copy.mirror.target.route.request_timeout_ms / 1000
        self._first_ms: float | None = None
        self._headed = False
        self._stream: Stream | None = None
        self._kept: list[bytes] = []  # no more than a pair may hold
        self._size = 0
        self._over = False

    def begin(self) -> None:
        """Asks a replica."""
        try:
            self._ask()
        except Exception:
            log.exception(FAULT, self.copy.mirror.target.route.revision)
            self._failed()

    def _ask(self) -> None:
        """Called again when it may be sent again."""
        try:
            replica = self._replica = self._attempts.pick()
        except NoReplica:
            self._over = True
            self._mirrors.absent(self)
            return
        connection = replica.pooled(self._attempts.max_idle_s, time.monotonic())
        replica.in_flight += 1
        self._counted = True
        if connection is not None:
            self._start(connection)
        else:
            self._task = asyncio.get_running_loop().create_task(self._waited(replica))

    async def _waited(self, replica: Replica) -> None:
        try:
            await self._connect(replica)
        except Exception:
            log.exception(FAULT, self.copy.mirror.target.route.revision)
            self._failed()

    async def _connect(self, replica: Replica) -> None:
        left = self._ends - time.monotonic()
        try:
            if left <= 0:
                raise TimedOut("no time left")
            connection = await replica.connect(Connection, left)
        except UpstreamError as error:
            self._task = None
            self._uncount()
            if isinstance(error, Unreachable) and self._attempts.unreachable(replica):
                self._ask()
            else:
                self._unanswered(error)
        else:
            self._task = None
            self._start(connection)

    def _start(self, connection: Connection) -> None:
        self._connection = connection
        message = self._message
        left = max(0.001, self._ends - time.monotonic())
        head = message.head(self._replica.name)
        connection.start(head, message.body, timeout_s=left, head_only=message.head_only, listener=self)
        if connection.error is not None:  # the model had closed it while it was idle
            self.heard()

    def heard(self) -> None:
        try:
            self._hear()
        except Exception:
            log.exception(FAULT, self.copy.mirror.target.route.revision)
            self._failed()

    def _hear(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if not self._headed:
            if connection.headed:
                self._answered(connection)
            elif connection.error is not None:
                self._broke(connection, connection.error)
                return
            else:
                return
        data = connection.take()
        if data:
            self._add(data)
        if connection.done:
            self._whole(connection)
        elif connection.error is not None:
            self._cut(connection.error)
        elif time.monotonic() - self._started > MAX_SECONDS:
            self._cut(TimedOut(f"still answering after {MAX_SECONDS:g} s"))

    def _answered(self, connection: Connection) -> None:
        self._headed = True
        self._replica.answered()
        self._first_ms = self._elapsed()
        if 200 <= connection.status < 300:
            self._stream = opened(connection.fields)

    def _add(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.add(data, self._elapsed())
        if self._size < mirror.MAX_BODY:
            self._kept.append(data[: mirror.MAX_BODY - self._size])
        self._size += len(data)

    def _whole(self, connection: Connection) -> None:
        status = connection.status
        body = b"".join(self._kept)
        revision = self.copy.mirror.target.route.revision
        seen = Seen(revision, status, connection.fields, body, cut=self._size > mirror.MAX_BODY)
        self._end(Outcome.OK if 200 <= status < 300 else Outcome.MODEL_ERROR, status, seen)

    def _cut(self, error: UpstreamError) -> None:
        """The answer began, and no more of it comes."""
        status = self._connection.status if self._connection is not None else 0
        if self._stream is not None:
            self._stream.broke(self._elapsed())
        self._end(Outcome.TIMEOUT if isinstance(error, TimedOut) else Outcome.TRUNCATED, status, None)

    def _broke(self, connection: Connection, error: UpstreamError) -> None:
        """Nothing of an answer is known."""
        again = isinstance(error, Broken) and self._attempts.broke(self._replica, connection)
        self._let_go()
        if again:
            self._ask()
        else:
            self._unanswered(error)

    def _unanswered(self, error: UpstreamError) -> None:
        self._end(Outcome.TIMEOUT if isinstance(error, TimedOut) else Outcome.REFUSED, 0, None)

    def _end(self, outcome: Outcome, status: int, seen: Seen | None) -> None:
        if self._over:
            return
        self._over = True
        whole_ms = self._elapsed() if seen is not None or outcome is Outcome.TIMEOUT else None
        self._let_go()
        self._mirrors.ended(self, outcome, status, whole_ms, self._first_ms, self._stream, seen)

    def abandon(self) -> None:
        """Ends it, whatever it waits for."""
        if self._over:
            return
        self._over = True
        if self._task is not None:
            self._task.cancel()
        self._let_go()
        self._mirrors.abandoned(self)

    def _failed(self) -> None:
        self._over = True
        self._let_go()
        self._mirrors.failed(self)

    def _let_go(self) -> None:
        self._uncount()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.listener = None
            self._replica.give_back(connection)

    def _uncount(self) -> None:
        """Here, not in the task that waits: one that is cancelled before its first step undoes nothing."""
        if self._counted:
            self._counted = False
            self._replica.in_flight -= 1

    def _elapsed(self) -> float:
        return (time.monotonic() - self._started) * 1000

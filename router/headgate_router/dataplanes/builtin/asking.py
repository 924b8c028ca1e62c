"""The way of a request to a replica, and what is said when none answers: by callbacks, with a task only to wait.

It waits for a place in the queue and for a new connection, and for nothing else. Which replica may be asked stands in
`upstream.Attempts`; what becomes of an answer, in `exchange`.
"""

from __future__ import annotations

import asyncio
import http
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from headgate.evidence import Outcome
from headgate_router import headers, refusals
from headgate_router.dataplanes.builtin.caller import Caller
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.failures import Broken, TimedOut, Unreachable, UpstreamError
from headgate_router.refusals import Refusal
from headgate_router.request import CAME_TO_NOTHING, Desk, Request
from headgate_router.upstream import Attempts, Message, NoReplica, Replica

log = logging.getLogger("headgate.router")

_JOINED: Final = 16 * 1024  # bytes of a body that are copied to go out in one write with the head
_LENGTH: Final = b"content-length"
_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES: Final = {n: f"HTTP/1.1 {n} {_PHRASES.get(n, '')}\r\n".encode() for n in range(200, 600)}


class Asking(Request):
    __slots__ = (
        "attempts",
        "before",
        "begun",
        "caller",
        "connection",
        "counted",
        "ended",
        "ends",
        "placed",
        "replica",
        "sending",
        "streams",
        "task",
        "unsent",
    )

    def __init__(
        self,
        shared: Desk,
        caller: Caller,
        name: str,
        rest: bytes,
        method: bytes,
        query: bytes,
        fields: Sequence[headers.Field],
        asked: headers.Asked,
    ) -> None:
        super().__init__(shared, name, rest, method, query, fields, asked)
        self.caller = caller
        self.begun = False  # something of the answer was written
        self.before: list[bytes] = []  # of the body, until it goes to a replica
        self.sending: Message | None = None
        self.streams = False  # the body is sent on as it comes
        self.placed = False  # holds one of the revision's places
        self.unsent = False  # streams, but has no connection yet
        self.task: asyncio.Task[None] | None = None
        self.attempts: Attempts
        self.replica: Replica
        self.counted = False  # among the requests in flight to `replica`
        self.connection: Connection | None = None
        self.ends = 0.0
        self.ended = False

    # To a replica.

    def _go(self, *, more: bool) -> None:
        """The request is whole, or too long to be held."""
        body = self.before[0] if len(self.before) == 1 else b"".join(self.before)
        self.before = []
        refusal = self.choose()
        self.sending = self.message(body, more=more) if refusal is None else None
        if self.sending is None or self.revision is None:
            self._refuse(refusal or refusals.BAD_REQUEST)
            return
        self.streams = self.unsent = more
        if more:
            self.caller.hold()
        places = self.revision.in_flight
        if places.try_enter():
            self._run()
            return
        if places.may_wait(self.revision.route.max_queue_wait_ms / 1000):
            self._later(self._wait)
        else:
            self._say(self.refused_by(refusals.BUSY))

    async def _wait(self) -> None:
        revision = self.revision
        if revision is not None and await revision.in_flight.enter(revision.route.max_queue_wait_ms / 1000):
            self.task = None
            self._run()
        else:
            self.task = None
            self._say(self.refused_by(refusals.BUSY))

    def _run(self) -> None:
        revision, live = self.revision, self.live
        if revision is None or live is None:
            return
        self.placed = True
        self.draw(more=self.streams)
        self.begin()
        self.ends = self.started + revision.route.request_timeout_ms / 1000
        self.attempts = Attempts(revision.replicas, may_repeat=live.route.repeatable, streams=self.streams)
        self._attempt(self.started)

    def _attempt(self, now: float) -> None:
        try:
            replica = self.replica = self.attempts.pick()
        except NoReplica as error:
            self._fail(error)
            return
        replica.in_flight += 1
        self.counted = True
        connection = replica.pooled(self.attempts.max_idle_s, now)
        if connection is not None:
            self._start(connection, now)
        else:
            self._later(self._connect)

    async def _connect(self) -> None:
        replica, left = self.replica, self.ends - time.monotonic()
        try:
            if left <= 0:
                raise TimedOut("no time left")
            connection = await self._opened(replica, left)
        except UpstreamError as error:
            self.task = None
            self._uncount()
            if isinstance(error, Unreachable) and self.attempts.unreachable(replica):
                self._attempt(time.monotonic())
            else:
                self._fail(error)
        else:
            self.task = None
            self._start(connection, time.monotonic())

    async def _opened(self, replica: Replica, timeout_s: float) -> Connection:
        return await replica.connect(Connection, timeout_s)

    def _later(self, waits: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """In a task, which may be cancelled before its first step: what it would undo itself, it must have begun."""
        self.task = asyncio.get_running_loop().create_task(self._guarded(waits))

    async def _guarded(self, waits: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await waits()
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            self.task = None
            self.fault()

    def _start(self, connection: Connection, now: float) -> None:
        message = self.sending
        if message is None:
            return
        self.connection = connection
        waiting: list[bytes] = []
        if self.unsent:
            self.unsent = False
            waiting, self.before = self.before, []
            self.caller.release()
        left = max(0.001, self.ends - now)
        head = message.head(self.replica.name)
        connection.start(head, message.body, timeout_s=left, head_only=message.head_only, listener=self, now=now)
        if connection.error is not None:  # the model had closed it while it was idle
            self.heard()
            return
        for data in waiting:
            connection.write(data)

    def _send(self, data: bytes) -> None:
        """More of a streamed body, framed."""
        if self.unsent:
            self.before.append(data)
        elif self.connection is not None:
            self.connection.write(data)

    def writable(self, yes: bool) -> None:
        if not self.streams or self.ended:
            return
        try:
            if yes:
                self.caller.release()
            else:
                self.caller.hold()
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            self.fault()

    def _broke(self, connection: Connection, error: UpstreamError) -> None:
        """The connection is of no use, and nothing of an answer is known."""
        again = isinstance(error, Broken) and self.attempts.broke(self.replica, connection)
        self._drop()
        if again:
            self._attempt(time.monotonic())
        else:
            self._fail(error)

    def _fail(self, error: UpstreamError) -> None:
        refusal = self.unanswered(error)
        if refusal is not None:
            self._say(refusal)
        else:
            self.caller.abort()

    # Answers of our own.

    def _refuse(self, refusal: Refusal) -> None:
        """An answer of our own to a request that reached no revision."""
        self.refused(refusal.status)
        self._say(refusal)

    def _say(self, refusal: Refusal) -> None:
        """An answer of our own."""
        body = refusal.body(self.detail)
        fields = [(b"content-type", b"application/json"), (_LENGTH, b"%d" % len(body)), *refusal.fields]
        self._write(refusal.status, headers.lines(fields), body, last=refusal.last)
        self._close()
        self.caller.answered()

    def _write(self, status: int, lines: bytes, body: bytes, *, last: bool = False) -> None:
        """`lines`: the fields, as they go out, less those of every answer."""
        caller = self.caller
        end = b"\r\n" if caller.stays(last=last) else b"connection: close\r\n\r\n"
        if self.method == b"HEAD":
            body = b""
        with_head = body if len(body) <= _JOINED else b""
        first, date, said = _STATUS_LINES[status], caller.date(), self.said_lines()
        self.begun = True
        caller.write(b"%b%b%b%b%b%b" % (first, date, lines, said, end, with_head))
        if body and not with_head:
            caller.write(body)

    # Faults of ours.

    def fault(self) -> None:
        """What nobody expected was raised on its way, and is logged: this request ends. Its caller is told, if nothing
        of an answer was written; and the books on it are closed.
        """
        if self.begun or self.ended:
            self._cut()
            return
        try:
            self._own_up()
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            self._cut()

    def _own_up(self) -> None:
        self._drop()
        if self.sending is not None:
            self._say(self.refused_by(refusals.FAULT))
        else:
            self.revision = None
            self._refuse(refusals.FAULT)

    def _cut(self) -> None:
        """Nothing can be said: the caller is to see that."""
        try:
            if not self.ended:
                self.outcome = Outcome.TRUNCATED
                self._drop()
                self._close()
        finally:
            self.caller.abort()

    # Ending.

    def _drop(self) -> None:
        """Ends what is open towards replicas."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self._uncount()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.listener = None
            connection.abort()

    def _uncount(self) -> None:
        """It is no longer in flight to a replica."""
        if self.counted:
            self.counted = False
            self.replica.in_flight -= 1

    def _close(self) -> None:
        """Closes the books on it."""
        self.ended = True
        self.before = []
        self.shared.book.in_flight -= 1
        if self.placed and self.revision is not None:
            self.revision.in_flight.leave()
        if self.sending is not None:
            self.count()
            if self.placed:
                self.copy(self.sending)

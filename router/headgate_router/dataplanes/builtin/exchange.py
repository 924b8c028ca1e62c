"""One scoring request by callbacks: bytes come from the caller's connection, go to a replica's, and back.

What it decides stands in `request.Request`, which replica may be asked in `upstream.Attempts`; here they are driven
without a task or a future, but for what must wait: a place in the queue, and a new connection. Its caller calls `head`,
`body`, `complete` and `leave`; the replica's connection calls `heard` and `writable`.
"""

from __future__ import annotations

import asyncio
import http
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from headgate_router import headers, mirror, refusals
from headgate_router.dataplanes.builtin.client import Broken, Connection, TimedOut, Unreachable, UpstreamError
from headgate_router.refusals import Refusal
from headgate_router.request import HELD, MAX_ERROR_BODY, Desk, Request, of_error
from headgate_router.streams import opened
from headgate_router.upstream import Attempts, Message, NoReplica, Replica

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JOINED = 16 * 1024  # bytes of a body that are copied to go out in one write with the head
_LENGTH = b"content-length"


_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES = {n: f"HTTP/1.1 {n} {_PHRASES.get(n, '')}\r\n".encode() for n in range(200, 600)}


class Caller:
    """The caller's connection, as a request that came over it sees it."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def hold(self) -> None:
        """Read no more of the request for now."""
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        """The answer cannot be ended: let the caller see that it is cut short."""
        raise NotImplementedError

    def date(self) -> bytes:
        """What the server itself says on every answer."""
        raise NotImplementedError

    def stays(self, *, last: bool) -> bool:
        """Asked when an answer's head is written: whether the connection outlives it; `last`: it must not."""
        raise NotImplementedError

    def answered(self) -> None:
        """The whole answer was written."""
        raise NotImplementedError


class Exchange(Request):
    __slots__ = (
        "attempts",
        "before",
        "begun",
        "caller",
        "chunks",
        "connection",
        "ended",
        "ends",
        "failing",
        "kept",
        "placed",
        "replica",
        "sending",
        "size",
        "streams",
        "task",
        "unsent",
        "whole",
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
        version: str,
        asked: headers.Asked,
    ) -> None:
        super().__init__(shared, name, rest, method, query, fields, asked)
        old = version != "1.1"
        self.asked.ambiguous |= self.asked.coded if old else self.asked.hosts == 0
        self.caller = caller
        self.before: list[bytes] = []  # of the body, until it goes to a replica
        self.size = 0  # bytes of the body that came
        self.whole = False  # the request came to its end
        self.sending: Message | None = None
        self.streams = False  # the body is sent on as it comes
        self.placed = False  # holds one of the revision's places
        self.unsent = False  # streams, but has no connection yet
        self.task: asyncio.Task[None] | None = None
        self.attempts: Attempts
        self.replica: Replica
        self.connection: Connection | None = None
        self.ends = 0.0
        self.begun = False  # the answer's head is known
        self.failing = False  # the model's answer is an error
        self.chunks = not old  # the caller can read chunks; while answering: gets chunks
        self.kept = bytearray()  # of the answer: an error's body, or what a copy is compared with
        self.ended = False
        shared.book.in_flight += 1

    # What the caller's connection says.

    def head(self, *, complete: bool) -> None:
        """The request's head is whole. `complete`: it has no body."""
        refusal = self.admit()
        if refusal is not None:
            self._refuse(refusal)
        elif complete:
            self.complete()
        elif self.asked.continues and self.chunks:
            self.caller.write(_CONTINUE)

    def body(self, data: bytes) -> None:
        """More of the request's body."""
        if self.ended:
            return
        self.size += len(data)
        if self.size > self.shared.max_body:
            self._too_large()
        elif not self.streams:
            self.before.append(data)
            if self.size > HELD:
                self._go(more=True)
        else:
            self._send(headers.chunk(data) if self.asked.length is None else data)

    def complete(self) -> None:
        """The request came to its end."""
        self.whole = True
        if self.ended:
            return
        if not self.streams:
            self._go(more=False)
        elif self.asked.length is None:
            self._send(b"0\r\n\r\n")

    def leave(self, status: int = refusals.CLIENT_GONE) -> None:
        """The caller is gone: so is its request, at once. `status`: what it was told, if it was told why."""
        if self.ended:
            return
        self.left()
        self.status = status
        self._drop()
        self._close()
        if self.sending is None:
            self.refused(status)

    def slow(self, yes: bool) -> None:
        """Whether the caller reads slower than the model answers."""
        if self.connection is not None:
            if yes:
                self.connection.hold()
            else:
                self.connection.release()

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
        wait_s = self.revision.route.max_queue_wait_ms / 1000
        if places.try_enter():
            self._run()
        elif places.may_wait(wait_s):
            self._later(self._wait(wait_s))
        else:
            self._say(self.refused_by(refusals.BUSY))

    async def _wait(self, wait_s: float) -> None:
        if self.revision is not None and await self.revision.in_flight.enter(wait_s):
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
        self.ends = time.monotonic() + revision.route.request_timeout_ms / 1000
        self.attempts = Attempts(revision.replicas, may_repeat=live.route.repeatable, streams=self.streams)
        self._attempt()

    def _attempt(self) -> None:
        try:
            replica = self.replica = self.attempts.pick()
        except NoReplica as error:
            self._fail(error)
            return
        replica.in_flight += 1
        connection = replica.pooled(self.attempts.max_idle_s)
        if connection is not None:
            self._start(connection)
        else:
            self._later(self._connect(replica))

    async def _connect(self, replica: Replica) -> None:
        left = self.ends - time.monotonic()
        try:
            if left <= 0:
                raise TimedOut("no time left")
            connection = await self._opened(replica, left)
        except UpstreamError as error:
            self.task = None
            replica.in_flight -= 1
            if isinstance(error, Unreachable) and self.attempts.unreachable(replica):
                self._attempt()
            else:
                self._fail(error)
        except asyncio.CancelledError:
            replica.in_flight -= 1
            raise
        else:
            self.task = None
            self._start(connection)

    async def _opened(self, replica: Replica, timeout_s: float) -> Connection:
        return await replica.connect(Connection, timeout_s)

    def _later(self, waiting: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.get_running_loop().create_task(self._guarded(waiting))

    async def _guarded(self, waiting: Coroutine[Any, Any, None]) -> None:
        try:
            await waiting
        except Exception:
            self.task = None
            self.caller.abort()
            raise

    def _start(self, connection: Connection) -> None:
        message = self.sending
        if message is None:
            return
        self.connection = connection
        waiting: list[bytes] = []
        if self.unsent:
            self.unsent = False
            waiting, self.before = self.before, []
            self.caller.release()
        left = max(0.001, self.ends - time.monotonic())
        head = message.head(self.replica.name)
        connection.start(head, message.body, timeout_s=left, head_only=message.head_only, listener=self)
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

    # What the replica's connection says.

    def writable(self, yes: bool) -> None:
        if not self.streams or self.ended:
            return
        if yes:
            self.caller.release()
        else:
            self.caller.hold()

    def heard(self) -> None:
        connection = self.connection
        if connection is None:
            return
        if not self.begun:
            if connection.headed:
                self._answer(connection)
            elif connection.error is not None:
                self._broke(connection, connection.error)
        elif self.failing:
            self._model_error(connection)
        else:
            self._more(connection)

    def passed(self, body: bytes, framed: bytes) -> None:
        if self.stream is not None:
            self.stream.add(body, self.elapsed())
        if self.drawn and len(self.kept) <= mirror.MAX_BODY:
            self.kept += body[: mirror.MAX_BODY + 1 - len(self.kept)]
        self.caller.write(framed)

    def _broke(self, connection: Connection, error: UpstreamError) -> None:
        """The connection is of no use, and nothing of an answer is known."""
        again = isinstance(error, Broken) and self.attempts.broke(self.replica, connection)
        self._drop()
        if again:
            self._attempt()
        else:
            self._fail(error)

    def _fail(self, error: UpstreamError) -> None:
        refusal = self.unanswered(error)
        if refusal is not None:
            self._say(refusal)
        else:
            self.caller.abort()

    # To the caller.

    def _answer(self, connection: Connection) -> None:
        self.begun = True
        self.replica.answered()
        self.first_ms = self.elapsed()
        if not 200 <= connection.status < 300:
            self.failing = True
            self._model_error(connection)
            return
        known = connection.known
        if known is not None and known.lines is not None and connection.done:
            self._answer_again(connection, known.lines)
            return
        self.status = connection.status
        self.stream = opened(connection.fields)
        body = connection.take()
        if self.stream is not None and body:
            self.stream.add(body, self.first_ms)
        fields = headers.of_answer(connection.fields)
        if connection.done:
            lines = headers.lines(self._framed(connection, fields, len(body)))
            if known is not None and self.stream is None:
                known.lines = lines
            self.answered(connection, body, cut=False, at_once=True)
            self._write(connection.status, lines, body)
            self._end()
            return
        if self.drawn:
            self.kept += body[: mirror.MAX_BODY + 1]
        self._frame(fields)
        connection.passes = self.chunks
        self._write(connection.status, headers.lines(fields), headers.chunk(body) if self.chunks and body else body)
        self._go_on(connection, len(body))

    def _answer_again(self, connection: Connection, lines: bytes) -> None:
        """A whole answer whose head was passed on before, as `lines`: of no events, and of the same length."""
        body = connection.take()
        self.answered(connection, body, cut=False, at_once=True)
        self._write(connection.status, lines, body)
        self._end()

    def _framed(self, connection: Connection, fields: list[headers.Field], length: int) -> list[headers.Field]:
        """The fields of an answer that is here as a whole."""
        if connection.status == 204:
            return [field for field in fields if field[0] != _LENGTH]
        if self.method != b"HEAD" and not any(field[0] == _LENGTH for field in fields):
            fields.append((_LENGTH, b"%d" % length))
        return fields

    def _frame(self, fields: list[headers.Field]) -> None:
        """Decides how an answer that is still coming is framed: as the model said, in chunks, or by its end."""
        if any(field[0] == _LENGTH for field in fields):
            self.chunks = False
        elif self.chunks:
            fields.append((b"transfer-encoding", b"chunked"))

    def _more(self, connection: Connection) -> None:
        data = connection.take()
        if not data:
            self._go_on(connection, 0)
            return
        if self.stream is not None:
            self.stream.add(data, self.elapsed())
        if self.drawn and len(self.kept) <= mirror.MAX_BODY:
            self.kept += data[: mirror.MAX_BODY + 1 - len(self.kept)]
        if self.chunks:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if connection.done else headers.chunk(data)
        self.caller.write(data)
        self._go_on(connection, len(data))

    def _go_on(self, connection: Connection, written: int) -> None:
        """After what came was written: is it the end?"""
        if connection.done:
            if self.chunks and not written:
                self.caller.write(b"0\r\n\r\n")
            self.answered(connection, bytes(self.kept), cut=False)
            self._end()
        elif connection.error is not None:
            self.broke_off(connection.error)
            self._drop()
            self._close()
            self.caller.abort()

    def _model_error(self, connection: Connection) -> None:
        """424, with what the model said in fields, and its body up to a cap; an error that breaks off is that error."""
        self.kept += connection.take()
        if not connection.done and connection.error is None and len(self.kept) <= MAX_ERROR_BODY:
            return
        body = bytes(self.kept[:MAX_ERROR_BODY])
        self.answered(connection, body, cut=not connection.done)
        self._write(self.status, headers.lines(of_error(connection, len(body))), body)
        self._end()

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

    def _too_large(self) -> None:
        """More of a body than is taken."""
        if self.begun:
            self._drop()
            self._close()
            self.caller.abort()
        elif self.revision is None:
            self._refuse(refusals.TOO_LARGE)
        else:
            self._drop()
            self._say(self.refused_by(refusals.TOO_LARGE))

    def _write(self, status: int, lines: bytes, body: bytes, *, last: bool = False) -> None:
        """`lines`: the fields, as they go out, less those of every answer."""
        caller = self.caller
        end = b"\r\n" if caller.stays(last=last) else b"connection: close\r\n\r\n"
        head = b"".join((_STATUS_LINES[status], caller.date(), lines, self.said_lines(), end))
        if not body or self.method == b"HEAD":
            caller.write(head)
        elif len(body) <= _JOINED:
            caller.write(head + body)
        else:
            caller.write(head)
            caller.write(body)

    # Ending.

    def _drop(self) -> None:
        """Ends what is open towards replicas."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.listener = None
            self.replica.in_flight -= 1
            connection.abort()

    def _end(self) -> None:
        """The answer is whole."""
        connection, self.connection = self.connection, None
        if connection is not None:
            if not self.whole:  # answered before it had read the whole request
                connection.keep = False
            connection.listener = None
            self.replica.in_flight -= 1
            self.replica.give_back(connection)
        self._close()
        self.caller.answered()

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

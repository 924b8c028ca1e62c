"""One scoring request by callbacks: bytes come from the caller's connection, go to a replica's, and back.

What it decides stands in `request.Request`, which replica may be asked in `upstream.Attempts`; here they are driven
without a task or a future, but for what must wait: a place in the queue, and a new connection. Its caller calls `head`,
`body`, `complete` and `leave`; the replica's connection calls `heard` and `writable`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from headgate_router import headers, mirror, refusals
from headgate_router.dataplanes.builtin.asking import Asking
from headgate_router.dataplanes.builtin.caller import Caller
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.request import CAME_TO_NOTHING, HELD, MAX_ERROR_BODY, Desk, of_error
from headgate_router.streams import opened

log = logging.getLogger("headgate.router")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LENGTH: Final = b"content-length"


class Exchange(Asking):
    __slots__ = (
        "chunks",
        "failing",
        "kept",
        "size",
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
        super().__init__(shared, caller, name, rest, method, query, fields, asked)
        old = version != "1.1"
        self.asked.ambiguous |= self.asked.coded if old else self.asked.hosts == 0
        self.size = 0  # bytes of the body that came
        self.whole = False  # the request came to its end
        self.failing = False  # the model's answer is an error: what it says is read first
        self.chunks = not old  # the caller can read chunks; while answering: gets chunks
        self.kept = bytearray()  # of the answer: an error's body, or what a copy is compared with
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
        try:
            self.left()
            self.status = status
            self._drop()
            self._close()
            if self.sending is None:
                self.refused(status)
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            self.fault()

    def slow(self, yes: bool) -> None:
        """Whether the caller reads slower than the model answers."""
        if self.connection is None:
            return
        try:
            if yes:
                self.connection.hold()
            else:
                self.connection.release()
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            self.fault()

    # What the replica's connection says.

    def heard(self) -> None:
        connection = self.connection
        if connection is None:
            return
        try:
            if self.failing:
                self._model_error(connection)
            elif self.begun:
                self._more(connection)
            elif connection.headed:
                self._answer(connection)
            elif connection.error is not None:
                self._broke(connection, connection.error)
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            self.fault()

    def passed(self, body: bytes, framed: bytes, now: float) -> None:
        try:
            if self.stream is not None:
                self.stream.add(body, self.until(now))
            if self.drawn and len(self.kept) <= mirror.MAX_BODY:
                self.kept += body[: mirror.MAX_BODY + 1 - len(self.kept)]
            self.caller.write(framed)
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            self.fault()

    # To the caller.

    def _answer(self, connection: Connection) -> None:
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

    # Ending.

    def _end(self) -> None:
        """The answer is whole."""
        connection, self.connection = self.connection, None
        if connection is not None:
            if not self.whole:  # answered before it had read the whole request
                connection.keep = False
            connection.listener = None
            self._uncount()
            self.replica.give_back(connection)
        self._close()
        self.caller.answered()

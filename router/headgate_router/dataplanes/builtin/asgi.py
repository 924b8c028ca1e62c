"""The data path as a plain ASGI callable, for any server that speaks ASGI; the protocol is the faster front.

One `_Cycle` per request. An answer passes chunk by chunk, with backpressure both ways. What it decides stands in
`request.Request`; here bytes go in and out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from headgate.evidence import Outcome
from headgate_router import headers, mirror, refusals
from headgate_router.dataplanes.builtin.body import Body, Pump, Watch
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.failures import Abandoned, Broken, TimedOut, UpstreamError
from headgate_router.refusals import Refusal
from headgate_router.request import CAME_TO_NOTHING, MAX_ERROR_BODY, Desk, Request, of_error
from headgate_router.routes import LiveRevision
from headgate_router.streams import opened
from headgate_router.upstream import Answering, Ask, Message

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger("headgate.router")

_SPOKEN = ("1.0", "1.1", "2", "3")  # as ASGI names them; a server may let others pass


class DataPath:
    """What `app.Front` hands scoring requests to."""

    def __init__(self, shared: Desk) -> None:
        self._shared = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send, name: str, rest: bytes) -> None:
        """Serves one request to endpoint `name`; `rest` is the raw path after it, without its leading slash."""
        self._shared.book.in_flight += 1
        try:
            await _Cycle(self._shared, scope, receive, send, name, rest).serve()
        finally:
            self._shared.book.in_flight -= 1


class _Cycle(Request):
    __slots__ = ("begun", "counted", "receive", "send", "spoken")

    def __init__(self, shared: Desk, scope: Scope, receive: Receive, send: Send, name: str, rest: bytes) -> None:
        method: str = scope["method"]
        asked = headers.read(scope["headers"])
        super().__init__(shared, name, rest, method.encode("latin-1"), scope["query_string"], scope["headers"], asked)
        if scope["http_version"] == "1.1":
            self.asked.ambiguous |= self.asked.hosts == 0
        else:
            self.asked.ambiguous |= self.asked.coded
        self.spoken = scope["http_version"] in _SPOKEN
        self.receive = receive
        self.send = send
        self.begun = False  # an answer was
        self.counted = False  # under its revision

    async def serve(self) -> None:
        try:
            await self._serve()
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            if not (self.begun or self.counted):
                self.revision = None
                self.refused(refusals.FAULT.status)
            await self._fault()

    async def _serve(self) -> None:
        refusal = self.admit() if self.spoken else refusals.VERSION
        if refusal is not None:
            return await self._refuse(refusal)
        body = await Body.read(self.receive, self.asked.length, self.shared.max_body)
        if body.gone:
            return self.refused(refusals.CLIENT_GONE)
        if len(body.first) > self.shared.max_body:
            return await self._refuse(refusals.TOO_LARGE)
        refusal = self.choose()
        message = None
        if refusal is None:
            message = self.message(body.first, more=body.more)
        if message is None or self.revision is None:
            return await self._refuse(refusal or refusals.BAD_REQUEST)
        return await self._run(self.revision, message, body)

    # Running.

    async def _run(self, revision: LiveRevision, message: Message, body: Body) -> None:
        places = revision.in_flight
        if not places.try_enter() and not await places.enter(revision.route.max_queue_wait_ms / 1000):
            self.refused_by(refusals.BUSY)
            self.count()
            return await self._say(refusals.BUSY)
        try:
            self.draw(more=body.more)
            await self._forward(revision, message, body)
        except Exception:
            log.exception(CAME_TO_NOTHING, self.name)
            await self._fault()
        finally:
            self.counted = True
            places.leave()
            self.count()
            self.copy(message)

    async def _forward(self, revision: LiveRevision, message: Message, body: Body) -> None:
        """One request to the chosen revision, from its first byte to the last of the answer."""
        self.begin()
        timeout_s = revision.route.request_timeout_ms / 1000
        watch: Watch
        if body.more:
            watch = pump = Pump(self.receive, body, self.shared.max_body)
            ask = Ask(revision.replicas, message, may_repeat=False, on_start=pump.start)
        else:
            repeatable = self.live is not None and self.live.route.repeatable
            ask = Ask(revision.replicas, message, may_repeat=repeatable)
            watch = Watch(self.receive)
        watch.on_leave = ask.abandon
        try:
            answering = await ask.answer(timeout_s)
        except UpstreamError as error:
            own = watch.why_not
            refusal = self.refused_by(own) if own is not None else self.unanswered(error)
            if refusal is not None:
                await self._say(refusal)
        else:
            await self._answered(answering, watch)
        finally:
            watch.stop()

    async def _answered(self, answering: Answering, watch: Watch) -> None:
        try:
            await self._pass_on(answering.connection)
        except (Abandoned, OSError):  # servers say that a caller left by either
            if watch.why_not is refusals.FAULT:
                self.outcome = Outcome.TRUNCATED
            else:
                self.left()
        except UpstreamError as error:
            # The head is out: nothing is left but to end the connection, so that the caller sees it cut short.
            self.broke_off(error)
        finally:
            if not watch.sent:  # answered before it had read the whole request
                answering.connection.keep = False
            answering.close()

    # Answering.

    async def _pass_on(self, connection: Connection) -> None:
        self.first_ms = self.elapsed()
        if not 200 <= connection.status < 300:
            await self._model_error(connection)
            return
        self.status = connection.status
        fields = headers.of_answer(connection.fields)
        self.stream = opened(connection.fields)
        body = connection.take()
        if self.stream is not None and body:
            self.stream.add(body, self.first_ms)
        if not connection.done:
            await self._stream(connection, fields, body)
            return
        self.answered(connection, body, cut=False)
        await self._start(connection.status, fields)
        await self._tell({"type": "http.response.body", "body": body})

    async def _stream(self, connection: Connection, fields: list[headers.Field], chunk: bytes) -> None:
        kept = bytearray()
        size = 0
        seen = chunk  # came with the head, and is counted
        await self._start(connection.status, fields)
        while chunk or (chunk := await connection.read()):
            if self.stream is not None and chunk is not seen:
                self.stream.add(chunk, self.elapsed())
            size += len(chunk)
            if self.drawn and len(kept) < mirror.MAX_BODY:
                kept += chunk[: mirror.MAX_BODY - len(kept)]
            await self._tell({"type": "http.response.body", "body": chunk, "more_body": True})
            chunk = b""
        self.answered(connection, bytes(kept), cut=size > len(kept))
        await self._tell({"type": "http.response.body", "body": b""})

    async def _model_error(self, connection: Connection) -> None:
        """424, with what the model said in headers, and its body up to a cap."""
        body = await _up_to(connection, MAX_ERROR_BODY)
        self.answered(connection, body, cut=not connection.done)
        await self._start(self.status, of_error(connection, len(body)))
        await self._tell({"type": "http.response.body", "body": body})

    async def _fault(self) -> None:
        """What nobody expected was raised, and is logged."""
        if self.begun:
            self.outcome = Outcome.TRUNCATED
        else:
            await self._say(self.refused_by(refusals.FAULT))

    async def _start(self, status: int, fields: list[headers.Field]) -> None:
        start = {"type": "http.response.start", "status": status, "headers": fields + self.said()}
        self.begun = True
        await self._tell(start)

    async def _tell(self, message: MutableMapping[str, Any]) -> None:
        """Raises OSError: the caller left."""
        try:
            await self.send(message)
        except RuntimeError as error:
            if "is closed" in str(error):  # uvloop's word for it, before the server has heard of it
                raise ConnectionResetError(str(error)) from error
            raise

    async def _refuse(self, refusal: Refusal) -> None:
        """An answer of our own to a request that reached no revision."""
        self.refused(refusal.status)
        await self._say(refusal)

    async def _say(self, refusal: Refusal) -> None:
        body = refusal.body(self.detail)
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *refusal.fields]
        if refusal.last:
            fields.append((b"connection", b"close"))
        try:
            await self._start(refusal.status, fields)
            await self._tell({"type": "http.response.body", "body": body})
        except OSError:
            self.status = refusals.CLIENT_GONE


async def _up_to(connection: Connection, most: int) -> bytes:
    """The beginning of a body, as much as came: an error that breaks off is still that error."""
    kept = bytearray()
    with suppress(Broken, TimedOut):
        while len(kept) <= most and (chunk := await connection.read()):
            kept += chunk
    return bytes(kept[:most])

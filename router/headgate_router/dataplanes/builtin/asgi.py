"""The data path as a plain ASGI callable: check, choose, pass on, copy?, count.

One `_Cycle` per request; what it needs of the outside stands in `DataPath`. An answer passes chunk by chunk, with
backpressure both ways. Refuses to touch a body: nothing is decoded, rewritten or logged.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from headgate.evidence import Outcome, PairKind
from headgate_router import auth, headers, mirror, refusals
from headgate_router.choose import Unroutable, sticky_point
from headgate_router.count import Book
from headgate_router.dataplanes.builtin.body import Body, Pump, Watch
from headgate_router.dataplanes.builtin.client import (
    Abandoned,
    Broken,
    Connection,
    TimedOut,
    Unreachable,
    UpstreamError,
)
from headgate_router.mirror import Copy, Mirrors, Seen
from headgate_router.refusals import CLIENT_GONE, Refusal
from headgate_router.routes import LiveMirror, LiveRevision, LiveRoute, Routes
from headgate_router.upstream import Answering, Ask, Message, NoReplica

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY = 100 * 1024 * 1024  # bytes of a request; Azure's managed endpoints take less
MAX_ERROR_BODY = 64 * 1024  # bytes of a model's error that reach the caller
_UNSAFE = re.compile(rb"[\x00-\x20\x7f]")
_SCORE = b"score"


@dataclass(frozen=True, slots=True)
class DataPath:
    """What every request of this worker shares."""

    routes: Routes
    book: Book
    mirrors: Mirrors
    random: Random
    max_body: int = MAX_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send, name: str, rest: bytes) -> None:
        """Serves one request to endpoint `name`; `rest` is the raw path after it, without its leading slash."""
        self.book.in_flight += 1
        try:
            await _Cycle(self, scope, receive, send, name, rest).serve()
        finally:
            self.book.in_flight -= 1


class _Cycle:
    __slots__ = (
        "asked",
        "book",
        "data",
        "drawn",
        "first_ms",
        "live",
        "name",
        "outcome",
        "receive",
        "request_id",
        "rest",
        "revision",
        "scope",
        "seen",
        "send",
        "started",
        "status",
        "whole_ms",
    )

    def __init__(self, data: DataPath, scope: Scope, receive: Receive, send: Send, name: str, rest: bytes) -> None:
        self.data = data
        self.book = data.book
        self.scope = scope
        self.receive = receive
        self.send = send
        self.name = name
        self.rest = rest
        self.asked = headers.read(scope["headers"])
        self.request_id = self.asked.request_id or b"%032x" % data.random.getrandbits(128)
        self.live: LiveRoute
        self.revision: LiveRevision | None = None
        self.drawn: list[LiveMirror] = []
        self.seen: Seen | None = None
        self.outcome = Outcome.CLIENT_GONE  # until something better is known
        self.status = CLIENT_GONE
        self.started = 0.0
        self.whole_ms: float | None = None
        self.first_ms: float | None = None

    # Checking and choosing.

    async def serve(self) -> None:
        live = self.data.routes.find(self.name)
        if live is None:
            self.book.no_endpoint(refusals.NO_ENDPOINT.status)
            return await self._say(refusals.NO_ENDPOINT)
        self.live = live
        if not auth.accepts(live.digests, self.asked.authorization):
            return await self._refuse(refusals.UNAUTHORIZED)
        if (self.asked.length or 0) > self.data.max_body:
            return await self._refuse(refusals.TOO_LARGE)
        body = await Body.read(self.receive, self.asked.length)
        if body.gone:
            return self.book.refused(self.name, live.route.generation, CLIENT_GONE)
        # Now that the request is read: a table that came meanwhile decides, so that no request read after its ack
        # is answered by what it moved traffic away from.
        self.live = self.data.routes.find(self.name) or live
        try:
            revision = self.live.revisions[self._choice()]
        except Unroutable as error:
            return await self._refuse(refusals.NO_DEPLOYMENT, str(error))
        message = self._message(revision, body)
        if message is None:
            return await self._refuse(refusals.BAD_REQUEST)
        self.revision = revision
        return await self._run(revision, message, body)

    def _choice(self) -> str:
        live = self.live
        overrides = self.asked.overrides
        if overrides:
            if len(overrides) > 1:
                raise Unroutable("the header azureml-model-deployment is given more than once")
            return live.chooser.named(overrides[0].decode("latin-1").strip()).revision
        if live.sticky_by != "none":
            find = headers.cookie if live.sticky_by == "cookie" else headers.find
            key = find(self.scope["headers"], live.sticky_name)
            if key:
                return live.chooser.sticky(sticky_point(self.name, key)).revision
        return live.chooser.live().revision

    def _message(self, revision: LiveRevision, body: Body) -> Message | None:
        """None: the head holds what must not be passed on; only servers that check less than ours let it come here."""
        scope = self.scope
        method: str = scope["method"]
        target = revision.model_path if self.rest == _SCORE else b"/" + self.rest
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        passed = self.asked.passed
        fields = b"".join([b"%b: %b\r\n" % field for field in passed])
        if _UNSAFE.search(target) or fields.count(b"\n") != len(passed) or fields.count(b"\r") != len(passed):
            return None
        return Message(
            start_line=b"%b %b HTTP/1.1\r\n" % (method.encode("latin-1"), target),
            fields=b"%bx-ms-request-id: %b\r\n%b" % (fields, self.request_id, body.framing(method)),
            body=body.first,
            head_only=method == "HEAD",
        )

    # Running.

    async def _run(self, revision: LiveRevision, message: Message, body: Body) -> None:
        places = revision.in_flight
        if not places.try_enter() and not await places.enter(revision.route.max_queue_wait_ms / 1000):
            self._refused_by(refusals.BUSY)
            self._count()
            return await self._say(refusals.BUSY)
        self._draw(revision, body)
        try:
            await self._forward(revision, message, body)
        finally:
            places.leave()
            self._count()
            if self.drawn:
                self._copy(message)

    def _draw(self, revision: LiveRevision, body: Body) -> None:
        """Which mirrors get a copy: each drawn by itself, never by the split."""
        for one in self.live.mirrors:
            if self.data.random.random() >= one.chance:
                continue
            if one.kind is PairKind.ECHO and one.target is not revision:
                continue  # an echo asks the one who answered, again
            why = self._why_not(body)
            if why:
                self.book.dropped(self.name, self.live.route.generation, why)
            else:
                self.drawn.append(one)

    def _why_not(self, body: Body) -> str:
        if self.asked.overrides:
            return mirror.OVERRIDE
        if not self.live.route.repeatable:
            return mirror.NOT_REPEATABLE
        return mirror.TOO_LARGE if body.more else ""

    async def _forward(self, revision: LiveRevision, message: Message, body: Body) -> None:
        """One request to the chosen revision, from its first byte to the last of the answer."""
        self.started = time.perf_counter()
        timeout_s = revision.route.request_timeout_ms / 1000
        watch: Watch | Pump
        if body.more:
            watch = pump = Pump(self.receive, body, self.data.max_body)
            ask = Ask(revision.replicas, message, may_repeat=False, on_start=pump.start)
        else:
            ask = Ask(revision.replicas, message, may_repeat=self.live.route.repeatable)
            watch = Watch(self.receive)
        watch.on_leave = ask.abandon
        try:
            answering = await ask.answer(timeout_s)
        except UpstreamError as error:
            await self._unanswered(error, watch)
        else:
            await self._answered(answering, watch)
        finally:
            watch.stop()

    async def _answered(self, answering: Answering, watch: Watch | Pump) -> None:
        try:
            await self._pass_on(answering)
        except (Abandoned, OSError):  # servers say that a caller left by either
            self.outcome, self.status = Outcome.CLIENT_GONE, CLIENT_GONE
        except UpstreamError as error:
            # The head is out: nothing is left but to end the connection, so that the caller sees it cut short.
            self.outcome = Outcome.TIMEOUT if isinstance(error, TimedOut) else Outcome.TRUNCATED
        finally:
            if not watch.sent:  # answered before it had read the whole request
                answering.connection.keep = False
            answering.close()

    async def _unanswered(self, error: UpstreamError, watch: Watch | Pump) -> None:
        if watch.too_large:
            refusal = refusals.TOO_LARGE
        elif isinstance(error, Abandoned):
            return
        elif isinstance(error, TimedOut):
            refusal = refusals.TIMED_OUT
            self.whole_ms = self._elapsed()
        else:
            refusal = refusals.NOT_READY if isinstance(error, NoReplica | Unreachable) else refusals.BROKEN
        self._refused_by(refusal)
        await self._say(refusal)

    def _refused_by(self, refusal: Refusal) -> None:
        self.status = refusal.status
        if refusal is refusals.TIMED_OUT:
            self.outcome = Outcome.TIMEOUT
        elif refusal is not refusals.TOO_LARGE:  # the caller's fault: stays `client_gone`, which blames no model
            self.outcome = Outcome.REFUSED

    # Answering.

    async def _pass_on(self, answering: Answering) -> None:
        connection = answering.connection
        self.first_ms = self._elapsed()
        if not 200 <= connection.status < 300:
            await self._model_error(connection)
            return
        self.status = connection.status
        fields = headers.of_answer(connection.fields)
        body = connection.take()
        if not connection.done:
            await self._stream(connection, fields, body)
            return
        self.whole_ms = self._elapsed()
        self.outcome = Outcome.OK
        self._see(connection, body[: mirror.MAX_BODY], cut=len(body) > mirror.MAX_BODY)
        await self._start(connection.status, fields)
        await self.send({"type": "http.response.body", "body": body})

    async def _stream(self, connection: Connection, fields: list[headers.Field], chunk: bytes) -> None:
        kept = bytearray()
        size = 0
        await self._start(connection.status, fields)
        while chunk or (chunk := await connection.read()):
            size += len(chunk)
            if self.drawn and len(kept) < mirror.MAX_BODY:
                kept += chunk[: mirror.MAX_BODY - len(kept)]
            await self.send({"type": "http.response.body", "body": chunk, "more_body": True})
            chunk = b""
        self.whole_ms = self._elapsed()
        self.outcome = Outcome.OK
        self._see(connection, bytes(kept), cut=size > mirror.MAX_BODY)
        await self.send({"type": "http.response.body", "body": b""})

    async def _model_error(self, connection: Connection) -> None:
        """424, with what the model said in headers, and its body up to a cap."""
        body = await _up_to(connection, MAX_ERROR_BODY)
        self.whole_ms = self._elapsed()
        self.outcome, self.status = Outcome.MODEL_ERROR, refusals.MODEL_ERROR.status
        self._see(connection, body, cut=not connection.done)
        media_type = headers.find(connection.fields, b"content-type")
        fields = [
            (b"ms-azureml-model-error-statuscode", b"%d" % connection.status),
            (b"ms-azureml-model-error-reason", headers.one_line(connection.reason)),
            (b"content-length", b"%d" % len(body)),
        ]
        encoding = headers.find(connection.fields, b"content-encoding")
        fields += [
            (name, value) for name, value in ((b"content-type", media_type), (b"content-encoding", encoding)) if value
        ]
        await self._start(self.status, fields)
        await self.send({"type": "http.response.body", "body": body})

    def _see(self, connection: Connection, body: bytes, *, cut: bool) -> None:
        """Remembers the answer when a copy will be compared with it."""
        if self.drawn and self.revision is not None:
            self.seen = Seen(self.revision.route.revision, connection.status, connection.fields, body, cut)

    async def _start(self, status: int, fields: list[headers.Field]) -> None:
        fields.append((b"x-ms-request-id", self.request_id))
        if self.asked.client_id:
            fields.append((b"x-ms-client-request-id", self.asked.client_id))
        if self.revision is not None:
            fields += self.revision.fields
        if self.first_ms is not None:
            fields.append((b"ms-azureml-model-time", b"%d" % self.first_ms))
        await self.send({"type": "http.response.start", "status": status, "headers": fields})

    async def _refuse(self, refusal: Refusal, detail: str = "") -> None:
        """An answer of our own to a request that reached no revision."""
        self.book.refused(self.name, self.live.route.generation, refusal.status)
        await self._say(refusal, detail)

    async def _say(self, refusal: Refusal, detail: str = "") -> None:
        body = refusal.body(detail)
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *refusal.fields,
        ]
        try:
            await self._start(refusal.status, fields)
            await self.send({"type": "http.response.body", "body": body})
        except OSError:
            self.status = CLIENT_GONE

    # Ending.

    def _elapsed(self) -> float:
        return (time.perf_counter() - self.started) * 1000

    def _count(self) -> None:
        if self.revision is not None:
            self.book.live(
                self.name,
                self.live.route.generation,
                self.revision.route.revision,
                self.outcome,
                self.status,
                self.whole_ms,
                self.first_ms,
                chosen=bool(self.asked.overrides),
            )

    def _copy(self, message: Message) -> None:
        """Offers the copies drawn; after a request that no model worked on there is nothing to copy."""
        if self.outcome is Outcome.REFUSED:
            self.book.dropped(self.name, self.live.route.generation, mirror.LIVE_FAILED, len(self.drawn))
            return
        request_id = self.request_id.decode()
        for one in self.drawn:
            copied = Message(
                _to(one.target, message.start_line, self.rest), message.fields, message.body, message.head_only
            )
            self.data.mirrors.offer(Copy(self.live, one, copied, request_id, self.seen))


def _to(target: LiveRevision, start_line: bytes, rest: bytes) -> bytes:
    """The start line for another revision, whose scoring path may be another."""
    if rest != _SCORE:
        return start_line
    method, uri, version = start_line.split(b" ", 2)
    _, question, query = uri.partition(b"?")
    return b"%b %b%b%b %b" % (method, target.model_path, question, query, version)


async def _up_to(connection: Connection, most: int) -> bytes:
    """The beginning of a body, as much as came: an error that breaks off is still that error."""
    kept = bytearray()
    with suppress(Broken, TimedOut):
        while len(kept) <= most and (chunk := await connection.read()):
            kept += chunk
    return bytes(kept[:most])

"""Copies of live requests: to the candidate (compare), or to the stable again to learn its noise (echo).

A copy runs in a task of its own, over connections of its own, after the caller has been answered; it is bounded in
number, bytes and time, and whatever becomes of it the caller is not told. Copies that do not run are counted with the
reason. Refuses to compare what it could not read whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from headgate.evidence import Answer, Outcome, Pair, PairKind
from headgate_router import headers
from headgate_router.count import Book
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.failures import TimedOut, UpstreamError
from headgate_router.redact import Path, blank
from headgate_router.routes import LiveMirror, LiveRoute
from headgate_router.streams import Stream, opened
from headgate_router.upstream import Ask, Message, NoReplica

MAX_RUNNING = 64  # copies at once, per worker
MAX_WAITING = 64
MAX_BYTES = 32 * 1024 * 1024  # of request and answer bodies held for copies
MAX_BODY = 64 * 1024  # of an answer that goes into a pair
MAX_SECONDS = 600.0  # a copy that streams for longer is ended

# Why a copy was not sent, or not paired: the keys of `Batch.dropped`, and label values of the metric.
BUSY = "busy"
TOO_LARGE = "too_large"  # the request was too long to be held
OVERRIDE = "override"  # the caller chose the deployment
NOT_REPEATABLE = "not_repeatable"
WEBSOCKET = "websocket"
NO_UPSTREAM = "no_upstream"
LIVE_FAILED = "live_failed"  # there is no whole live answer to compare with
COPY_FAILED = "copy_failed"
NOT_SAMPLED = "not_sampled"  # the sample was full


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer as it went by: what may become one half of a pair."""

    revision: str
    status: int
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes  # at most MAX_BODY
    cut: bool

    def answer(self, redact: Sequence[Path]) -> Answer:
        media_type = headers.find(self.fields, b"content-type").decode("latin-1")[:100]
        try:
            text = None if self.cut else blank(self.body.decode(), redact)
        except UnicodeDecodeError:
            # What cannot be read cannot be blanked: then not even its digest leaves.
            digest = "" if redact else hashlib.sha256(self.body).hexdigest()
            return Answer(self.revision, self.status, media_type, "", cut=True, digest=digest)
        return Answer(self.revision, self.status, media_type, text or "", cut=text is None)


@dataclass(frozen=True, slots=True)
class Copy:
    route: LiveRoute
    mirror: LiveMirror
    message: Message
    request_id: str
    live: Seen | None  # None: the live answer did not end whole

    @property
    def held(self) -> int:
        return len(self.message.body) + (len(self.live.body) if self.live else 0)


class Mirrors:
    """This worker's copies. Not thread-safe: one event loop."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._waiting: deque[Copy] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = 0

    @property
    def running(self) -> int:
        return len(self._tasks)

    def offer(self, copy: Copy) -> None:
        """Sends it soon, or drops it. Never waits."""
        if self._held + copy.held > MAX_BYTES:
            self._drop(copy, BUSY)
        elif len(self._tasks) < MAX_RUNNING:
            self._held += copy.held
            task = asyncio.get_running_loop().create_task(self._run(copy))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif len(self._waiting) < MAX_WAITING:
            self._held += copy.held
            self._waiting.append(copy)
        else:
            self._drop(copy, BUSY)

    def _drop(self, copy: Copy, why: str) -> None:
        self._book.dropped(copy.route.route.name, copy.route.route.generation, why)

    async def _run(self, first: Copy) -> None:
        copy: Copy | None = first
        while copy is not None:
            try:
                await self._send(copy)
            finally:
                self._held -= copy.held
            copy = self._waiting.popleft() if self._waiting else None

    async def _send(self, copy: Copy) -> None:
        target = copy.mirror.target
        timeout_s = target.route.request_timeout_ms / 1000
        started = time.perf_counter()
        seen: Seen | None = None
        first_ms: float | None = None
        stream: Stream | None = None
        status = 0
        try:
            # A target that ends each connection is not to cost two of them for a copy that nobody waits for.
            ask = Ask(target.copies, marked(copy), may_repeat=True, insists=False)
            answering = await ask.answer(timeout_s)
        except NoReplica:
            self._drop(copy, NO_UPSTREAM)
            return
        except UpstreamError as error:
            outcome = Outcome.TIMEOUT if isinstance(error, TimedOut) else Outcome.REFUSED
        else:
            first_ms = _since(started)
            status = answering.connection.status
            stream = opened(answering.connection.fields) if 200 <= status < 300 else None
            try:
                seen = await _whole(target.route.revision, answering.connection, stream, started)
                outcome = Outcome.OK if 200 <= status < 300 else Outcome.MODEL_ERROR
            except TimedOut:
                outcome = Outcome.TIMEOUT
            except UpstreamError:
                outcome = Outcome.TRUNCATED
            finally:
                answering.close()
        measured = _since(started) if seen is not None or outcome is Outcome.TIMEOUT else None
        if stream is not None and seen is None:
            stream.broke(_since(started))
        self._count(copy, outcome, status, measured, first_ms, stream)
        self._pair(copy, seen)

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
            said = (outcome, status, whole_ms, first_ms)
            size = len(copy.message.body)
            self._book.mirrored(route.name, route.generation, revision, *said, size=size, stream=stream)

    def _pair(self, copy: Copy, seen: Seen | None) -> None:
        if copy.live is None:
            self._drop(copy, LIVE_FAILED)
        elif seen is None:
            self._drop(copy, COPY_FAILED)
        elif not self._book.wants_pair(copy.route.route.name, copy.route.route.generation):
            self._drop(copy, NOT_SAMPLED)
        else:
            route = copy.route
            pair = Pair(copy.mirror.kind, copy.request_id, copy.live.answer(route.redact), seen.answer(route.redact))
            self._book.pair(route.route.name, route.route.generation, pair)

    async def drain(self, seconds: float) -> None:
        """Waits for running copies, then ends what is left."""
        while self._waiting:
            self._drop(self._waiting.popleft(), BUSY)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()


def marked(copy: Copy) -> Message:
    """The copy says that it is one, so that a model can leave out what must not happen twice."""
    mark = b"headgate-mirror: %b\r\n" % copy.mirror.kind.value.encode()
    return copy.message.adding(mark)


async def _whole(revision: str, connection: Connection, stream: Stream | None, started: float) -> Seen:
    """Reads to the end, keeping no more than a pair may hold."""
    kept: list[bytes] = []
    size = 0
    ends = time.monotonic() + MAX_SECONDS
    while chunk := await connection.read():
        if stream is not None:
            stream.add(chunk, _since(started))
        if size < MAX_BODY:
            kept.append(chunk[: MAX_BODY - size])
        size += len(chunk)
        if time.monotonic() > ends:
            raise TimedOut(f"still answering after {MAX_SECONDS:g} s")
    return Seen(revision, connection.status, connection.fields, b"".join(kept), cut=size > MAX_BODY)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000

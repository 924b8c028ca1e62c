"""One scoring request as the router sees it: admitted, routed, drawn for copies, counted.

The part of the data path that waits for nothing, shared by its two fronts (the protocol and the ASGI callable), which
bring the bytes in and out. Refuses to touch a body: nothing is decoded, rewritten or logged.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from headgate.evidence import Outcome, PairKind
from headgate_router import headers, mirror, refusals
from headgate_router.access_log import AccessLog, Line
from headgate_router.choose import Unroutable, sticky_point
from headgate_router.copies import Mirrors
from headgate_router.count import Book
from headgate_router.dataplanes.builtin.client import Connection, Listener
from headgate_router.dataplanes.builtin.failures import Abandoned, TimedOut, Unreachable, Untrusted, UpstreamError
from headgate_router.ids import Ids
from headgate_router.mirror import Copy, Seen
from headgate_router.refusals import CLIENT_GONE, Refusal
from headgate_router.routes import LiveMirror, LiveRevision, LiveRoute, Routes
from headgate_router.streams import Stream
from headgate_router.tunnels import Limits
from headgate_router.upstream import Message, NoReplica

MAX_BODY = 100 * 1024 * 1024  # bytes of a request; Azure's managed endpoints take less
MAX_ERROR_BODY: Final = 64 * 1024  # bytes of a model's error that reach the caller
HELD: Final = 1024 * 1024  # bytes of a body that are held, to be repeated and copied; a longer one is streamed
# What members of an enumeration cost to be asked for is worth to be spared on every request.
_OK: Final = Outcome.OK
_CLIENT_GONE: Final = Outcome.CLIENT_GONE
_REFUSED: Final = Outcome.REFUSED
_UNSAFE: Final = re.compile(rb"[\x00-\x20\x7f-\xff#]")
_SCORE: Final = b"score"
CAME_TO_NOTHING = "a request to %s came to nothing"  # logged with what went wrong here
_DIGITS: Final = [b"%d" % n for n in range(1024)]  # of most times; cheaper than to write them each time


@dataclass(frozen=True, slots=True)
class Desk:
    """What every request of this worker shares. `max_body`: bytes."""

    routes: Routes
    book: Book
    mirrors: Mirrors
    random: Random
    max_body: int = MAX_BODY
    log: AccessLog | None = None  # None: requests are counted, and not logged
    ids: Ids = field(default_factory=Ids)
    tunnel_limits: Limits = Limits()


class Request(Listener):
    """From its head to its place in the books. A front calls, in this order: `admit`, `choose`, `message`, `draw`,
    `begin`; then what became of it (`answered`, `unanswered`, `left`), `count` and `copy`.
    """

    __slots__ = (
        "asked",
        "body_size",
        "detail",
        "drawn",
        "fields",
        "first_ms",
        "live",
        "method",
        "name",
        "outcome",
        "query",
        "request_id",
        "rest",
        "revision",
        "seen",
        "shared",
        "started",
        "status",
        "stream",
        "whole_ms",
    )

    takes_websocket = False  # it can become a tunnel

    def __init__(
        self,
        shared: Desk,
        name: str,
        rest: bytes,
        method: bytes,
        query: bytes,
        fields: Sequence[headers.Field],
        asked: headers.Asked,
    ) -> None:
        """`rest`: the raw path below the endpoint, without its leading slash; `fields`: names in lower case;
        `asked`: what was read of them, not changed here.
        """
        self.shared = shared
        self.name = name
        self.rest = rest
        self.method = method
        self.query = query
        self.fields = fields
        self.asked = asked
        self.request_id = self.asked.request_id or shared.ids.next()
        self.detail = ""  # of the refusal returned last
        self.live: LiveRoute | None = None
        self.revision: LiveRevision | None = None
        self.drawn: list[LiveMirror] = []
        self.seen: Seen | None = None
        self.outcome = _CLIENT_GONE  # until something better is known
        self.status = CLIENT_GONE
        self.body_size: int | None = None  # bytes; None: sent in chunks, and longer than is held
        self.started = 0.0
        self.stream: Stream | None = None  # the answer is one of events
        self.whole_ms: float | None = None
        self.first_ms: float | None = None

    # Checking and choosing.

    def admit(self) -> Refusal | None:
        """Before any of the body is read: is there such an endpoint, may this caller ask, does it make sense."""
        self.live = live = self.shared.routes.find(self.name)
        if live is None:
            return refusals.NO_ENDPOINT
        if self.asked.ambiguous:
            return refusals.BAD_REQUEST
        if self.asked.admitted is not live.door:
            refusal = live.door.refuses(self.asked.authorization)
            if refusal is not None:
                return refusal
            self.asked.admitted = live.door if live.door.lasting else None
        if self.asked.websocket and not self.takes_websocket:
            return refusals.NO_WEBSOCKET
        return refusals.TOO_LARGE if (self.asked.length or 0) > self.shared.max_body else None

    def choose(self) -> Refusal | None:
        """When the body is read, or too long to be held: sets `live` and `revision`.

        A table that came meanwhile decides, so that no request read after its ack is answered by what it moved traffic
        away from.
        """
        live = self.live = self.shared.routes.find(self.name) or self.live
        if live is None:
            return refusals.NO_ENDPOINT
        try:
            self.revision = live.revisions[self._choice(live)]
        except Unroutable as error:
            self.detail = str(error)
            return refusals.NO_DEPLOYMENT
        return None

    def _choice(self, live: LiveRoute) -> str:
        overrides = self.asked.overrides
        if overrides:
            if len(overrides) > 1:
                raise Unroutable("the header azureml-model-deployment is given more than once")
            return live.chooser.named(overrides[0].decode("latin-1").strip()).revision
        if live.sticky_by != "none":
            find = headers.cookie if live.sticky_by == "cookie" else headers.find
            key = find(self.fields, live.sticky_name)
            if key:
                return live.chooser.sticky(sticky_point(self.name, key)).revision
        return live.chooser.live().revision

    def message(self, body: bytes, *, more: bool) -> Message | None:
        """What goes to the model; `more`: `body` is only what came so far.

        None: the head holds what must not be passed on.
        """
        if self.revision is None:
            return None
        self.body_size = self.asked.length if more else len(body)
        start_line = self._start_line(self.revision.model_path)
        fields = self.asked.lines()
        if fields is None or start_line is None:
            self.revision = None
            return None
        framed = headers.framing(self.method, len(body), self.asked.length, more=more)
        return Message(
            start_line=start_line,
            fields=b"%bx-ms-request-id: %b\r\n%b" % (fields, self.request_id, framed),
            body=headers.chunk(body) if more and self.asked.length is None else body,
            head_only=self.method == b"HEAD",
        )

    def _start_line(self, model_path: bytes) -> bytes | None:
        """As the model gets it; None: it must not be passed on. The same head to the same path begins alike again."""
        asked = self.asked
        if asked.start_line and asked.model_path == model_path:
            return asked.start_line
        target = model_path if self.rest == _SCORE else b"/" + self.rest
        if self.query:
            target += b"?" + self.query
        if _UNSAFE.search(target):
            return None
        asked.model_path = model_path
        asked.start_line = b"%b %b HTTP/1.1\r\n" % (self.method, target)
        return asked.start_line

    def draw(self, *, more: bool) -> None:
        """Which mirrors get a copy: each drawn by itself, never by the split."""
        live = self.live
        if live is None or not live.mirrors:
            return
        for one in live.mirrors:
            if self.shared.random.random() >= one.chance:
                continue
            if one.kind is PairKind.ECHO and one.target is not self.revision:
                continue  # an echo asks the one who answered, again
            why = self._why_not(live, more=more)
            if why:
                self.shared.book.dropped(self.name, live.route.generation, why)
            else:
                self.drawn.append(one)

    def _why_not(self, live: LiveRoute, *, more: bool) -> str:
        if self.asked.overrides:
            return mirror.OVERRIDE
        if not live.route.repeatable:
            return mirror.NOT_REPEATABLE
        return mirror.TOO_LARGE if more else ""

    # What became of it.

    def begin(self) -> None:
        """It goes to a replica now."""
        self.started = time.monotonic()

    def elapsed(self) -> float:
        """Milliseconds since `begin`."""
        return self.until(time.monotonic())

    def until(self, now: float) -> float:
        """Milliseconds from `begin` to `now`, of the monotonic clock."""
        return (now - self.started) * 1000

    def answered(self, connection: Connection, body: bytes, *, cut: bool, at_once: bool = False) -> None:
        """The answer is whole; `body`: at most mirror.MAX_BODY bytes of it are remembered for a comparison.

        `at_once`: with its head.
        """
        self.whole_ms = self.first_ms if at_once else self.elapsed()
        if 200 <= connection.status < 300:
            self.outcome, self.status = _OK, connection.status
        else:
            self.outcome, self.status = Outcome.MODEL_ERROR, refusals.MODEL_ERROR.status
        if self.drawn and self.revision is not None:
            kept = body[: mirror.MAX_BODY]
            cut = cut or len(kept) < len(body)
            self.seen = Seen(self.revision.route.revision, connection.status, connection.fields, kept, cut)

    def broke_off(self, error: UpstreamError) -> None:
        """The answer's head was out, and now no more comes."""
        self.outcome = Outcome.TIMEOUT if isinstance(error, TimedOut) else Outcome.TRUNCATED
        if self.stream is not None:
            self.stream.broke(self.elapsed())

    def unanswered(self, error: UpstreamError) -> Refusal | None:
        """No answer began: what the caller is told; None: it left."""
        if isinstance(error, Abandoned):
            return None
        if isinstance(error, TimedOut):
            self.whole_ms = self.elapsed()
            return self.refused_by(refusals.TIMED_OUT)
        if isinstance(error, Untrusted):
            return self.refused_by(refusals.UPSTREAM_TLS)
        return self.refused_by(refusals.NOT_READY if isinstance(error, NoReplica | Unreachable) else refusals.BROKEN)

    def refused_by(self, refusal: Refusal) -> Refusal:
        """An answer of our own, after a revision was chosen."""
        self.status = refusal.status
        if refusal is refusals.TIMED_OUT:
            self.outcome = Outcome.TIMEOUT
        elif refusal is not refusals.TOO_LARGE:  # the caller's fault: stays `client_gone`, which blames no model
            self.outcome = _REFUSED
        return refusal

    def left(self) -> None:
        """The caller is gone."""
        self.outcome, self.status = _CLIENT_GONE, CLIENT_GONE

    def refused(self, status: int) -> None:
        """Counts an answer of our own to a request that reached no revision."""
        if self.live is None:
            self.shared.book.no_endpoint(status)
        else:
            self.shared.book.refused(self.name, self.live.route.generation, status)
        if self.shared.log is not None:
            self._note(self.shared.log, status, "")

    def count(self) -> None:
        """Counts a request whose revision was chosen; once, when its answer has ended."""
        if self.revision is None or self.live is None:
            return
        self.shared.book.live(
            self.name,
            self.live.route.generation,
            self.revision.route.revision,
            self.outcome,
            self.status,
            self.whole_ms,
            self.first_ms,
            chosen=bool(self.asked.overrides),
            size=self.body_size,
            stream=self.stream,
        )
        if self.shared.log is not None:
            self._note(self.shared.log, self.status, self.outcome.value)

    def _note(self, log: AccessLog, status: int, outcome: str) -> None:
        """For the access log, when it wants this request."""
        if not log.wants():
            return
        revision = self.revision.route if self.revision is not None else None
        log.add(
            Line(
                method=self.method,
                endpoint=self.name,
                path=self.rest,
                status=status,
                outcome=outcome,
                deployment=revision.deployment if revision else "",
                revision=revision.revision if revision else "",
                generation=self.live.route.generation if self.live is not None else None,
                first_ms=self.first_ms,
                whole_ms=self.whole_ms,
                request_id=self.request_id,
                client_id=self.asked.client_id,
            )
        )

    def copy(self, message: Message) -> None:
        """Offers the copies drawn; after a request that no model worked on there is nothing to copy."""
        if not self.drawn or self.live is None:
            return
        if self.outcome is _REFUSED:
            self.shared.book.dropped(self.name, self.live.route.generation, mirror.LIVE_FAILED, len(self.drawn))
            return
        request_id = self.request_id.decode()
        for one in self.drawn:
            start_line = _to(one.target, message.start_line, self.rest)
            copied = Message(start_line, message.fields, message.body, message.head_only)
            self.shared.mirrors.offer(Copy(self.live, one, copied, request_id, self.seen))

    # What the caller is told in fields.

    def said(self) -> list[headers.Field]:
        """Fields of ours on every answer."""
        fields = [(b"x-ms-request-id", self.request_id)]
        if self.asked.client_id:
            fields.append((b"x-ms-client-request-id", self.asked.client_id))
        if self.revision is not None:
            fields += self.revision.fields
        if self.first_ms is not None:
            fields.append((b"ms-azureml-model-time", b"%d" % self.first_ms))
        return fields

    def said_lines(self) -> bytes:
        """`said`, as it goes out."""
        if self.asked.client_id or self.revision is None or self.first_ms is None:
            return headers.lines(self.said())
        whole = int(self.first_ms)
        ms = _DIGITS[whole] if whole < len(_DIGITS) else b"%d" % whole
        return b"x-ms-request-id: %b\r\n%bms-azureml-model-time: %b\r\n" % (self.request_id, self.revision.lines, ms)


def of_error(connection: Connection, length: int) -> list[headers.Field]:
    """Fields of a 424 that passes on `length` bytes of what the model said."""
    fields = [
        (b"ms-azureml-model-error-statuscode", b"%d" % connection.status),
        (b"ms-azureml-model-error-reason", headers.one_line(connection.reason)),
        (b"content-length", b"%d" % length),
    ]
    for name in (b"content-type", b"content-encoding"):
        value = headers.find(connection.fields, name)
        if value:
            fields.append((name, value))
    return fields


def _to(target: LiveRevision, start_line: bytes, rest: bytes) -> bytes:
    """The start line for another revision, whose scoring path may be another."""
    if rest != _SCORE:
        return start_line
    method, uri, version = start_line.split(b" ", 2)
    _, question, query = uri.partition(b"?")
    return b"%b %b%b%b %b" % (method, target.model_path, question, query, version)

"""What a copy of a live request is, what is kept of its answer, and why one was not sent.

Copies go to the candidate (compare), or to the stable again to learn its noise (echo). Refuses to compare what could
not be read whole. How they are sent: `copies`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from headgate.evidence import Answer
from headgate_router import headers
from headgate_router.redact import Path, blank
from headgate_router.routes import LiveMirror, LiveRoute
from headgate_router.upstream import Message

MAX_BODY: Final = 64 * 1024  # bytes of an answer that go into a pair

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


class Seen:
    """An answer as it went by: what may become one half of a pair. Never changed.

    Neither this nor a copy is a dataclass: there are many, and a frozen one costs ten times as much to make.
    """

    __slots__ = ("body", "cut", "fields", "revision", "status")

    def __init__(
        self, revision: str, status: int, fields: Sequence[tuple[bytes, bytes]], body: bytes, cut: bool
    ) -> None:
        self.revision = revision
        self.status = status
        self.fields = fields
        self.body = body  # at most MAX_BODY
        self.cut = cut

    def answer(self, redact: Sequence[Path]) -> Answer:
        media_type = headers.find(self.fields, b"content-type").decode("latin-1")[:100]
        try:
            text = None if self.cut else blank(self.body.decode(), redact)
        except UnicodeDecodeError:
            # What cannot be read cannot be blanked: then not even its digest leaves.
            digest = "" if redact else hashlib.sha256(self.body).hexdigest()
            return Answer(self.revision, self.status, media_type, "", cut=True, digest=digest)
        return Answer(self.revision, self.status, media_type, text or "", cut=text is None)


class Copy:
    """A request that is sent again. Never changed."""

    __slots__ = ("held", "live", "message", "mirror", "request_id", "route")

    def __init__(
        self, route: LiveRoute, mirror: LiveMirror, message: Message, request_id: str, live: Seen | None
    ) -> None:
        """`live`: None: the live answer did not end whole."""
        self.route = route
        self.mirror = mirror
        self.message = message
        self.request_id = request_id
        self.live = live
        self.held = len(message.body) + (len(live.body) if live is not None else 0)  # bytes


def marked(copy: Copy) -> Message:
    """The copy says that it is one, so that a model can leave out what must not happen twice."""
    mark = b"headgate-mirror: %b\r\n" % copy.mirror.kind.value.encode()
    return copy.message.adding(mark)

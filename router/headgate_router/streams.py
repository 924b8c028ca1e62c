"""What an answer of events (`text/event-stream`) shows as it goes by: when its events came, and how it ended.

Refuses to touch or to keep the bytes: blank lines are counted, and a short tail is looked at once, at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from headgate_router import headers

TAIL: Final = 512  # bytes in which the last events of a model that writes `[DONE]` lie
PIECES: Final = 16  # of an answer that are held before they are cut to that length
_LF: Final = 10
_CR: Final = 13
_REASON: Final = re.compile(rb'"finish_reason"\s*:\s*"(\w{1,20})"')
REASONS = ("stop", "length", "content_filter", "tool_calls")  # others are `other`: labels stay few


class Stream:
    """One answer. Times are milliseconds since the request went to the replica."""

    __slots__ = ("_at_start", "_pieces", "events", "first", "gap", "last")

    def __init__(self) -> None:
        self.events = 0
        self.first: float | None = None
        self.last = 0.0
        self.gap: float | None = None  # the longest between two arrivals of events
        self._pieces: list[bytes] = []  # that came last, the tail among them
        self._at_start = False  # what comes next begins an event, unless it is another line end

    def add(self, data: bytes, ms: float) -> None:
        """More of the answer, not empty. Events that arrive together have one time."""
        ended = self._ended(data)
        self._at_start = data.endswith(b"\n\n")
        self._pieces.append(data if len(data) <= TAIL else data[-TAIL:])
        if len(self._pieces) == PIECES:
            self._pieces = [self._tail()]
        if ended <= 0:
            return
        self.events += ended
        if self.first is None:
            self.first = ms
        else:
            self.gap = max(self.gap or 0.0, ms - self.last)
        self.last = ms

    def _ended(self, data: bytes) -> int:
        """Events that end with or within `data`."""
        if self._at_start and data[0] != _LF:
            ended, joined = data.count(b"\n\n"), data
        else:
            edge = b"".join(self._pieces[-3:])[-3:]
            joined = edge + data
            ended = joined.count(b"\n\n") - edge.count(b"\n\n")
        # A number: of bytes Python would first ask whether they are one, and make an exception of it each time.
        return ended + joined.count(b"\r\n\r\n") if _CR in joined else ended

    def _tail(self) -> bytes:
        return b"".join(self._pieces)[-TAIL:]

    def broke(self, ms: float) -> None:
        """No more comes, and the answer is not whole: the silence before is a gap too."""
        self.gap = max(self.gap or 0.0, ms - self.last)

    @property
    def pace(self) -> float | None:
        """Milliseconds per event after the first; None: there was one, or all came at once."""
        if self.first is None or self.events < 2 or self.last <= self.first:
            return None
        return (self.last - self.first) / (self.events - 1)

    @property
    def finish(self) -> str:
        """stop, length, ... as the model says; done: it only said that it is; open: it said nothing."""
        tail = self._tail()
        found = _REASON.findall(tail)
        if found:
            reason = found[-1].decode()
            return reason if reason in REASONS else "other"
        return "done" if b"[DONE]" in tail else "open"


def opened(fields: Sequence[headers.Field]) -> Stream | None:
    """For an answer with these fields; None: it is not one of events."""
    kind = headers.find(fields, b"content-type")
    return Stream() if kind[:17].lower() == b"text/event-stream" else None

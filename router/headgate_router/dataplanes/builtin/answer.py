"""An answer as it is read off a connection: head, body, end, and what of it the parser need not see again.

Refuses to say anything of the connection itself: that is `client`.
"""

from __future__ import annotations

from typing import Final

import httptools

MAX_KNOWN: Final = 4 * 1024  # bytes of a head that is remembered


class Known:
    """The head of a whole answer of declared length, as it was parsed: the same bytes mean the same again."""

    __slots__ = ("fields", "lines", "raw", "reason", "size", "status")

    def __init__(self, raw: bytes, size: int, status: int, reason: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        self.raw = raw
        self.size = size  # bytes of head and body
        self.status = status
        self.reason = reason
        self.fields = fields
        self.lines: bytes | None = None  # for the listener: what it says to its caller of such an answer


class Answer:
    """What came of the answer to the last request; `_reset` begins another."""

    __slots__ = (
        "_between",
        "_buffer",
        "_coded",
        "_head_only",
        "_in_chunk",
        "_informational",
        "_known",
        "_length",
        "_parser",
        "_size",
        "_until_eof",
        "answered",
        "done",
        "fields",
        "headed",
        "keep",
        "known",
        "reason",
        "status",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._known: Known | None = None  # of the last answer that came at once

    def _reset(self, *, head_only: bool) -> None:
        self.status = 0
        self.reason = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.answered = False  # any byte of the answer came
        self.headed = False  # status and fields are complete
        self.done = False
        self.keep = False
        self._head_only = head_only
        self._informational = False
        self._until_eof = False
        self._length = False  # the answer's length is declared
        self._coded = False  # it comes in chunks
        self._in_chunk = False
        self._between = False  # the parser stands between two chunks: of whole ones it need not know
        self.known: Known | None = None  # the answer has this head
        self._buffer: list[bytes] = []
        self._size = 0

    def _seen_before(self, data: bytes) -> bool:
        """Whether it is a whole answer with the head of one before: then the parser need not read it.

        A model says the same head again and again, but for its date. The parser stands between two messages then and
        now: it would come to the same result.
        """
        known = self._known
        if known is None or len(data) != known.size or self._head_only or not data.startswith(known.raw):
            return False
        self.known = known
        self.status, self.reason, self.fields = known.status, known.reason, known.fields
        self.headed = self.keep = self.done = True
        if known.size > len(known.raw):
            self._buffer.append(data[len(known.raw) :])
        return True

    def _remember(self, data: bytes) -> None:
        """If the answer came at once, and is whole."""
        size = len(data) - self._size
        if self.done and self.keep and self._length and size <= MAX_KNOWN and data.endswith(b"\r\n\r\n", 0, size):
            known = Known(data[:size], len(data), self.status, self.reason, self.fields)
            self._known = self.known = known

    # httptools callbacks.

    def on_message_begin(self) -> None:
        if self.done:
            self.keep = False

    def on_status(self, reason: bytes) -> None:
        if not self.headed:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:  # else a trailer: dropped, for no caller agreed to any
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._informational = True
            return
        if self.headed:
            return
        self.status = status
        self.headed = True
        # Asked here and not at the end of the message, where the parser always says no.
        self.keep = self._parser.should_keep_alive()
        names = [name for name, _ in self.fields]
        self._coded = b"transfer-encoding" in names
        self._length = b"content-length" in names and not self._coded
        self._until_eof = status not in (204, 304) and not self._length and not self._coded
        if self._head_only:  # no body follows, which the parser cannot know
            self.done = True
            self.keep = False

    def on_chunk_header(self) -> None:
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        self._in_chunk = False

    def on_body(self, chunk: bytes) -> None:
        if not self.done:
            self._buffer.append(chunk)
            self._size += len(chunk)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            self.reason = b""
            self.fields = []
        else:
            self.done = True

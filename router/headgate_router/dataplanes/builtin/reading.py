"""A caller's bytes as requests: what is whole, where it ends, and what cannot be read in one way only.

A head is fed to the parser as far as its end and no further, a body as far as its end: so nothing of a next request is
read before the one before it is answered. Refuses to decide what becomes of a request: that is `protocol`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Final

import httptools

from headgate_router import headers, refusals
from headgate_router.dataplanes.builtin.caller import Caller
from headgate_router.dataplanes.builtin.guard import MAX_HEAD
from headgate_router.refusals import Refusal

OVERHEAD: Final = 16  # bytes of chunk framing that each byte of a body may cost, beyond what a head may
END: Final = b"\r\n\r\n"


@dataclass(slots=True)
class Known:
    """The head of a scoring request, as it was read: the same bytes on the same connection mean the same again."""

    raw: bytes
    name: str
    below: bytes
    method: bytes
    query: bytes
    fields: list[headers.Field]
    asked: headers.Asked


class Reading(Caller):
    """The request that is read now; `_reset` begins another."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._raw = bytearray()  # of a head that came in pieces
        self._fields: list[headers.Field] = []
        self._pieces: list[bytes] = []

    def _reset(self) -> None:
        """Before a request."""
        if self._raw:
            self._raw = bytearray()
        self._url = b""
        if self._fields:  # they are the request's now
            self._fields = []
        if self._pieces:
            self._pieces = []
        self._headed = False
        self._whole = False
        self._keep = True
        self._upgrade = False
        self._counts = False  # the end of the body is found by us, not by the parser
        self._twice = False
        self._rest: int | None = None  # bytes of the body to come; None: it is chunked
        self._tail = b""  # the last bytes of a chunked body
        self._overhead = MAX_HEAD

    @abstractmethod
    def _fail(self, refusal: Refusal) -> None:
        """What came cannot be read as a request."""

    def _parsed(self, piece: bytes) -> bool:
        """Feeds the parser; False: it is not HTTP, and the connection ends."""
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._upgrade = True
        except httptools.HttpParserCallbackError:
            raise  # what we note of it failed: no fault of the caller's
        except httptools.HttpParserError:
            self._fail(refusals.BAD_REQUEST)
            return False
        if self._twice:
            self._fail(refusals.BAD_REQUEST)
        return not self._twice

    def _counted(self, piece: bytes) -> None:
        """Part of a body of a declared length."""
        if self._counts:
            self._pieces.append(piece)
            self._whole = not self._rest
        elif self._parsed(piece) and self._whole != (not self._rest):
            self._fail(refusals.BAD_REQUEST)

    def _chunked(self, data: bytes) -> int:
        """Part of a chunked body: fed piece by piece, each up to where the body might end; the bytes fed."""
        straddles = (self._tail + data[:3]).find(END)
        cut = straddles + len(END) - len(self._tail) if straddles >= 0 else 0
        start = 0
        while start < len(data):
            if not cut:
                found = data.find(END, max(0, start - 3))
                cut = found + len(END) if found >= 0 else len(data)
            if not self._parsed(data[start:cut]) or self._whole:
                break
            start, cut = cut, 0
        else:
            cut = len(data)
        self._tail = (self._tail + data[max(0, cut - 3) : cut])[-3:]
        return cut

    # httptools callbacks: they only note what was read.

    def on_message_begin(self) -> None:
        self._twice = self._headed  # never: nothing is fed beyond the end of a message

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # else a trailer: dropped
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._headed = True
        self._keep = self._parser.should_keep_alive()  # asked at the end of the message it has forgotten

    def on_body(self, chunk: bytes) -> None:
        self._pieces.append(chunk)

    def on_message_complete(self) -> None:
        self._whole = True

"""Whole chunks of a body, recognized without a parser, so that they can go on as they came.

Refuses everything but a bare size in lower-case hex without zeros before it: what else may stand there is the parser's.
"""

from __future__ import annotations

from typing import Final

_END: Final = b"\r\n"
_MOST: Final = 10  # bytes of a size and its line end that are looked at
_STARTS: Final = [b"%x\r\n" % size for size in range(1024)]  # of most events; cheaper than to write them each time


def whole(data: bytes) -> bytes | None:
    """What chunks hold, together; None: `data` is not whole chunks and nothing else, or the last of a body is there."""
    size = len(data)
    digits = 1 if size < 22 else 2 if size < 263 else 3 if size < 4104 else 4
    length = size - 4 - digits  # if it is one chunk
    if length <= 0 or not data.endswith(_END):
        return None
    start = _STARTS[length] if length < len(_STARTS) else b"%x\r\n" % length
    return data[len(start) : -2] if data.startswith(start) else _several(data)


def _several(data: bytes) -> bytes | None:
    parts = []
    at = 0
    while at < len(data):
        end = data.find(_END, at, at + _MOST)
        said = data[at:end] if end > at else b""
        if not said.isalnum():
            return None
        try:
            length = int(said, 16)
        except ValueError:
            return None
        start = end + 2
        at = start + length + 2
        if not length or b"%x" % length != said or data[at - 2 : at] != _END:
            return None
        parts.append(data[start : at - 2])
    return b"".join(parts)

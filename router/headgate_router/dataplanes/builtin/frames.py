"""Where the frames of a WebSocket begin and end (RFC 6455, 5.2), and whether one of them closed it.

Refuses to look at a payload: what it holds, masked or compressed, is between the two who speak.
"""

from __future__ import annotations

_CLOSE = 8
GOING_AWAY = b"\x88\x02\x03\xe9"  # 1001, from the model's side
GOING_AWAY_MASKED = b"\x88\x82\x00\x00\x00\x00\x03\xe9"  # the same, from the caller's side, which must mask


class Frames:
    """One direction. `feed` it every byte."""

    __slots__ = ("_head", "_left", "closed")

    def __init__(self) -> None:
        self._head = b""  # of a frame, not whole yet
        self._left = 0  # bytes of a payload to come
        self.closed = False  # a Close frame began

    @property
    def between(self) -> bool:
        """The last frame is whole: another may follow."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            before = len(self._head)
            head = self._head + data[at : at + 14 - before]  # 14 bytes: the longest head there is
            size = _size(head)
            if len(head) < size:
                self._head = head
                return
            self._head = b""
            self._left = _payload(head)
            self.closed |= head[0] & 15 == _CLOSE
            at += size - before


def _size(head: bytes) -> int:
    """Bytes of the whole head, as far as these say."""
    if len(head) < 2:
        return 2
    return 2 + {126: 2, 127: 8}.get(head[1] & 127, 0) + (4 if head[1] & 128 else 0)


def _payload(head: bytes) -> int:
    short = head[1] & 127
    return short if short < 126 else int.from_bytes(head[2 : 4 if short == 126 else 10])

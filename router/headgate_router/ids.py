"""Ids of requests."""

from __future__ import annotations

from random import Random
from typing import Final

_ID: Final = 32  # digits of an id
_IDS: Final = 256  # drawn at once


class Ids:
    """Ids of requests that bring none: 128 random bits each, drawn many at a time, for drawing is not cheap."""

    __slots__ = ("_at", "_drawn", "_random")

    def __init__(self) -> None:
        self._random = Random()  # seeded by the system: workers must not draw alike
        self._drawn = b""  # in hex
        self._at = 0

    def next(self) -> bytes:
        if self._at == len(self._drawn):
            self._drawn = self._random.randbytes(_IDS * _ID // 2).hex().encode()
            self._at = 0
        self._at += _ID
        return self._drawn[self._at - _ID : self._at]

"""The caller's connection, as a request that came over it sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Caller(ABC):
    """What a request asks of its connection."""

    __slots__ = ()

    @abstractmethod
    def write(self, data: bytes) -> None: ...

    @abstractmethod
    def hold(self) -> None:
        """Read no more of the request for now."""

    @abstractmethod
    def release(self) -> None:
        """The end of `hold`."""

    @abstractmethod
    def abort(self) -> None:
        """The answer cannot be ended: let the caller see that it is cut short."""

    @abstractmethod
    def date(self) -> bytes:
        """What the server itself says on every answer."""

    @abstractmethod
    def stays(self, *, last: bool) -> bool:
        """Asked when an answer's head is written: whether the connection outlives it; `last`: it must not."""

    @abstractmethod
    def answered(self) -> None:
        """The whole answer was written."""

"""What the callers' connections of a worker share, and how many of them there may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from headgate_router import headers
from headgate_router.request import Desk

CONNECTIONS = 32_768


@dataclass(slots=True)
class Doors:
    """What the connections of a worker share."""

    desk: Desk
    suffix: bytes = b""  # of hosts, `.DOMAIN`
    most: int = CONNECTIONS
    most_of_one: int = CONNECTIONS // 2  # of one client address
    clients: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # connections
    _dated: Sequence[headers.Field] = ()
    _date: bytes = b""

    def date(self, fields: Sequence[headers.Field]) -> bytes:
        """Fields that the server says on every answer, as they go out; it makes a new list every second."""
        if fields is not self._dated:
            self._dated, self._date = fields, headers.lines(fields)
        return self._date

    def enter(self, client: str, now_open: int) -> bool:
        """Whether one more connection from there is taken."""
        if now_open >= self.most or (client and self.clients[client] >= self.most_of_one):
            self.refused += 1
            return False
        self.clients[client] += 1
        return True

    def leave(self, client: str) -> None:
        self.clients[client] -= 1
        if not self.clients[client]:
            del self.clients[client]

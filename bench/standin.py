"""The controller's half of the exchange, for routers under test: each call is held until there is a newer table.

Refuses to check or to count what routers deliver.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from headgate import codec
from headgate.control import EXCHANGE_HOLD_S, ExchangeReply, ExchangeRequest
from headgate.table import RouteTable


class Standin(ABC):
    def __init__(self) -> None:
        self._news = asyncio.Event()

    @abstractmethod
    def current(self) -> RouteTable:
        """What routers are to serve by now."""

    @abstractmethod
    def heard(self, worker: str, generation: int) -> None:
        """A worker said what it serves by; -1: nothing yet."""

    def tell(self) -> None:
        """`current` is another."""
        self._news.set()
        self._news = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a router, until it ends."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                reply = codec.canonical(await self._answer(codec.decode(ExchangeRequest, body)))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(reply), reply))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, asked: ExchangeRequest) -> ExchangeReply:
        acked = asked.acked.generation if asked.acked else -1
        news = self._news
        self.heard(asked.worker, acked)
        if self.current().generation <= acked:
            await asyncio.wait((asyncio.ensure_future(news.wait()),), timeout=EXCHANGE_HOLD_S)
        table = self.current()
        return ExchangeReply(asked.sequence, table if table.generation > acked else None)

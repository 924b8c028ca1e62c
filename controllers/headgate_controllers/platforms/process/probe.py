"""Asking a replica how it is, over one connection that stays open: its end is the news that the replica died.

Loopback only, GET only, small answers only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

ANSWER_LIMIT = 65_536  # bytes; more than that is no answer to a probe


@dataclass(frozen=True, slots=True)
class Answer:
    status: int  # 0: none came
    text: str  # of the body, or why there is none
    refused: bool = False  # nobody listens there

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 400


class Probing:
    """A keep-alive HTTP/1.1 client for one address at a time, one request at a time.

    Args:
        on_end: called when the other side closed the connection.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._line: Line | None = None

    async def ask(self, address: str, path: str, timeout_s: float) -> Answer:
        """Never raises for what the other side does: what went wrong is the answer."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._line is None or self._line.ended:
                    host, _, port = address.removeprefix("http://").rpartition(":")
                    loop = asyncio.get_running_loop()
                    _, self._line = await loop.create_connection(lambda: Line(self._on_end), host, int(port))
                return await self._line.get(path)
        except TimeoutError:
            self.close()
            return Answer(0, f"no answer within {timeout_s:g} s")
        except ConnectionRefusedError:
            return Answer(0, "nobody listens", refused=True)
        except (OSError, ValueError) as error:
            self.close()
            return Answer(0, f"no answer: {error}")

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self.ended = False
        self._on_end = on_end
        self._closed = False
        self._received = b""
        self._waiting: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport

    async def get(self, path: str) -> Answer:
        self._received = b""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(f"GET {path} HTTP/1.1\r\nhost: replica\r\n\r\n".encode("ascii"))
        return await self._waiting

    def close(self) -> None:
        self._closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = parse(self._received)
        if answer is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(0, "the connection was closed"))
        if not self._closed:
            self._on_end()


def parse(received: bytes) -> Answer | None:
    """The answer, once it is whole. Raises nothing: what cannot be read is an answer without status."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return None if len(received) < ANSWER_LIMIT else Answer(0, "an endless answer")
    lines = head.decode("latin-1").split("\r\n")
    fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    try:
        status = int(lines[0].split(" ")[1])
        length = int(fields.get("content-length", "0"))
    except (IndexError, ValueError):
        return Answer(0, "not an HTTP answer")
    if length > ANSWER_LIMIT:
        return Answer(0, "an endless answer")
    return Answer(status, body[:length].decode(errors="replace")) if len(body) >= length else None

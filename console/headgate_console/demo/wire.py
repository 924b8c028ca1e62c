"""A small HTTP/1.1 client for load: keep-alive connections, one request at a time each, no retry.

A general client costs more processor time per request than the router that is being asked. It refuses to be clever:
what goes wrong is an answer with status 0 and a note, so that nothing is hidden from whoever counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import httptools

IDLE_S = 2.0  # a connection idle for longer is closed here, before a server's keep-alive timeout races with a request


@dataclass(slots=True)
class Reply:
    """`status` 0: no answer came, `note` says why."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    note: str = ""


class Connection(asyncio.Protocol):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self.idle_since = 0.0

    def ask(self, request: bytes) -> asyncio.Future[Reply]:
        assert self._transport is not None
        self._reply = Reply()
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _end(self, note: str = "") -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(Reply(note=note) if note else self._reply)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(f"connection lost: {error or 'closed by the server'}")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._reply.body += body

    def on_message_complete(self) -> None:
        self._reply.status = self._parser.get_status_code()
        keep = self._parser.should_keep_alive()
        self._end()
        if keep:
            self._pool.give(self)
        else:
            self.close()


class Pool:
    """Connections to one address; the most recently used first, so that the others grow old and are closed."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: deque[Connection] = deque()
        self._loop = asyncio.get_running_loop()

    async def ask(self, request: bytes, timeout_s: float) -> Reply:
        connection = self._take()
        if connection is None:
            try:
                async with asyncio.timeout(timeout_s):
                    _, connection = await self._loop.create_connection(lambda: Connection(self), self._host, self._port)
            except (OSError, TimeoutError) as error:
                return Reply(note=f"cannot connect: {error or 'timed out'}")
        try:
            async with asyncio.timeout(timeout_s):
                return await connection.ask(request)
        except TimeoutError:
            connection.close()
            return Reply(note=f"no answer in {timeout_s:g} s")

    def give(self, connection: Connection) -> None:
        connection.idle_since = self._loop.time()
        self._idle.append(connection)

    def _take(self) -> Connection | None:
        oldest = self._loop.time() - IDLE_S
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def post(host: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """The bytes of one request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

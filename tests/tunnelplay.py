"""WebSocket through a router worker, or its Envoy: what `tests/integration/test_tunnel*.py` play with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

import envoyplane
import routerplay
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.dataplanes.envoy.process import TUNNELS
from headgate_router.main import ENVOY, Settings, Worker

KEY = hashlib.sha256(b"k").hexdigest()
AUTH = {"authorization": "Bearer k"}
DEADLINE_S = 30.0
UPGRADE = (
    b"GET /endpoints/e/chat?room=1 HTTP/1.1\r\nhost: h\r\nauthorization: Bearer k\r\nconnection: Upgrade\r\n"
    b"upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


def row(name: str, share: int, address: str, **more: Any) -> RouteRevision:
    settings = {"max_concurrent_per_instance": 50, "request_timeout_ms": 20_000, "websocket": True, **more}
    return RouteRevision(f"{name}-1", name, share, (address,), **settings)


class System:
    """A worker, and the models behind it."""

    def __init__(self, worker: Worker, port: int) -> None:
        self.worker = worker
        self.port = port
        self.seen: list[Request] = []  # handshakes, as models got them

    async def route(self, *rows: RouteRevision, **more: Any) -> None:
        """A new table; returns when it decides."""
        self.worker.routes.swap(self.table(*rows, **more))
        if self.worker.side is not None:
            await self.worker.side.plane.served(DEADLINE_S)

    def table(self, *rows: RouteRevision, **more: Any) -> RouteTable:
        """The next one."""
        table = self.worker.routes.table
        generation = table.generation + 1 if table else 1
        route = EndpointRoute("e", generation, "c" * 40, rows, keys=(KEY,), **more)
        return seal(RouteTable(generation, "c" * 40, {"e": route}))

    def connect(self, **more: Any) -> Any:
        headers = {**AUTH, **more.pop("headers", {})}
        url = f"ws://127.0.0.1:{self.port}/endpoints/e/chat?room=1"
        return connect(url, additional_headers=headers, open_timeout=DEADLINE_S, proxy=None, **more)

    async def raw(self, data: bytes = UPGRADE) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        return reader, writer

    @asynccontextmanager
    async def model(self, name: bytes = b"model", **more: Any) -> AsyncIterator[str]:
        """A WebSocket server that says its name, then every message back."""

        async def echo(connection: ServerConnection) -> None:
            assert connection.request is not None
            self.seen.append(connection.request)
            await connection.send(name)
            async for message in connection:
                await connection.send(message)

        async with serve(echo, "127.0.0.1", 0, **more) as server:
            yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"

    @property
    def envoys(self) -> bool:
        """It is Envoy that tunnels: it says no Close of its own, and does not tell open tunnels by revision."""
        return self.worker.side is not None

    async def open(self) -> int:
        if self.worker.side is not None:
            return (await self.worker.side.envoy.stats())[TUNNELS]
        return self.worker.book.tunnels.open.total()

    async def settled(self) -> None:
        if self.worker.side is not None:
            return await envoyplane.settled(self.worker.side)
        return await until(lambda: self.worker.book.in_flight == 0)

    def outcomes(self, revision: str = "blue-1") -> dict[str, int]:
        (batch,) = self.worker.book.seal(1.0)
        return dict(batch.live[revision].outcomes)


@asynccontextmanager
async def speaking(act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A model that reads a head, then does as it likes."""
    tasks = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        if current is not None:
            tasks.add(current)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await act(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(0.005)


def on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on both data paths that tunnel."""
    monkeypatch.setitem(routerplay.PLANES, "now", request.param)
    if request.param == ENVOY:
        envoyplane.expect(request)


def run(folder: Path, scenario: Callable[[System], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def whole() -> None:
        settings.setdefault("dataplane", routerplay.PLANES["now"])
        beside = settings["dataplane"] == ENVOY
        sock = envoyplane.prepare(settings) if beside else listen.bind("127.0.0.1", 0)
        worker = Worker(Settings(DataFolder(folder), "router-0", **settings))
        port = sock.getsockname()[1]
        serving = asyncio.create_task(worker.serve(sock))
        try:
            if beside:
                await envoyplane.listening(f"http://127.0.0.1:{port}")
            async with asyncio.timeout(DEADLINE_S * 2):
                await scenario(System(worker, port))
        finally:
            worker.end()
            await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


async def talk(caller: ClientConnection, *, on_and_on: bool) -> None:
    """Until the tunnel ends."""
    while True:
        await caller.recv()
        if on_and_on:
            await caller.send("on and on")


async def refused(connecting: Any) -> tuple[int, Response]:
    with pytest.raises(InvalidStatus) as found:
        await connecting
    response = found.value.response
    return response.status_code, response

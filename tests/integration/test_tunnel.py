"""WebSocket through the router: real clients, real servers, and bytes of any kind once the protocol is switched."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

import envoyplane
import routerplay
from headgate import codec
from headgate.evidence import PairKind
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.dataplanes.builtin import guard
from headgate_router.dataplanes.envoy.process import TUNNELS
from headgate_router.main import ASGI, BUILTIN, ENVOY, Settings, Worker
from headgate_router.tunnels import Limits, Why

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
        """It is Envoy that tunnels: of bytes it knows which side ended them, and nothing of frames."""
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


@pytest.fixture(params=[BUILTIN, envoyplane.PARAM], autouse=True)
def _plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_messages_pass_both_ways_and_the_tunnel_is_one_request(tmp_path: Path) -> None:
    async def scenario(system: System) -> None:
        async with system.model(subprotocols=["v2"]) as address:
            await system.route(row("blue", 1000, address))
            async with system.connect(subprotocols=["v1", "v2"], headers={"x-ms-request-id": "mine"}) as caller:
                assert caller.subprotocol == "v2"
                assert caller.response.headers["headgate-revision"] == "blue-1"
                assert caller.response.headers["x-ms-request-id"] == "mine"
                assert await caller.recv() == b"model"
                for message in ("text", b"\x00\xff", "x" * 700_000, b"y" * 700_000):
                    await caller.send(message)
                    assert await caller.recv() == message
                await until(lambda: system.worker.book.in_flight == 1)
                assert await system.open() == 1
                assert system.worker.book.empty
            await system.settled()
            (asked,) = system.seen
            assert asked.path == "/chat?room=1"
            assert asked.headers["x-ms-request-id"] == "mine"
            assert "authorization" not in asked.headers
            (batch,) = system.worker.book.seal(1.0)
            counts = batch.live["blue-1"]
            assert (dict(counts.outcomes), dict(counts.latency), batch.statuses) == ({"ok": 1}, {}, {"101": 1})
            assert sum(counts.first_byte.values()) == 1
            ended = {Why.MODEL if system.envoys else Why.CALLER: 1}
            assert (await system.open(), system.worker.book.tunnels.ended) == (0, ended)

    run(tmp_path, scenario)


def test_a_deployment_that_does_not_say_so_gets_no_tunnel(tmp_path: Path) -> None:
    async def scenario(system: System) -> None:
        async with system.model() as address:
            await system.route(row("blue", 1000, address, websocket=False))
            assert (await refused(system.connect()))[0] == 403
            await system.route(row("blue", 1000, address), row("green", 0, address, websocket=False))
            status, said = await refused(system.connect(headers={"azureml-model-deployment": "green"}))
            assert (status, "headgate-revision" in said.headers) == (403, False)
            assert (await refused(system.connect(headers={"authorization": "Bearer other"})))[0] == 401
            assert system.seen == []
            async with system.connect() as caller:
                assert await caller.recv() == b"model"

    run(tmp_path, scenario)


def test_the_asgi_data_path_refuses_every_websocket(tmp_path: Path) -> None:
    async def scenario(system: System) -> None:
        async with system.model() as address:
            await system.route(row("blue", 1000, address))
            assert (await refused(system.connect()))[0] == 403

        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            said.append(dict(message))

        # As a server would ask that speaks WebSocket itself.
        scope = {"type": "websocket", "path": "/endpoints/e/chat", "headers": [], "query_string": b"", "scheme": "ws"}
        await system.worker.app(scope, receive, send)
        assert [message["type"] for message in said] == ["websocket.close"]

    run(tmp_path, scenario, dataplane=ASGI)


async def answered(system: System, **headers: str) -> bytes:
    async with system.connect(headers=headers) as caller:
        return bytes(await caller.recv())


def test_the_split_chooses_where_a_tunnel_goes(tmp_path: Path) -> None:
    async def scenario(system: System) -> None:
        async with system.model(b"blue") as blue, system.model(b"green") as green:
            await system.route(row("blue", 800, blue), row("green", 200, green))
            assert sorted([await answered(system) for _ in range(10)]) == [b"blue"] * 8 + [b"green"] * 2

    run(tmp_path, scenario)


def test_override_and_sticky_choose_where_a_tunnel_goes(tmp_path: Path) -> None:
    async def scenario(system: System) -> None:
        async with system.model(b"blue") as blue, system.model(b"green") as green:
            await system.route(row("blue", 1000, blue), row("green", 0, green))
            assert await answered(system, **{"azureml-model-deployment": "green"}) == b"green"
            await system.route(row("blue", 500, blue), row("green", 500, green), sticky="header:x-user")
            for user in ("ada", "bob", "cyd"):
                assert len({await answered(system, **{"x-user": user}) for _ in range(4)}) == 1

    run(tmp_path, scenario)


def test_a_tunnel_holds_its_place_for_its_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoyplane, "THREADS", 1)  # each has a place of its own

    async def scenario(system: System) -> None:
        async with system.model() as address:
            await system.route(row("blue", 1000, address, max_concurrent_per_instance=1, max_queue_wait_ms=0))
            async with system.connect() as caller:
                assert await caller.recv() == b"model"
                reader, writer = await system.raw()
                if not system.envoys:
                    assert (await reader.readline()).split()[1] == b"429"
                await caller.send("still?")
                assert await caller.recv() == "still?"
                assert len(system.seen) == 1
            if system.envoys:  # it waited for the place
                assert (await reader.readline()).split()[1] == b"101"
            writer.close()
            await system.settled()
            async with system.connect() as caller:
                assert await caller.recv() == b"model"

    run(tmp_path, scenario)


def test_a_tunnel_is_never_copied(tmp_path: Path) -> None:
    async def scenario(system: System) -> None:
        async with system.model() as address, system.model(b"candidate") as other:
            mirrors = (Mirror("cand-1", 1000), Mirror("blue-1", 1000, PairKind.ECHO))
            await system.route(row("blue", 1000, address), row("cand", 0, other), mirrors=mirrors)
            async with system.connect() as caller:
                assert await caller.recv() == b"model"
            await system.settled()
            (batch,) = system.worker.book.seal(1.0)
            assert batch.dropped == ({} if system.envoys else {"websocket": 2})  # Envoy does not draw them
            assert len(system.seen) == 1

    run(tmp_path, scenario)


def test_a_model_that_refuses_the_handshake_is_a_model_error(tmp_path: Path) -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(418, "no chat here\n")

    async def scenario(system: System) -> None:
        async with system.model(process_request=refuse) as address:
            await system.route(row("blue", 1000, address))
            status, said = await refused(system.connect())
            assert (status, said.headers["ms-azureml-model-error-statuscode"], said.body) == (
                424, "418", b"no chat here\n",
            )  # fmt: skip
            await system.settled()
            assert system.outcomes() == {"model_error": 1}

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("raw", "status", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, "ok"),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 502, "refused"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n", 502, "refused"),
        (b"nonsense\r\n\r\n", 502, "refused"),
        (b"", 502, "refused"),
    ],
    ids=["200", "another protocol", "no Connection", "no HTTP", "nothing"],
)
def test_what_is_no_switch_opens_no_tunnel(tmp_path: Path, raw: bytes, status: int, outcome: str) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    async def scenario(system: System) -> None:
        async with speaking(act) as address:
            await system.route(row("blue", 1000, address))
            reader, writer = await system.raw()
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 %d " % status)
            writer.close()
            await system.settled()
            assert (system.outcomes(), await system.open()) == ({outcome: 1}, 0)

    run(tmp_path, scenario)


def test_what_a_caller_sends_after_a_refused_handshake_reaches_no_model(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 418 No\r\ncontent-length: 2\r\n\r\nno")  # and would read on
        heard.append(await reader.read())

    async def scenario(system: System) -> None:
        async with speaking(act) as address:
            await system.route(row("blue", 1000, address))
            reader, writer = await system.raw(UPGRADE + b"GET /endpoints/other/secret HTTP/1.1\r\nhost: h\r\n\r\n")
            assert b" 424 " in await reader.readline()
            await until(lambda: bool(heard))
            writer.close()
            assert heard == [b""]

    run(tmp_path, scenario)


@pytest.mark.parametrize("limits", [Limits(idle_s=0.2), Limits(life_s=0.4)], ids=["idle", "life"])
def test_a_tunnel_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    monkeypatch.setattr(guard, "SWEEP_S", 0.05)

    async def scenario(system: System) -> None:
        async with system.model() as address:
            await system.route(row("blue", 1000, address))
            async with system.connect() as caller:
                with pytest.raises(ConnectionClosed) as closed:
                    await talk(caller, on_and_on=limits.life_s < 1)
            if not system.envoys:
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == CloseCode.GOING_AWAY
            await system.settled()
            ended = system.worker.book.tunnels.ended
            assert ended == {Why.LIFE if limits.life_s < 1 else Why.IDLE: 1}
            assert system.outcomes() == {"ok": 1}

    run(tmp_path, scenario, tunnels=limits)


def test_a_side_that_has_nothing_more_to_say_may_still_listen(tmp_path: Path) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH)
        said = await reader.read()  # to its end
        writer.write(b"heard " + said)
        writer.write_eof()
        await writer.drain()

    async def scenario(system: System) -> None:
        async with speaking(act) as address:
            await system.route(row("blue", 1000, address))
            reader, writer = await system.raw(UPGRADE + b"early ")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"late")
            writer.write_eof()
            assert await reader.read() == b"heard early late"
            writer.close()
            await system.settled()
            assert system.worker.book.tunnels.ended == {Why.CALLER_LOST: 1}  # as WebSocket has it: nobody said Close

    run(tmp_path, scenario)


@pytest.mark.parametrize("up", [True, False], ids=["to the model", "to the caller"])
def test_a_side_that_does_not_read_slows_the_other(tmp_path: Path, up: bool) -> None:
    size = 96_000_000  # the system's own buffers, of four sockets, take up to a third of it
    go = asyncio.Event()

    async def pour(writer: asyncio.StreamWriter, sent: list[int]) -> None:
        while sum(sent) < size:
            writer.write(b"x" * 64_000)
            await writer.drain()
            sent.append(64_000)

    async def scenario(system: System) -> None:
        sent: list[int] = []

        async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(SWITCH)
            if up:
                await go.wait()
                await reader.readexactly(size)
                writer.write(b"all")
            else:
                await pour(writer, sent)

        async with speaking(act) as address:
            await system.route(row("blue", 1000, address))
            reader, writer = await system.raw()
            await reader.readuntil(b"\r\n\r\n")
            pouring = asyncio.create_task(pour(writer, sent)) if up else asyncio.create_task(asyncio.sleep(0))
            before = -1
            while before != sum(sent):  # until it stands still
                before = sum(sent)
                await asyncio.sleep(0.3)
            assert sum(sent) < size / 2
            go.set()
            assert await reader.readexactly(3 if up else size) == (b"all" if up else b"x" * size)
            await pouring
            writer.close()
            await system.settled()

    run(tmp_path, scenario)


def test_a_drained_worker_lets_tunnels_end_and_then_ends_them(tmp_path: Path) -> None:
    async def scenario(system: System) -> None:
        async with system.model() as address:
            await system.route(row("blue", 1000, address))
            async with system.connect() as one, system.connect() as other:
                assert [await one.recv(), await other.recv()] == [b"model", b"model"]
                system.worker.end()
                for caller in (one, other):  # still there
                    await caller.send("after")
                    assert await caller.recv() == "after"
                await one.close()
                with pytest.raises(ConnectionClosed):
                    await other.recv()
            await until(lambda: system.worker.book.tunnels.ended.total() == 2)
            assert system.worker.book.tunnels.ended[Why.DRAINED] == 1

    run(tmp_path, scenario, tunnels=Limits(drain_s=1.5))


def test_a_new_table_moves_no_open_tunnel_and_says_which_it_left_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(system: System) -> None:
        async def said(caller: ClientConnection) -> Any:
            await caller.send("still?")
            return await caller.recv()

        async with system.model(b"blue") as blue, system.model(b"green") as green:
            await system.route(row("blue", 1000, blue), row("green", 0, green))
            async with system.connect() as caller:
                assert await caller.recv() == b"blue"
                for rows in ((row("blue", 0, blue), row("green", 1000, green)), (row("green", 1000, green),)):
                    assert await system.worker.feed.take(codec.decode(dict, codec.canonical(system.table(*rows))))
                    assert await said(caller) == "still?"
                async with system.connect() as second:
                    assert await second.recv() == b"green"
                assert await system.open() == 1
            await system.settled()
            named.append(system.envoys)

    named: list[bool] = []
    run(tmp_path, scenario)
    said = [r.getMessage() for r in caplog.records if "tunnels" in r.getMessage()]
    assert said == ([] if named == [True] else ["e: 1 tunnels stay with blue-1, which this table lists no more"])


@pytest.mark.parametrize(
    ("side", "why", "outcome"),
    [
        ("model", Why.MODEL_LOST, "truncated"),
        ("caller", Why.CALLER_LOST, "client_gone"),
    ],
)
def test_a_side_that_is_killed_ends_the_tunnel_at_once(tmp_path: Path, side: str, why: Why, outcome: str) -> None:
    gone = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH)
        await reader.readexactly(1)
        if side == "model":
            writer.transport.abort()
        else:
            assert await reader.read() == b""
            gone.set()

    async def scenario(system: System) -> None:
        async with speaking(act) as address:
            await system.route(row("blue", 1000, address))
            reader, writer = await system.raw()
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"!")
            if side == "model":
                assert await reader.read() == b""
            else:
                await writer.drain()
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER 0: a reset
                writer.transport.abort()
                await gone.wait()
            writer.close()
            await system.settled()
            ended = Why(side) if system.envoys else why
            assert system.worker.book.tunnels.ended == {ended: 1}
            assert system.outcomes() == {"ok" if system.envoys else outcome: 1}

    run(tmp_path, scenario)


def test_a_caller_who_leaves_during_the_handshake_ends_it(tmp_path: Path) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        gone.set()

    async def scenario(system: System) -> None:
        async with speaking(act) as address:
            await system.route(row("blue", 1000, address))
            _, writer = await system.raw()
            await asked.wait()
            writer.transport.abort()
            await gone.wait()
            await system.settled()
            assert (system.outcomes(), await system.open()) == ({"client_gone": 1}, 0)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "head",
    [
        UPGRADE.replace(b"GET ", b"POST "),
        UPGRADE.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\nabc"),
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["POST", "a body", "HTTP/1.0"],
)
def test_an_upgrade_that_is_no_handshake_reaches_no_model(tmp_path: Path, head: bytes) -> None:
    async def scenario(system: System) -> None:
        async with system.model() as address:
            await system.route(row("blue", 1000, address))
            reader, writer = await system.raw(head)
            version, status, *_ = (await reader.readuntil(b"\r\n\r\n")).split(b" ")
            assert version.startswith(b"HTTP/1.")
            assert status in (b"400", b"403")
            writer.close()
            assert system.seen == []
            await system.settled()

    run(tmp_path, scenario)


def test_open_and_ended_tunnels_are_in_the_metrics(tmp_path: Path) -> None:
    async def scenario(system: System) -> None:
        async def metrics() -> bytes:
            reader, writer = await system.raw(b"GET /metrics HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            text = await reader.read()
            writer.close()
            return text

        async with system.model() as address:
            await system.route(row("blue", 1000, address))
            labels = b'{deployment="blue",endpoint="e",revision="blue-1",worker="router-0"}'
            async with system.connect() as caller:
                await caller.recv()
                open_ = b"headgate_router_tunnels_open%b 1.0" % labels
                assert (open_ in await metrics()) is not system.envoys  # which does not say it for each revision
            await system.settled()
            said = await metrics()
            assert b"headgate_router_tunnels_open%b" % labels not in said
            assert b'headgate_router_tunnels_ended_total{reason="' in said

    run(tmp_path, scenario)

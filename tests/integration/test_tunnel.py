"""WebSocket through the router: who gets a tunnel, where it goes, what it carries."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

import envoyplane
import tunnelplay
from headgate.evidence import PairKind
from headgate.table import Mirror
from headgate_router.main import ASGI, BUILTIN
from headgate_router.tunnels import Why
from tunnelplay import UPGRADE, System, refused, row, run, speaking, until


@pytest.fixture(params=[BUILTIN, envoyplane.PARAM], autouse=True)
def _plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnelplay.on(request, monkeypatch)


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
            assert (await system.open(), system.worker.book.tunnels.ended) == (0, {Why.CALLER: 1})

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


OVERRIDES = {
    "nobody": 404, "blue@nope": 404, "@": 404, "blue": 101, "blue@blue-1": 101, "green": 403, "green@green-1": 403,
    "blue\r\nazureml-model-deployment: blue": 404,
}  # fmt: skip


def test_an_override_that_names_nobody_is_404_where_one_that_takes_no_websocket_is_403(tmp_path: Path) -> None:
    async def status(system: System, override: str) -> int:
        field = f"\r\nazureml-model-deployment: {override}\r\n\r\n".encode()
        reader, writer = await system.raw(tunnelplay.UPGRADE.replace(b"\r\n\r\n", field))
        said = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return int(said.split(b" ")[1])

    async def scenario(system: System) -> None:
        async with system.model() as address:
            await system.route(row("blue", 1000, address), row("green", 0, address, websocket=False))
            assert {override: await status(system, override) for override in OVERRIDES} == OVERRIDES
            await system.settled()
            await system.route(row("green", 1000, address, websocket=False))
            assert {await status(system, override) for override in OVERRIDES} == {403}, "nobody speaks it here"

    run(tmp_path, scenario)


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

"""WebSocket through the router: how a tunnel ends, and what each side is told of it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

import envoyplane
import tunnelplay
from headgate import codec
from headgate_router.dataplanes.builtin import guard
from headgate_router.main import BUILTIN
from headgate_router.tunnels import Limits, Why
from tunnelplay import SWITCH, UPGRADE, System, row, run, speaking, talk, until


@pytest.fixture(params=[BUILTIN, envoyplane.PARAM], autouse=True)
def _plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnelplay.on(request, monkeypatch)


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

    run(tmp_path, scenario, tunnels=Limits(drain_s=4.0))


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
            assert system.worker.book.tunnels.ended == {why: 1}
            assert system.outcomes() == {outcome: 1}

    run(tmp_path, scenario)


CLOSE, PING = b"\x88\x02\x03\xe8", b"\x89\x00"
MASK = b"\x00\x00\x00\x00"


def frame(size: int, *, masked: bool) -> bytes:
    """Whose payload looks like frames that close."""
    bit = 128 if masked else 0
    length = (
        bytes([bit | size])
        if size < 126
        else bytes([bit | 126]) + size.to_bytes(2)
        if size < 1 << 16
        else bytes([bit | 127]) + size.to_bytes(8)
    )
    return b"\x82" + length + (MASK if masked else b"") + (CLOSE * (size // 4 + 1))[:size]


@pytest.mark.parametrize(
    ("side", "closes", "why"),
    [
        ("model", False, Why.MODEL_LOST),
        ("model", True, Why.MODEL),
        ("caller", False, Why.CALLER_LOST),
        ("caller", True, Why.CALLER),
    ],
    ids=["model lost", "model", "caller lost", "caller"],
)
def test_who_said_close_is_known_whatever_passed_before(tmp_path: Path, side: str, closes: bool, why: Why) -> None:
    masked = side == "caller"
    said = b"".join(frame(size, masked=masked) for size in (0, 1, 125, 126, 127, 65_535, 65_536, 3)) + PING
    close = (b"\x88\x82" + MASK + b"\x03\xe8" if masked else CLOSE) if closes else b""

    async def speak(writer: asyncio.StreamWriter) -> None:
        at = 0
        for step in (1, 2, 1, 3, 5, 130, 1, 1, 129, 2, 7, 1, 65_000, 1, 600, 1, 1, 2, 1, 1, 1, 200_000):
            writer.write((said + close)[at : at + step])
            await writer.drain()
            await asyncio.sleep(0.005)  # so that most pieces arrive by themselves
            at += step
        writer.close()

    async def scenario(system: System) -> None:
        async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(SWITCH)
            if side == "model":
                await speak(writer)
            await reader.read()

        async with speaking(act) as address:
            await system.route(row("blue", 1000, address))
            reader, writer = await system.raw()
            await reader.readuntil(b"\r\n\r\n")
            if side == "caller":
                await speak(writer)
            await reader.read()
            writer.close()
            await system.settled()
            assert system.worker.book.tunnels.ended == {why: 1}

    run(tmp_path, scenario)


def test_what_passes_a_tunnel_is_no_body_and_has_no_limit(tmp_path: Path) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SWITCH)
        await reader.readexactly(len(frame(50_000, masked=True)))
        writer.write(b"all")
        await reader.read()

    async def scenario(system: System) -> None:
        async with speaking(act) as address:
            await system.route(row("blue", 1000, address))
            reader, writer = await system.raw()
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frame(50_000, masked=True))
            assert await reader.readexactly(3) == b"all"
            writer.close()
            await system.settled()

    run(tmp_path, scenario, max_body=1000)


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

"""What nobody expected is raised somewhere on the way of a request: its caller is told, or sees it cut short; the books
are closed, with no word of a caller who left; the log has it once; and the next request is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

import routerplay
from headgate.evidence import Counts
from headgate_router import headers
from headgate_router.datapath import data_path
from headgate_router.dataplanes.builtin import asgi, body, exchange, guard
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.protocol import CallerConnection
from headgate_router.dataplanes.builtin.tunnel import End, Frames, Switching, Tunnel
from headgate_router.limits import InFlight
from headgate_router.main import ASGI, BUILTIN
from headgate_router.request import Request
from headgate_router.routes import Routes
from headgate_router.streams import Stream
from headgate_router.tunnels import Tunnels
from headgate_router.upstream import Message, Replica, Replicas
from routerplay import AUTH, Heard, Model, System, Writer, ok, revision, router, run, status, until

pytestmark = pytest.mark.skipif(
    data_path() == "compiled", reason="compiled classes take no patch: run without PYTHONPATH"
)

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
UPGRADE = (
    b"GET /endpoints/e/chat HTTP/1.1\r\nhost: h\r\nauthorization: Bearer the-key\r\nconnection: Upgrade\r\n"
    b"upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x00"
)
CUT = 0  # no answer, or not a whole one


async def events(heard: Heard, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for n in range(4):
        writer.write(b"9\r\ndata: %d\n\n\r\n" % n)
        await writer.drain()
        await asyncio.sleep(0.02)
    writer.write(b"0\r\n\r\n")


async def switches(heard: Heard, writer: Writer) -> None:
    writer.write(SWITCH)
    await asyncio.Event().wait()


async def posts(system: System, content: bytes = b"{}") -> int:
    """The answer's status; CUT: none came, or not the whole of it."""
    try:
        answer = await system.post(content)
    except httpx.TransportError:
        return CUT
    if answer.status_code == 500:
        assert answer.json()["error"]["code"] == "fault"
    return answer.status_code


async def posts_much(system: System) -> int:
    return await posts(system, b"x" * 3_000_000)


async def upgrades(system: System) -> int:
    said = await system.raw(UPGRADE)
    return int(said.split(b" ")[1]) if said else CUT


Act = Callable[[System], Awaitable[int]]
WHOLE = (posts, ok(b"1"))
ERROR = (posts, status(500, "No", b"no"))
EVENTS = (posts, events)
LONG = (posts_much, ok(b"1"))
TUNNEL = (upgrades, switches)

CASES = [
    # owner, what of it, at which call, what is played, what callers are told by each data path
    (Routes, "find", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Request, "admit", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Request, "choose", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Request, "message", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (InFlight, "try_enter", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Request, "draw", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Replicas, "pick", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Replica, "pooled", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Replica, "connect", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Message, "head", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Connection, "start", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Connection, "data_received", 0, WHOLE, {BUILTIN: 200, ASGI: 200}),  # a broken connection: asked again
    (Connection, "on_header", 0, WHOLE, {BUILTIN: 502, ASGI: 502}),
    (Connection, "take", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Replica, "answered", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (headers, "of_answer", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Request, "answered", 0, WHOLE, {BUILTIN: 500, ASGI: 500}),
    (Request, "said", 0, WHOLE, {ASGI: 500}),
    (Request, "said_lines", 0, WHOLE, {BUILTIN: 500}),
    (CallerConnection, "on_header", 0, WHOLE, {BUILTIN: 500}),
    (CallerConnection, "date", 0, WHOLE, {BUILTIN: 500}),
    (CallerConnection, "write", 0, WHOLE, {BUILTIN: CUT}),
    (CallerConnection, "answered", 0, WHOLE, {BUILTIN: 200}),
    (Replica, "give_back", 0, WHOLE, {BUILTIN: 200, ASGI: 200}),
    (Request, "count", 0, WHOLE, {BUILTIN: 200, ASGI: 200}),
    (Request, "copy", 0, WHOLE, {BUILTIN: 200, ASGI: 200}),
    (exchange, "of_error", 0, ERROR, {BUILTIN: 500}),
    (asgi, "of_error", 0, ERROR, {ASGI: 500}),
    (Connection, "take", 0, ERROR, {BUILTIN: 500, ASGI: 500}),
    (Stream, "add", 0, EVENTS, {BUILTIN: 500, ASGI: 500}),
    (Stream, "add", 2, EVENTS, {BUILTIN: CUT, ASGI: CUT}),
    (CallerConnection, "write", 1, EVENTS, {BUILTIN: CUT}),
    (CallerConnection, "hold", 0, LONG, {BUILTIN: 500}),
    (CallerConnection, "release", 0, LONG, {BUILTIN: 500}),
    (Connection, "write", 0, LONG, {BUILTIN: 500, ASGI: 500}),
    (Connection, "start", 0, LONG, {BUILTIN: 500, ASGI: 500}),
    (body.Pump, "_rest", 0, LONG, {ASGI: 500}),
    (Tunnel, "_join", 0, TUNNEL, {BUILTIN: 500}),
    (CallerConnection, "surrender", 0, TUNNEL, {BUILTIN: CUT}),
    (Switching, "surrender", 0, TUNNEL, {BUILTIN: CUT}),
    (End, "begin", 0, TUNNEL, {BUILTIN: CUT}),
    (End, "begin", 1, TUNNEL, {BUILTIN: CUT}),
    (Tunnels, "opened", 0, TUNNEL, {BUILTIN: CUT}),
    (Frames, "feed", 0, TUNNEL, {BUILTIN: 101}),
]


def params() -> list[Any]:
    return [
        pytest.param(owner, name, at, play, plane, said, id=f"{plane}-{owner.__name__.rpartition('.')[2]}.{name}-{at}")
        for owner, name, at, play, told in CASES
        for plane, said in told.items()
    ]


@pytest.mark.parametrize(("owner", "name", "at", "play", "plane", "said"), params())
def test_a_fault_of_ours_costs_its_request_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: Any,
    name: str,
    at: int,
    play: tuple[Act, routerplay.Answer],
    plane: str,
    said: int,
) -> None:
    act, answer = play
    monkeypatch.setattr(guard, "SWEEP_S", 0.05)

    async def scenario() -> None:
        model = await Model(answer).start()
        async with router(tmp_path, dataplane=plane) as system:
            system.route(revision("rev", 1000, model, websocket=True), repeatable=True)
            live = system.worker.routes.find("e")
            assert live is not None
            planted = plant(monkeypatch, owner, name, at)
            assert await act(system) == said
            assert planted == [True]
            replicas, places = live.revisions["rev"].replicas.every, live.revisions["rev"].in_flight
            await until(lambda: system.worker.book.in_flight == 0 and places.running == 0)
            assert [replica.in_flight for replica in replicas] == [0]
            for batch in system.worker.book.seal(1.0):
                assert "client_gone" not in batch.live.get("rev", Counts()).outcomes
                assert "499" not in batch.statuses
            monkeypatch.undo()
            model.answer = ok(b"2")
            async with httpx.AsyncClient(base_url=system.url, headers=AUTH, trust_env=False) as next_:
                assert (await next_.post("/endpoints/e/score", content=b"{}")).content == b"2"

    with caplog.at_level(logging.ERROR):
        run(scenario())
    told = [
        record
        for record in caplog.records
        if record.exc_info and "planted" in (record.exc_text or caplog.handler.format(record))
    ]
    assert len(told) == 1, [record.getMessage() for record in told]


@pytest.mark.parametrize("answer", [WHOLE[1], ERROR[1], EVENTS[1]], ids=["an answer", "an error", "a stream"])
def test_a_connection_that_ended_unnoticed_is_of_a_caller_who_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: routerplay.Answer,
) -> None:
    """uvloop refuses to write to it before it has told the server."""
    ended = "unable to perform operation on <TCPTransport closed=True reading=False 0x1>; the handler is closed"

    async def scenario() -> None:
        model = await Model(answer).start()
        async with router(tmp_path, dataplane=ASGI) as system:
            system.route(revision("rev", 1000, model))
            planted = plant(monkeypatch, RequestResponseCycle, "send", 0, ended)
            await system.post()  # the server, whose connection is there in truth, says something of its own
            assert planted == [True]
            await system.settled()
            batch = await system.sealed()
            assert (batch.live["rev"].outcomes, batch.statuses) == ({"client_gone": 1}, {"499": 1})

    with caplog.at_level(logging.ERROR, "headgate.router"):
        run(scenario())
    assert [record.getMessage() for record in caplog.records if record.name == "headgate.router"] == []


def plant(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int, says: str = "planted") -> list[bool]:
    """Raises at the call of that number, once; True is added when it does."""
    real = getattr(owner, name)
    calls: list[int] = []
    planted: list[bool] = []

    def raises(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == at + 1:
            planted.append(True)
            raise RuntimeError(says)
        return real(*args, **more)

    monkeypatch.setattr(owner, name, raises)
    return planted

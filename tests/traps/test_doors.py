"""What callers meet at the door: limits on their connections, and the name under which each refusal is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headgate_router.dataplanes.builtin import guard, protocol
from headgate_router.main import ASGI, BUILTIN, ENVOY
from trapplay import Said, hang, until

SERVERS = "connections are the server's to limit"


def counted(site: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Outcomes of requests that had a revision, and statuses of all, also of those that named no endpoint."""
    outcomes: dict[str, int] = {}
    statuses = {str(status): n for status, n in site.router.book.unrouted.items()}
    for batch in site.router.book.seal(1.0):
        statuses |= batch.statuses
        for counts in batch.live.values():
            outcomes |= counts.outcomes
    return outcomes, statuses


def crowded(said: Said) -> bool:
    return said.status == 503 and b"crowded" in said.body and said.all(b"retry-after") == [b"1"]


@pytest.mark.only(BUILTIN, why=SERVERS)
@pytest.mark.parametrize("limit", ["connections", "client_connections"])
def test_more_connections_than_are_taken_are_told_so_and_counted(trap: Any, limit: str) -> None:
    async def scenario(site: Any) -> None:
        doors = site.router.doors
        first, second = await site.caller(), await site.caller()
        for caller, path in ((first, b"/endpoints/e/score"), (second, b"/healthz")):  # the second one is uvicorn's
            caller.write(site.request(b"", path=path, method=b"GET"))
            assert (await caller.answer(b"GET")).status == 200
        third = await site.caller()
        assert crowded(await third.answer())
        assert await third.ended()
        assert doors.refused == 1
        assert counted(site) == ({"ok": 1}, {"200": 1, "503": 1})
        if limit == "client_connections":  # a place is held until its connection ends, whoever has it
            second.close()
            await until(lambda: sum(doors.clients.values()) == 1)
            assert (await site.ask(site.request())).status == 200
        first.close()
        await until(lambda: sum(doors.clients.values()) <= (limit == "connections"))

    trap(scenario, **{limit: 2})


@pytest.mark.only(BUILTIN, why=SERVERS)
def test_who_asks_nothing_more_is_let_go(trap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "IDLE_S", 0.3)
    monkeypatch.setattr(guard, "SWEEP_S", 0.05)

    async def scenario(site: Any) -> None:
        caller = await site.caller()
        caller.write(site.request())
        assert (await caller.answer()).status == 200
        assert await caller.ended()
        await until(lambda: not site.router.doors.clients)
        assert counted(site) == ({"ok": 1}, {"200": 1})

    trap(scenario)


@pytest.mark.only(BUILTIN, why="an ASGI server and Envoy have their own buffers")
def test_who_asks_ahead_without_end_is_slowed_down(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        go = asyncio.Event()

        async def wait(heard: Any, reader: Any, writer: Any) -> None:
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        site.model.act = wait
        one, asked, sent = site.request(b"x" * 100_000), 400, 0
        caller = await site.caller()

        async def pour() -> None:
            nonlocal sent
            for _ in range(asked):
                caller.write(one)
                await caller.writer.drain()
                sent += 1

        pouring = asyncio.create_task(pour())
        before = -1
        while not sent or before != sent:  # until it stands still
            before = sent
            await asyncio.sleep(0.3)
        assert sent < asked / 2
        (connection,) = site.router._server.server_state.connections
        assert len(connection._later) < 1_000_000
        go.set()
        assert [(await caller.answer()).status for _ in range(asked)] == [200] * asked
        await pouring

    trap(scenario)


def of(**more: Any) -> Callable[[Any], bytes]:
    """A request with these settings."""
    fields = more.pop("fields", ())
    return lambda site: bytes(site.request(b"{}", *fields, **more))


@pytest.mark.only(BUILTIN, why="the same book is kept for all; what a server refuses by itself is not in it")
@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (of(key=False), 401, b"unauthorized"),
        (of(fields=(b"authorization: Bearer other-key",)), 401, b"unauthorized"),
        (of(path=b"/endpoints/nobody/score"), 404, b"no-endpoint"),
        (of(fields=(b"azureml-model-deployment: nobody",)), 404, b"no-deployment"),
        (of(fields=(b"azureml-model-deployment: rev",) * 2), 404, b"no-deployment"),
        (of(fields=(b"host: there",)), 400, b"bad-request"),
        (of(path=b"/endpoints/e/a#b"), 400, b"bad-request"),
        (of(fields=(b"connection: upgrade", b"upgrade: websocket"), method=b"GET"), 403, b"no-websocket"),
        (lambda site: site.head(b"content-length: 5000"), 413, b"too-large"),
        (lambda site: site.head(b"transfer-encoding: chunked") + b"1388\r\n" + b"x" * 4000, 413, b"too-large"),
        (lambda site: site.head(b"x: " + b"y" * 70_000), 431, b"head-too-large"),
        (lambda site: b"GET /endpoints/e/x HTTP/2.0\r\nhost: here\r\n\r\n", 505, b"http-version"),
        (lambda site: b"what is this\r\n\r\n", 400, b"bad-request"),
    ],
    ids=[
        "no credential", "two credentials", "no endpoint", "no deployment", "two deployments", "two hosts",
        "a fragment", "a WebSocket", "a length", "chunks", "a head", "a version", "no HTTP",
    ],
)  # fmt: skip
def test_a_refusal_reaches_no_model_and_is_counted_by_its_status(
    trap: Any, raw: Callable[[Any], bytes], status: int, code: bytes
) -> None:
    async def scenario(site: Any) -> None:
        said = await site.ask(raw(site))
        assert (said.status, said.cut) == (status, False)
        assert b'"code": "%b"' % code in said.body
        await site.settled()
        assert counted(site) == ({}, {str(status): 1})
        assert site.model.heard == []

    trap(scenario, body=2000)


async def die(heard: Any, reader: Any, writer: Any) -> None:
    writer.transport.abort()


async def fail(heard: Any, reader: Any, writer: Any) -> None:
    writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")


async def garble(heard: Any, reader: Any, writer: Any) -> None:
    writer.write(b"no HTTP at all\r\n\r\n")


@pytest.mark.only(BUILTIN, ASGI, ENVOY, why="it is about our counters")
@pytest.mark.parametrize(
    ("act", "status", "outcome"),
    [(die, 502, "refused"), (garble, 502, "refused"), (fail, 424, "model_error"), (hang, 408, "timeout")],
    ids=["ends", "garbles", "fails", "hangs"],
)
def test_what_a_model_does_wrong_is_counted_as_that(trap: Any, act: Any, status: int, outcome: str) -> None:
    async def scenario(site: Any) -> None:
        site.model.act = act
        site.route(repeatable=False)
        assert (await site.ask(site.request())).status == status
        await site.settled()
        assert counted(site) == ({outcome: 1}, {str(status): 1})

    trap(scenario, **({"answer_s": 0.5} if act is hang else {}))

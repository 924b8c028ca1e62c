"""Callers and models that stop, leave or hurry at every stage: bounded, and counted under the right name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headgate_router.dataplanes.builtin import ending, guard
from headgate_router.main import ASGI, BUILTIN, ENVOY

DEADLINE_S = 30.0
IDLE = 500  # connections; `make bench-router size` opens 10,000


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(0.005)


def counted(site: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Outcomes of requests that had a revision, and statuses of all."""
    batches = site.router.book.seal(1.0)
    outcomes: dict[str, int] = {}
    statuses: dict[str, int] = {}
    for batch in batches:
        statuses |= batch.statuses
        for counts in batch.live.values():
            outcomes |= counts.outcomes
    return outcomes, statuses


@pytest.mark.only(BUILTIN, ASGI, ENVOY, why="it is about our counters")
@pytest.mark.parametrize(
    ("sent", "outcomes", "statuses"),
    [
        (b"", {}, {}),
        (b"POST /endpoints/e/sc", {}, {}),
        (b"half a body", {}, {"499": 1}),
        (b"half a long body", {"client_gone": 1}, {"499": 1}),
    ],
    ids=["before a byte", "in the head", "in a body", "in a body that is streamed"],
)
def test_a_caller_who_leaves_while_asking_is_no_models_fault(
    trap: Any, sent: bytes, outcomes: dict[str, int], statuses: dict[str, int]
) -> None:
    async def scenario(site: Any) -> None:
        site.model.early = True

        async def read(heard: Any, reader: Any, writer: Any) -> None:
            await reader.read()
            site.model.gone.set()

        site.model.act = read
        streams = site.kind == ENVOY  # passes on what it has, however short
        caller = await site.caller()
        connections = site.router._server.server_state.connections
        if not streams:
            await until(lambda: bool(connections))
        if sent == b"half a body":
            caller.write(site.head(b"content-length: 100") + sent)
            await until(lambda: bool(site.model.heard) if streams else site.router.book.in_flight == 1)
        elif sent == b"half a long body":
            caller.write(site.head(b"content-length: 3000000") + b"x" * 2_000_000)
            await until(lambda: bool(site.model.heard))
        else:
            caller.write(sent)
        caller.close()
        expected = {"client_gone": 1} if streams and statuses else outcomes
        if expected:
            await site.model.gone.wait()
        if not streams:
            await until(lambda: not connections)
        await site.settled()
        assert counted(site) == (expected, statuses)
        assert len(site.model.heard) == len(expected)

    trap(scenario)


@pytest.mark.only(
    BUILTIN, why="an ASGI server tells nobody that a caller left while its request waits; Envoy waits by connections"
)
def test_a_caller_who_leaves_the_queue_gives_its_place_to_the_next(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        go = asyncio.Event()

        async def wait(heard: Any, reader: Any, writer: Any) -> None:
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        site.model.act = wait
        site.route(max_concurrent_per_instance=1, max_queue_wait_ms=20_000)
        first, second, third = [await site.caller() for _ in range(3)]
        revision = site.router.routes.find("e").revisions["rev"]
        first.write(site.request())
        await until(lambda: bool(site.model.heard))
        second.write(site.request())
        await until(lambda: revision.in_flight.waiting == 1)
        second.close()
        await until(lambda: revision.in_flight.waiting == 0)
        third.write(site.request())
        go.set()
        assert [(await caller.answer()).status for caller in (first, third)] == [200, 200]
        await site.settled()
        assert counted(site) == ({"client_gone": 1, "ok": 2}, {"200": 2, "499": 1})
        assert revision.in_flight.running == 0

    trap(scenario)


@pytest.mark.only(BUILTIN, why="uvicorn ends the connection without a word; Envoy has its own clock")
def test_a_body_that_stops_half_way_is_408_and_counted_as_that(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        said = await site.ask(site.head(b"content-length: 100") + b"half")
        assert said.status == 408
        await site.settled()
        assert counted(site) == ({}, {"408": 1})
        assert site.model.heard == []

    trap(scenario, body_s=0.2)


@pytest.mark.only(BUILTIN, why="uvicorn and Envoy refuse it before they pass anything on")
def test_a_body_that_turns_out_to_be_none_is_400_and_counted_as_that(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        said = await site.ask(site.head(b"transfer-encoding: chunked") + b"2\r\n{}\r\nno size\r\n")
        assert said.status == 400
        await site.settled()
        assert counted(site) == ({}, {"400": 1})
        assert site.model.heard == []

    trap(scenario)


@pytest.mark.only(BUILTIN, why="uvicorn has no such limit; Envoy has its own clock")
def test_a_caller_who_reads_nothing_is_let_go(trap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "STALL_S", 0.3)
    monkeypatch.setattr(guard, "SWEEP_S", 0.05)

    async def scenario(site: Any) -> None:
        async def pour(heard: Any, reader: Any, writer: Any) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 64000000\r\n\r\n")
            for _ in range(1000):
                writer.write(b"x" * 64_000)
                await writer.drain()

        site.model.act = pour
        caller = await site.caller()
        caller.writer.transport.pause_reading()
        caller.write(site.request())
        await asyncio.wait_for(site.model.gone.wait(), 30)
        await site.settled()
        assert counted(site) == ({"client_gone": 1}, {"499": 1})

    trap(scenario)


def test_a_model_may_answer_before_it_has_read_the_body(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        site.model.early = True

        async def hurry(heard: Any, reader: Any, writer: Any) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly")
            await writer.drain()
            await reader.read()  # or the answer is lost on the way

        site.model.act = hurry
        caller = await site.caller()
        caller.write(site.head(b"content-length: 3000000") + b"x" * 2_000_000)
        said = await caller.answer()
        assert (said.status, said.body) == (200, b"early")
        await site.settled()
        if site.worker is not None:
            assert counted(site) == ({"ok": 1}, {"200": 1})
        caller.close()

    trap(scenario)


@pytest.mark.only(BUILTIN, ASGI, ENVOY, why="it is about our counters")
def test_idle_connections_cost_nobody_an_answer_and_leave_nothing(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        idle = [await site.caller() for _ in range(IDLE)]
        for caller in idle[::10]:
            caller.write(site.request())
            assert (await caller.answer()).status == 200
        assert (await site.ask(site.request())).status == 200
        for caller in idle:
            caller.close()
        await site.settled()
        if site.kind == BUILTIN:
            await until(lambda: not site.router.doors.clients)
        assert counted(site) == ({"ok": IDLE // 10 + 1}, {"200": IDLE // 10 + 1})

    trap(scenario)

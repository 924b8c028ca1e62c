"""Copies as a worker sends them itself, on either of its own data paths."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

import routerplay
from certificates import Faulty
from headgate_router import copies
from headgate_router.main import ASGI, BUILTIN
from headgate_router.routes import LiveRoute
from headgate_router.trust import Trust
from headgate_router.upstream import Replica
from routerplay import AUTH, Heard, Model, System, Writer, hang, mirrored_to, ok, revision, router, run, until


@pytest.fixture(params=[BUILTIN, ASGI], autouse=True)
def plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(routerplay.PLANES, "now", request.param)


def test_a_drain_waits_for_copies_and_ends_those_that_hang(tmp_path: Path) -> None:
    async def scenario() -> None:
        asked = asyncio.Event()

        async def late(heard: Heard, writer: Writer) -> None:
            await (asked if heard.body == b"late" else asyncio.Event()).wait()
            await ok(b"2")(heard, writer)

        stable, candidate = await Model(ok(b"1")).start(), await Model(late).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            for body in (b"late", b"hung"):
                await system.post(body)
            await until(lambda: len(candidate.heard) == 2)
            draining = asyncio.create_task(system.worker.mirrors.drain(2.0))
            asked.set()
            await draining
            assert system.worker.mirrors.running == 0
            assert (await system.sealed()).mirrored["cand"].outcomes == {"ok": 1}
            await asyncio.wait_for(candidate.gone.wait(), 10)

    run(scenario())


def test_a_drain_counts_copies_that_wait_and_lets_go_of_what_they_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "MAX_RUNNING", 1)

    async def scenario() -> None:
        stable, candidate = await Model(ok(b"1")).start(), await Model(hang).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            for _ in range(3):
                await system.post()
            await until(lambda: len(candidate.heard) == 1)
            await system.worker.mirrors.drain(0.01)
            assert (await system.sealed()).dropped == {"busy": 2}
            assert at_rest(system)

    run(scenario())


def to_nobody(live: LiveRoute) -> None:
    live.revisions["cand"].copies.every = cast(Any, [None])


def by_a_faulty_connection(live: LiveRoute) -> None:
    live.revisions["cand"].copies.every = [Replica("https://127.0.0.1:1", Trust(Faulty()))]


def into_a_faulty_rule(live: LiveRoute) -> None:
    live.redact.append(cast(Any, 5))


@pytest.mark.parametrize(
    ("plant", "outcomes"),
    [
        pytest.param(to_nobody, {}, id="as it begins"),
        pytest.param(by_a_faulty_connection, {}, id="as it connects"),
        pytest.param(into_a_faulty_rule, {"ok": 3}, id="as it is paired"),
    ],
)
def test_a_fault_of_ours_costs_the_copy_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plant: Callable[[LiveRoute], None], outcomes: dict[str, int]
) -> None:
    async def scenario() -> None:
        stable, candidate = await Model(ok(b"1")).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            plant(found(system))
            for _ in range(3):
                assert (await system.post()).content == b"1"
            await system.settled()
            batch = await system.sealed()
            assert batch.live["rev"].outcomes == {"ok": 3}
            assert {name: counts.outcomes for name, counts in batch.mirrored.items()} == (
                {"cand": outcomes} if outcomes else {}
            )
            assert (batch.pairs, batch.dropped) == ((), {"copy_failed": 3})
            assert at_rest(system)

    with caplog.at_level(logging.ERROR, "headgate.router"):
        run(scenario())
    assert [record.exc_info is not None for record in caplog.records if "came to nothing" in record.message] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("left", "reason"), [([], "no_upstream"), ([None], "copy_failed")], ids=["nobody is left", "a fault is left"]
)
def test_copies_that_wait_for_a_target_that_is_lost_all_end(tmp_path: Path, left: list[Any], reason: str) -> None:
    """One after the other, within the call that ended the one before."""

    async def scenario() -> None:
        goes = asyncio.Event()

        async def late(heard: Heard, writer: Writer) -> None:
            await goes.wait()
            await ok(b"2")(heard, writer)

        stable, candidate = await Model(ok(b"1")).start(), await Model(late).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            target = replace(target, request_timeout_ms=180_000)  # longer than all of this takes
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            for _ in range(copies.MAX_RUNNING + copies.MAX_WAITING):
                await system.post()
            await until(lambda: len(candidate.heard) == copies.MAX_RUNNING)
            found(system).revisions["cand"].copies.every = left
            goes.set()
            await system.settled()
            batch = await system.sealed()
            assert batch.dropped == {reason: copies.MAX_WAITING}
            assert batch.mirrored["cand"].outcomes == {"ok": copies.MAX_RUNNING}
            assert len(batch.pairs) == copies.MAX_RUNNING
            assert at_rest(system)

    run(scenario())


@pytest.mark.parametrize("cut", ["by the model", "by the caller"])
def test_a_request_that_was_cut_is_copied_and_makes_no_pair(tmp_path: Path, cut: str) -> None:
    async def scenario() -> None:
        async def half(heard: Heard, writer: Writer) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it")
            await writer.drain()
            if cut == "by the model":
                writer.close()
            else:
                await asyncio.Event().wait()

        stable, candidate = await Model(half).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            head = f"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\nauthorization: {AUTH['authorization']}\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", int(system.url.rpartition(":")[2]))
            writer.write(head.encode() + b"content-length: 2\r\n\r\n{}")
            await reader.readuntil(b"half of it")
            if cut == "by the model":
                assert await reader.read() == b""
            writer.close()
            await until(lambda: len(candidate.heard) == 1)
            await system.settled()
            batch = await system.sealed()
            assert batch.live["rev"].outcomes == {"truncated" if cut == "by the model" else "client_gone": 1}
            assert batch.mirrored["cand"].outcomes == {"ok": 1}
            assert (batch.pairs, batch.dropped) == ((), {"live_failed": 1})
            assert candidate.heard[0].body == b"{}"

    run(scenario())


def test_a_copy_that_is_ended_before_it_is_on_its_way_leaves_no_request_counted_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that waits for a connection has not taken its first step then, and never takes it."""
    begin = copies.Copying.begin

    def ends(copying: copies.Copying) -> None:
        begin(copying)
        copying.abandon()

    async def scenario() -> None:
        stable, candidate = await Model(ok(b"1")).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            monkeypatch.setattr(copies.Copying, "begin", ends)
            await system.post()
            await system.settled()
            assert at_rest(system)

    run(scenario())


def found(system: System) -> LiveRoute:
    live = system.worker.routes.find("e")
    assert live is not None
    return live


def at_rest(system: System) -> bool:
    """Nothing is held for copies, and none is thought to be on its way to a replica."""
    mirrors, every = system.worker.mirrors, found(system).revisions["cand"].copies.every
    busy = [replica.in_flight for replica in every if replica is not None]
    return not (mirrors.running or mirrors._waiting or mirrors._held or any(busy))

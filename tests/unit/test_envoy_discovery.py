"""What Envoy is offered, and what it says of it by what it asks next."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from headgate_router.dataplanes.envoy import discovery
from headgate_router.dataplanes.envoy.discovery import CLUSTERS, Discovery, Refused
from headgate_router.dataplanes.envoy.plane import Plane
from headgate_router.dataplanes.envoy.probes import Probes
from headgate_router.tunnels import Limits


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


def offering(version: str = "1") -> Discovery:
    one = Discovery()
    one.expect("envoy.a")
    one.offer(CLUSTERS, version, [{"name": "e/r"}])
    return one


def test_a_question_is_held_until_there_is_something() -> None:
    async def scenario() -> None:
        one = Discovery()
        one.expect("envoy.a")
        asking = asyncio.create_task(one.answer(CLUSTERS, "envoy.a", ""))
        await asyncio.sleep(0)
        assert not asking.done()
        one.offer(CLUSTERS, "1", [{"name": "e/r"}])
        said = await asking
        assert said is not None
        assert (said["version_info"], said["resources"]) == ("1", [{"name": "e/r"}])

    run(scenario())


def test_a_version_is_taken_when_the_next_question_names_it() -> None:
    async def scenario() -> None:
        one = offering()
        taken = asyncio.create_task(one.taken(CLUSTERS, "1"))
        await one.answer(CLUSTERS, "envoy.a", "")
        assert not taken.done()
        asking = asyncio.create_task(one.answer(CLUSTERS, "envoy.a", "1"))
        await taken
        asking.cancel()

    run(scenario())


def test_a_version_that_is_never_named_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "AGAIN_S", 0.01)

    async def scenario() -> None:
        one = offering()
        taken = asyncio.create_task(one.taken(CLUSTERS, "1"))
        answers = 0
        while not taken.done():
            answers += await one.answer(CLUSTERS, "envoy.a", "0") is not None
        with pytest.raises(Refused):
            await taken
        assert answers > discovery.TRIES

    run(scenario())


def test_a_process_that_is_gone_is_told_and_believed_nothing() -> None:
    async def scenario() -> None:
        one = offering()
        one.expect("envoy.b")
        assert await one.answer(CLUSTERS, "envoy.a", "1") is None
        taken = asyncio.create_task(one.taken(CLUSTERS, "1"))
        await asyncio.sleep(0)
        assert not taken.done()
        taken.cancel()
        said = await one.answer(CLUSTERS, "envoy.b", "")
        assert said is not None

    run(scenario())


def test_who_closes_holds_no_question() -> None:
    async def scenario() -> None:
        one = offering()
        asking = asyncio.create_task(one.answer(CLUSTERS, "envoy.a", "1"))
        await asyncio.sleep(0)
        one.close()
        assert await asking is None

    run(scenario())


def test_that_a_table_was_refused_is_not_said_of_the_next_one() -> None:
    async def scenario() -> None:
        plane = Plane(Discovery(), Probes("probe", 1), lambda: None, lambda revision: (), Limits())
        plane.refused = "no such field"
        plane.push()
        assert plane.refused == "", "also before its task has begun"
        plane.stop()
        await asyncio.sleep(0)

    run(scenario())

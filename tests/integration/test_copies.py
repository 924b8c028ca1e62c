"""Copies as a worker sends them itself, on either of its own data paths."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import routerplay
from headgate_router.main import ASGI, BUILTIN
from routerplay import Heard, Model, Writer, mirrored_to, ok, revision, router, run, until


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

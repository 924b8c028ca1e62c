"""Candidates that hang, or answer without end, cost callers nothing and the router no more than was set aside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headgate_router import copies, mirror
from headgate_router.main import ASGI, BUILTIN
from trapplay import hang, until

OURS = pytest.mark.only(BUILTIN, ASGI, why="Envoy sends its copies itself: docs/envoy.md")


@OURS
def test_copies_that_hang_hold_so_many_bytes_and_no_more(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        site.mirrored.act = hang
        asked, size = 40, 1_000_000
        fit = copies.MAX_BYTES // (size + len(b"ok"))
        assert fit < min(asked, copies.MAX_RUNNING)
        caller = await site.caller()
        for _ in range(asked):
            caller.write(site.request(b"x" * size))
            assert (await caller.answer()).status == 200
        assert site.router.mirrors.running == fit
        (batch,) = site.router.book.seal(1.0)
        assert batch.dropped == {"busy": asked - fit}

    trap(scenario, mirrored=True)


@OURS
def test_a_copys_answer_without_end_is_ended_and_not_kept(trap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MAX_SECONDS", 0.3)

    async def scenario(site: Any) -> None:
        poured = 0

        async def pour(heard: Any, reader: Any, writer: Any) -> None:
            nonlocal poured
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"186a0\r\n%b\r\n" % (b"x" * 100_000))
                poured += 100_000
                await writer.drain()
                await asyncio.sleep(0)

        site.mirrored.act = pour
        assert (await site.ask(site.request())).body == b"ok"
        await site.mirrored.gone.wait()
        await until(lambda: site.router.mirrors.running == 0)
        assert poured > mirror.MAX_BODY
        (batch,) = site.router.book.seal(1.0)
        assert batch.mirrored["cand"].outcomes == {"timeout": 1}
        assert (batch.pairs, batch.dropped) == ((), {"copy_failed": 1})

    trap(scenario, mirrored=True)

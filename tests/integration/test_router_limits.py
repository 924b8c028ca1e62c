"""What holds callers up and what is refused: places, bodies, heads, framing, clocks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

import envoyplane
from headgate_router.dataplanes.builtin.guard import Guarded
from headgate_router.dataplanes.builtin.protocol import CallerConnection
from routerplay import (
    KEY,
    Heard,
    Model,
    Writer,
    hang,
    ok,
    revision,
    router,
    run,
    until,
)

pytestmark = pytest.mark.usefixtures("plane")


def test_m_times_n_run_as_many_wait_the_rest_is_429(tmp_path: Path) -> None:
    async def scenario() -> None:
        go = asyncio.Event()
        running = [0, 0]  # now, and at most

        async def wait(heard: Heard, writer: Writer) -> None:
            running[0] += 1
            running[1] = max(running)
            await go.wait()
            await ok(b"1")(heard, writer)
            running[0] -= 1

        model = await Model(wait).start()
        async with router(tmp_path) as system:
            limits = {"max_concurrent_per_instance": 2, "instances": 2, "max_queue_wait_ms": 20_000}
            system.route(revision("rev", 1000, model, **limits))
            asked = [asyncio.create_task(system.post()) for _ in range(20)]
            # Beside Envoy twice as many may wait, and each thread may have one connection of its own.
            extra = envoyplane.THREADS - 1 if system.worker.side else 0
            taken = range(8, 13 + extra) if system.worker.side else range(8, 9)
            await until(lambda: sum(task.done() for task in asked) >= 21 - taken.stop and len(model.heard) >= 4)
            go.set()
            codes = Counter([(await task).status_code for task in asked])
            assert codes[200] in taken
            assert codes == {200: codes[200], 429: 20 - codes[200]}
            assert running[0] == 0
            assert 4 <= running[1] <= 4 + extra
            assert (await system.sealed()).live["rev"].outcomes == {"ok": codes[200], "refused": codes[429]}

    run(scenario())


def test_who_waits_too_long_is_429(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(hang).start()
        async with router(tmp_path) as system:
            limits = {"max_concurrent_per_instance": 1, "max_queue_wait_ms": 20, "request_timeout_ms": 8_000}
            system.route(revision("rev", 1000, model, **limits))
            first = asyncio.create_task(system.post())
            await until(lambda: bool(model.heard))
            second = await system.post()
            assert (second.status_code, second.headers["retry-after"]) == (429, "1")
            assert not first.done()
            first.cancel()
            await asyncio.wait((first,))

    run(scenario())


def test_a_long_body_is_streamed_and_one_too_long_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path, max_body=6_000_000) as system:
            system.route(revision("rev", 1000, model))

            async def pieces(n: int) -> AsyncIterator[bytes]:
                for _ in range(n):
                    yield b"x" * 500_000

            assert (await system.post(b"y" * 5_000_000)).status_code == 200
            assert model.heard[-1].body == b"y" * 5_000_000
            assert (await system.caller.post("/endpoints/e/score", content=pieces(10))).status_code == 200
            assert model.heard[-1].body == b"x" * 5_000_000
            assert (await system.caller.post("/endpoints/e/score", content=pieces(2))).status_code == 200
            assert model.heard[-1].body == b"x" * 1_000_000
            assert (await system.post(b"y" * 6_000_001)).status_code == 413
            assert (await system.caller.post("/endpoints/e/score", content=pieces(14))).status_code == 413
            assert len(model.heard) == 3

    run(scenario())


def test_a_head_too_long_is_431_while_it_is_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000))
            start = b"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\n"
            for endless in (b"x-a: " + b"y" * 200_000, b"".join(b"x-%d: y\r\n" % n for n in range(20_000))):
                assert (await system.raw(start + endless)).startswith(b"HTTP/1.1 431 ")

    run(scenario())


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 2\r\ncontent-length: 3\r\n",
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding : chunked\r\n",
        b"x: a\r\n b\r\ncontent-length: 2\r\n",
        b"x: a\rb\r\ncontent-length: 2\r\n",
        b"x: a\x00b\r\ncontent-length: 2\r\n",
    ],
    ids=["two lengths", "both framings", "odd coding", "space before colon", "folded", "bare CR", "NUL"],
)
def test_ambiguous_framing_never_reaches_a_model(tmp_path: Path, head: bytes) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            start = f"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()
            assert (await system.raw(start + head + b"\r\n{}")).startswith(b"HTTP/1.1 400 ")
            assert model.heard == []

    run(scenario())


def test_connections_that_send_too_slowly_expire(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000))
            port = int(system.url.rpartition(":")[2])
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            _, stalled = await asyncio.open_connection("127.0.0.1", port)
            stalled.write(
                b"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\n" + f"authorization: Bearer {KEY}\r\n".encode()
            )
            stalled.write(b"content-length: 10\r\n\r\nhalf")
            connections = system.worker._server.server_state.connections
            await until(lambda: len(connections) == 2 and system.worker.book.in_flight == 1)
            every = cast(set[Guarded | CallerConnection], connections)
            now = max(one._since for one in every)
            expired = {later: sum(one.expired(now + later) for one in every) for later in (10, 20, 40)}
            assert expired == {10: 0, 20: 1, 40: 2}
            silent.close()
            stalled.close()

    run(scenario())

"""Models that fail, die, stream, are slow, or are left: what their callers get, and what is counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from routerplay import (
    KEY,
    Heard,
    Model,
    Writer,
    hang,
    mirrored_to,
    ok,
    revision,
    router,
    run,
    status,
    until,
)

pytestmark = pytest.mark.usefixtures("plane")


@pytest.mark.parametrize("code", [500, 404, 302, 400])
def test_a_models_error_is_424_with_what_it_said(tmp_path: Path, code: int) -> None:
    async def scenario() -> None:
        model = await Model(status(code, "Went Wrong", b"a traceback")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            answer = await system.post()
            assert (answer.status_code, answer.text) == (424, "a traceback")
            assert answer.headers["ms-azureml-model-error-statuscode"] == str(code)
            assert answer.headers["ms-azureml-model-error-reason"] == "Went Wrong"
            assert answer.headers["headgate-revision"] == "rev"
            counts = (await system.sealed()).live["rev"]
            assert counts.outcomes == {"model_error": 1}
            assert sum(counts.latency.values()) == 1

    run(scenario())


def test_a_long_error_is_cut(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(status(500, "E", b"x" * 300_000)).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            assert len((await system.post()).content) == 64 * 1024

    run(scenario())


def test_an_error_that_breaks_off_is_still_that_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def cut(heard: Heard, writer: Writer) -> None:
            writer.write(b"HTTP/1.1 500 Out Of Memory\r\ncontent-length: 100\r\n\r\nkill")
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        model = await Model(cut).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            answer = await system.post()
            assert (answer.status_code, answer.text) == (424, "kill")
            assert answer.headers["ms-azureml-model-error-reason"] == "Out Of Memory"

    run(scenario())


def test_a_slow_model_is_408_and_sees_its_caller_leave(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(hang).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model, request_timeout_ms=1_000))
            answer = await system.post()
            assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")
            await model.gone.wait()
            counts = (await system.sealed()).live["rev"]
            assert counts.outcomes == {"timeout": 1}
            assert sum(counts.latency.values()) == 1
            assert len(model.heard) == 1

    run(scenario())


def test_unreadiness_is_503_and_never_moves_the_split(tmp_path: Path) -> None:
    async def scenario() -> None:
        blue = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("blue", 500, blue), revision("green", 500))
            answers = [await system.post() for _ in range(20)]
            found = Counter((a.headers["headgate-revision"], a.status_code) for a in answers)
            assert found == {("blue", 200): 10, ("green", 503): 10}
            assert {a.headers.get("retry-after") for a in answers} == {None, "1"}
            assert (await system.sealed()).live["green"].outcomes == {"refused": 10}

    run(scenario())


def test_a_dead_replica_of_two_is_not_noticed(tmp_path: Path) -> None:
    async def scenario() -> None:
        alive, dead = await Model(ok(b"1")).start(), await Model(ok(b"1")).start()
        dead.server.close()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, alive, dead), repeatable=False)
            assert {(await system.post()).status_code for _ in range(40)} == {200}

    run(scenario())


def test_an_address_that_nobody_can_have_is_a_replica_that_is_not_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        nowhere = f"http://{'a' * 64}:80"
        async with router(tmp_path) as system:
            system.route(replace(revision("rev", 1000), upstreams=(nowhere, model.address)), repeatable=False)
            assert [(await system.post()).content for _ in range(6)] == [b"1"] * 6
            system.route(replace(revision("rev", 1000), upstreams=(nowhere,)))
            said = await system.post()
            assert (said.status_code, said.json()["error"]["code"]) == (503, "not-ready")

    run(scenario())


def test_a_replica_that_dies_in_mid_request_is_noticed_only_if_not_repeatable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def die(heard: Heard, writer: Writer) -> None:
            writer.transport.abort()

        alive, dying = await Model(ok(b"1")).start(), await Model(die).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, alive, dying))
            assert {(await system.post()).status_code for _ in range(40)} == {200}
            assert dying.heard
            system.route(revision("rev", 1000, dying), repeatable=False)
            broken = await system.post()
            assert (broken.status_code, broken.json()["error"]["code"]) == (502, "broken")

    run(scenario())


def test_an_answer_cut_short_is_seen_as_such_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def cut(heard: Heard, writer: Writer) -> None:
            framing = b"content-length: 100" if len(model.heard) % 2 else b"transfer-encoding: chunked"
            writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()

        model = await Model(cut).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            for _ in range(2):
                with pytest.raises(httpx.RemoteProtocolError):
                    await system.post()
            await system.settled()
            assert (await system.sealed()).live["rev"].outcomes == {"truncated": 2}
            assert len(model.heard) == 2

    run(scenario())


def test_a_stream_passes_event_by_event(tmp_path: Path) -> None:
    async def scenario() -> None:
        go = asyncio.Event()

        async def events(heard: Heard, writer: Writer) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for n in range(5):
                go.clear()
                writer.write(b"8\r\ndata: %d\n\r\n" % n)
                await go.wait()  # until the caller has it
            writer.write(b"0\r\n\r\n")

        model = await Model(events).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            got = []
            async with system.caller.stream("POST", "/endpoints/e/score", content=b"{}") as answer:
                async for chunk in answer.aiter_bytes():
                    got.append(chunk)
                    go.set()
            assert got == [b"data: %d\n" % n for n in range(5)]
            await system.settled()
            assert (await system.sealed()).live["rev"].outcomes == {"ok": 1}

    run(scenario())


def test_event_streams_are_timed_and_their_end_is_known_also_of_copies(tmp_path: Path) -> None:
    async def scenario() -> None:
        def speaks(*last: bytes) -> Any:
            async def events(heard: Heard, writer: Writer) -> None:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for event in (b"data: a\n\n", b"data: b\n\n", *last):
                    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")

            return events

        stable, candidate = await Model(speaks(b"data: [DONE]\n\n")).start(), await Model(speaks()).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            assert (await system.post()).status_code == 200
            await system.settled()
            batch = await system.sealed()
            live, copied = batch.live["rev"], batch.mirrored[target.revision]
            assert (live.finishes, copied.finishes) == ({"done": 1}, {"open": 1})
            assert sum(live.streams["first_event"].values()) == sum(copied.streams["first_event"].values()) == 1

    run(scenario())


def test_a_slow_reader_slows_the_model_and_fills_nobodys_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        size, sent = 64 * 1024 * 1024, 0

        async def pour(heard: Heard, writer: Writer) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            while sent < size:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536

        model = await Model(pour).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model, request_timeout_ms=1_000))
            async with system.caller.stream("POST", "/endpoints/e/score", content=b"{}") as answer:
                before = -1
                while before != sent:  # until it stands still, for longer than the model's own time limit
                    before = sent
                    await asyncio.sleep(1.2)
                assert sent < size / 2
                got = [len(chunk) async for chunk in answer.aiter_bytes()]
            assert sum(got) == size
            await system.settled()
            assert (await system.sealed()).live["rev"].outcomes == {"ok": 1}

    run(scenario())


@pytest.mark.parametrize("begun", [False, True], ids=["before the first byte", "in mid-stream"])
def test_a_caller_who_leaves_is_seen_by_the_model(tmp_path: Path, begun: bool) -> None:
    async def scenario() -> None:
        async def slow(heard: Heard, writer: Writer) -> None:
            if begun:
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
            await asyncio.Event().wait()

        model = await Model(slow).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model, request_timeout_ms=60_000))
            await system.served()
            reader, writer = await asyncio.open_connection("127.0.0.1", int(system.url.rpartition(":")[2]))
            head = f"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            writer.write(head.encode() + b"content-length: 2\r\n\r\n{}")
            if begun:
                await reader.readuntil(b"ok\r\n")
            await until(lambda: bool(model.heard))
            writer.transport.abort()
            await model.gone.wait()
            await system.settled()
            batch = await system.sealed()
            assert batch.live["rev"].outcomes == {"client_gone": 1}
            assert batch.live["rev"].requests == 0
            assert batch.statuses == {"499": 1}

    run(scenario())

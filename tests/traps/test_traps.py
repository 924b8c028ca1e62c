"""What goes wrong in proxies, a row of `docs/traps.md` each: against our data paths, and nginx and haproxy as peers.

2 and 3, framing that can be read in two ways, are the table of `test_smuggling.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headgate_router.main import ASGI, BUILTIN, ENVOY
from trapplay import DEADLINE_S, until


def fixed(raw: bytes) -> Any:
    async def act(heard: Any, reader: Any, writer: Any) -> None:
        writer.write(raw)

    return act


def test_01_what_belongs_to_one_connection_ends_there(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        site.model.act = fixed(
            b"HTTP/1.1 200 OK\r\nconnection: x-mine, keep-alive\r\nx-mine: 1\r\nkeep-alive: timeout=9\r\n"
            b"proxy-authenticate: x\r\nx-all: 1\r\ncontent-length: 2\r\n\r\nok"
        )
        asked = (b"connection: x-foo", b"x-foo: 1", b"te: trailers", b"keep-alive: 5", b"x-bar: 1")
        said = await site.ask(site.request(b"{}", *asked))
        assert (said.status, said.body) == (200, b"ok")
        assert [said.all(name) for name in (b"x-mine", b"proxy-authenticate")] == [[], []]
        assert said.all(b"x-all") == [b"1"]
        (heard,) = site.model.heard
        assert [heard.all(name) for name in (b"x-foo", b"te", b"keep-alive")] == [[], [], []]
        assert heard.all(b"x-bar") == [b"1"]

    trap(scenario)


def test_04_two_credentials_are_none(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        said = await site.ask(site.request(b"{}", b"authorization: Bearer other-key"))
        assert said.status == 401 or (said.status == 400 and site.worker is None)
        assert site.model.heard == []

    trap(scenario)


@pytest.mark.parametrize("begun", [True, False], ids=["05 mid-stream", "06 before the first byte"])
def test_a_caller_who_leaves_ends_the_models_work(trap: Any, begun: bool) -> None:
    async def scenario(site: Any) -> None:
        async def work(heard: Any, reader: Any, writer: Any) -> None:
            if begun:
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
            await asyncio.Event().wait()

        site.model.act = work
        caller = await site.caller()
        caller.write(site.request())
        await until(lambda: bool(site.model.heard))
        if begun:
            await caller.reader.readuntil(b"ok\r\n")
        caller.close()
        async with asyncio.timeout(DEADLINE_S):
            await site.model.gone.wait()
        await site.settled()
        if site.worker is not None:
            assert site.outcomes() == {"client_gone": 1}

    trap(scenario)


def test_07_a_long_body_is_passed_on_while_it_comes_and_not_copied(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        site.model.early = True
        half = asyncio.Event()

        async def read(heard: Any, reader: Any, writer: Any) -> None:
            await reader.readexactly(2_000_000)
            half.set()
            await reader.readexactly(1_000_000)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        site.model.act = read
        caller = await site.caller()
        caller.write(site.head(b"content-length: 3000000") + b"x" * 2_000_000)
        await half.wait()
        caller.write(b"x" * 1_000_000)
        assert (await caller.answer()).body == b"ok"
        caller.close()
        await site.settled()
        if site.worker is not None:
            (batch,) = site.worker.book.seal(1.0)
            assert batch.dropped == {"too_large": 1}
        assert site.mirrored.heard == []

    trap(scenario, mirrored=True)


def test_08_a_model_that_does_not_read_slows_its_caller(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        site.model.early = True
        go = asyncio.Event()
        size = 64_000_000

        async def wait(heard: Any, reader: Any, writer: Any) -> None:
            await go.wait()
            await reader.readexactly(size)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        site.model.act = wait
        caller = await site.caller()
        caller.write(site.head(b"content-length: %d" % size))
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while sent < size:
                caller.write(b"x" * 64_000)
                await caller.writer.drain()
                sent += 64_000

        pouring = asyncio.create_task(pour())
        before = -1
        while before != sent:  # until it stands still
            before = sent
            await asyncio.sleep(0.3)
        assert sent < size / 2
        go.set()
        await pouring
        assert (await caller.answer()).status == 200
        caller.close()

    trap(scenario)


def test_08_a_caller_who_does_not_read_slows_its_model(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        size, sent = 64_000_000, 0

        async def pour(heard: Any, reader: Any, writer: Any) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            while sent < size:
                writer.write(b"x" * 64_000)
                await writer.drain()
                sent += 64_000

        site.model.act = pour
        caller = await site.caller()
        caller.writer.transport.pause_reading()
        caller.write(site.request())
        before = -1
        while not sent or before != sent:  # until it stands still
            before = sent
            await asyncio.sleep(0.3)
        assert sent < size / 2
        caller.writer.transport.resume_reading()
        said = await caller.answer()
        assert (len(said.body), said.cut) == (size, False)
        caller.close()

    trap(scenario)


def test_09_bodies_are_framed_anew_and_trailers_dropped(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        site.model.act = fixed(
            b"HTTP/1.1 200 OK\r\ntrailer: x-t\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nx-t: evil\r\n\r\n"
        )
        chunks = b'2\r\n{"\r\n3;a=b\r\nx":\r\n2\r\n1}\r\n0\r\nx-late: 1\r\n\r\n'
        said = await site.ask(site.head(b"transfer-encoding: chunked") + chunks)
        assert (said.status, said.body) == (200, b"abcde")
        assert (said.all(b"x-t"), said.all(b"trailer!")) == ([], [])
        (heard,) = site.model.heard
        assert heard.body == b'{"x":1}'
        assert (heard.all(b"x-late"), heard.all(b"trailer!")) == ([], [])

    trap(scenario)


@pytest.mark.parametrize(
    ("method", "raw", "body"),
    [
        (b"POST", b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n", b""),
        (b"POST", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"POST", b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold", b"old"),
    ],
    ids=["no length", "HEAD", "204", "HTTP/1.0"],
)
def test_09_answers_without_a_body_or_a_length(trap: Any, method: bytes, raw: bytes, body: bytes) -> None:
    async def scenario(site: Any) -> None:
        async def act(heard: Any, reader: Any, writer: Any) -> None:
            writer.write(raw)
            if b"content-length" not in raw and b"204" not in raw:
                await writer.drain()
                writer.close()

        site.model.act = act
        caller = await site.caller()
        for _ in range(2):  # the second one finds the connection in good order
            caller.write(site.request(method=method))
            said = await caller.answer(method)
            assert (said.status, said.body, said.cut) == (int(raw[9:12]), body, False)
        caller.close()

    trap(scenario)


def test_10_a_body_that_waits_for_100_gets_it_and_a_models_1xx_goes_no_further(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        site.model.act = fixed(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        )
        caller = await site.caller()
        caller.write(site.head(b"content-length: 2", b"expect: 100-continue"))
        assert (await caller.answer(interim=True)).status == 100
        caller.write(b"{}")
        said = await caller.answer(interim=True)
        assert (said.status, said.body, said.all(b"link")) == (200, b"ok", [])
        assert site.model.heard[0].all(b"expect") == []
        caller.close()

    trap(scenario)


def test_10_a_refused_body_is_not_asked_for(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        caller = await site.caller()
        caller.write(site.head(b"content-length: 2", b"expect: 100-continue", key=False))
        assert (await caller.answer(interim=True)).status == 401
        caller.close()

    trap(scenario)


def test_11_an_upgrade_is_not_passed_on(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        asked = (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13")
        said = await site.ask(site.head(*asked, method=b"GET"), b"GET")
        if site.worker is not None:
            assert (said.status, site.model.heard) == (403, [])
        assert [heard.all(b"upgrade") for heard in site.model.heard] in ([], [[]])
        site.model.heard.clear()
        said = await site.ask(site.request(b"{}", b"connection: upgrade, http2-settings", b"upgrade: h2c"))
        assert said.status in (200, 400)  # answered as if it had not asked, or refused; never another protocol
        assert [heard.all(b"upgrade") for heard in site.model.heard] in ([], [[]])

    trap(scenario)


@pytest.mark.parametrize("framing", [b"content-length: 2000", b"transfer-encoding: chunked"], ids=["length", "chunks"])
def test_12_a_body_too_long_is_413_while_it_is_read(trap: Any, framing: bytes) -> None:
    async def scenario(site: Any) -> None:
        body = b"x" * 1500  # of 2,000: it never comes to its end
        said = await site.ask(site.head(framing) + (b"7d0\r\n" + body if b"chunked" in framing else body))
        assert said.status == 413
        assert site.model.heard == []

    trap(scenario, body=1000, body_s=2.0)


@pytest.mark.parametrize("field", [b"x: " + b"y" * 100_000, b"x: y\r\n" * 20_000 + b"x: y"], ids=["long", "many"])
def test_12_a_head_too_long_is_431_while_it_is_read(trap: Any, field: bytes) -> None:
    async def scenario(site: Any) -> None:
        assert (await site.ask(site.head(field)[:-4])).status in (431, 400)
        assert site.model.heard == []

    trap(scenario)


def test_13_who_sends_too_slowly_is_shown_out(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        for begin in (b"", site.head()[:30], site.head(b"content-length: 10") + b"half"):
            caller = await site.caller()
            caller.write(begin)
            said = await caller.answer()
            assert said.status in (0, 408)
            assert await caller.ended()
            caller.close()
        assert [heard.body for heard in site.model.heard] in ([], [b""])  # the last one, by who streams what comes
        await site.settled()

    trap(scenario, head_s=0.2, body_s=0.3)


@pytest.mark.parametrize("chunks", [True, False], ids=["in chunks", "until the end"])
def test_14_15_events_pass_one_by_one_and_the_first_comes_with_the_head(trap: Any, chunks: bool) -> None:
    async def scenario(site: Any) -> None:
        go = asyncio.Event()
        framing = b"transfer-encoding: chunked" if chunks else b"connection: close"

        async def events(heard: Any, reader: Any, writer: Any) -> None:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%b\r\n\r\n" % framing
            for n in range(5):
                event = b"data: %d\n\n" % n
                writer.write(head + (b"9\r\n%b\r\n" % event if chunks else event))
                head = b""
                await go.wait()
                go.clear()
            writer.write(b"0\r\n\r\n" if chunks else b"")
            if not chunks:
                writer.close()

        site.model.act = events
        caller = await site.caller()
        caller.write(site.request())
        assert b"data: 0" in await caller.reader.read(65536)
        for n in range(1, 5):
            go.set()
            assert b"data: %d" % n in await caller.reader.readuntil(b"data: %d\n\n" % n)
        go.set()
        if chunks:
            assert (await caller.reader.readuntil(b"\r\n0\r\n\r\n")).strip() == b"0"
        caller.close()

    trap(scenario)


def test_16_a_model_that_closes_kept_connections_fails_nobody(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        async def close_after(heard: Any, reader: Any, writer: Any) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            if heard.connection % 2:
                await writer.drain()
                writer.close()

        site.model.act = close_after
        caller = await site.caller()
        for _ in range(60):
            caller.write(site.request())
            assert (await caller.answer()).status == 200
        caller.close()

    trap(scenario)


@pytest.mark.only(BUILTIN, ASGI, ENVOY, why="whether a request may be asked twice is a setting of ours")
def test_16_a_close_that_crosses_a_request_fails_nobody_who_may_ask_twice(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        used: set[int] = set()

        async def close_on_the_second(heard: Any, reader: Any, writer: Any) -> None:
            if heard.connection in used:
                writer.transport.abort()
                return
            used.add(heard.connection)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        site.model.act = close_on_the_second
        site.route(repeatable=True)
        caller = await site.caller()
        for _ in range(12):
            caller.write(site.request())
            assert (await caller.answer()).status == 200
        assert len(site.model.heard) > 12  # some were asked twice
        caller.close()

    trap(scenario)


def test_17_what_may_have_run_is_not_sent_again(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        async def die(heard: Any, reader: Any, writer: Any) -> None:
            writer.transport.abort()

        site.model.act = die
        site.route(repeatable=False)
        said = await site.ask(site.request())
        assert said.status == 502
        assert len(site.model.heard) == 1

    trap(scenario)


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok surplus", False),
    ],
    ids=["length", "chunks", "close", "two answers", "surplus"],
)
def test_18_a_connection_is_used_again_only_after_a_clean_end(trap: Any, raw: bytes, kept: bool) -> None:
    async def scenario(site: Any) -> None:
        site.model.act = fixed(raw)
        for _ in range(4):
            assert (await site.ask(site.request())).body == b"ok"
        assert {heard.connection for heard in site.model.heard} == ({1} if kept else {1, 2, 3, 4})

    trap(scenario)


@pytest.mark.parametrize("cut", [0, 1, 7, 90], ids=lambda n: f"cut by {n}" if n else "in one piece")
def test_19_requests_sent_ahead_are_answered_in_order(trap: Any, cut: int) -> None:
    async def scenario(site: Any) -> None:
        async def echo(heard: Any, reader: Any, writer: Any) -> None:
            await asyncio.sleep(0.001 * (len(heard.body) % 3))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(heard.body), heard.body))

        site.model.act = echo
        bodies = [b"%d" % n * (n + 1) for n in range(12)]
        chunked = site.head(b"transfer-encoding: chunked")
        raw = b"".join(
            site.request(body) if n % 3 else chunked + b"%x\r\n%b\r\n0\r\nx: y\r\n\r\n" % (len(body), body)
            for n, body in enumerate(bodies)
        )
        caller = await site.caller()
        for start in range(0, len(raw), cut or len(raw)):
            caller.write(raw[start : start + (cut or len(raw))])
            if cut:
                await asyncio.sleep(0)
        assert [(await caller.answer()).body for _ in bodies] == bodies
        assert [heard.body for heard in site.model.heard] == bodies
        caller.close()

    trap(scenario)


@pytest.mark.parametrize(
    "framing", [b"content-length: 100\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"],
    ids=["length", "chunks"],
)  # fmt: skip
def test_20_an_answer_cut_short_is_seen_to_be(trap: Any, framing: bytes) -> None:
    async def scenario(site: Any) -> None:
        async def cut(heard: Any, reader: Any, writer: Any) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n" + framing)
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()

        site.model.act = cut
        said = await site.ask(site.request())
        assert (said.status, said.cut) == (200, True)
        await site.settled()
        if site.worker is not None:
            assert site.outcomes() == {"truncated": 1}

    trap(scenario)


@pytest.mark.parametrize("pause", [0.15, 5.0], ids=["in time", "too late"])  # 12 of them: longer than the limit
def test_21_a_stream_may_take_its_time_but_not_stand_still(trap: Any, pause: float) -> None:
    async def scenario(site: Any) -> None:
        async def stream(heard: Any, reader: Any, writer: Any) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(12):
                writer.write(b"2\r\nok\r\n")
                await asyncio.sleep(pause)
            writer.write(b"0\r\n\r\n")

        site.model.act = stream
        said = await site.ask(site.request())
        await site.settled()
        assert said.cut is (pause > 1)
        if pause < 1:
            assert said.body == b"ok" * 12
        if site.worker is not None:
            assert site.outcomes() == ({"timeout": 1} if said.cut else {"ok": 1})

    trap(scenario, answer_s=1.5)


def test_22_a_drained_router_ends_the_streams_it_has(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        begun = asyncio.Event()

        async def stream(heard: Any, reader: Any, writer: Any) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for n in range(20):
                writer.write(b"2\r\n%02d\r\n" % n)
                begun.set()
                await asyncio.sleep(0.01)
            writer.write(b"0\r\n\r\n")

        site.model.act = stream
        caller = await site.caller()
        caller.write(site.request())
        await begun.wait()
        site.end()
        said = await caller.answer()
        assert (said.body, said.cut) == (b"".join(b"%02d" % n for n in range(20)), False)
        if site.worker is not None:  # others keep it, as the next test says
            assert await caller.ended()

    trap(scenario)


def test_22_a_drained_router_ends_the_connections_that_ask_nothing(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        fresh, used = await site.caller(), await site.caller()
        used.write(site.request())
        assert (await used.answer()).status == 200
        site.end()
        assert await fresh.ended()
        assert await used.ended()

    trap(scenario)


def test_23_both_keys_open_nothing_else_does_and_none_goes_further(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        for value, status in (
            (b"Bearer the-key", 200), (b"bearer other-key", 200), (b"Bearer the-kez", 401), (b"Bearer the-ke", 401),
            (b"Bearer ", 401), (b"Basic the-key", 401), (b"Bearer the-key, Bearer the-key", 401),
        ):  # fmt: skip
            raw = site.request(b"{}", b"authorization: " + value, key=False)
            assert (await site.ask(raw)).status == status, value
        assert [heard.all(b"authorization") for heard in site.model.heard] == [[], []]

    trap(scenario)


@pytest.mark.only(BUILTIN, ASGI, ENVOY, why="keys are in its configuration")
def test_23_a_key_taken_away_opens_nothing_more_on_the_connection_it_was_used_on(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        caller = await site.caller()
        statuses = []
        for opens in ([b"the-key"], [b"the-key", b"other-key"], [b"other-key"]):
            site.route(opens)
            await site.served()
            for _ in range(2):
                caller.write(site.request())
                statuses.append((await caller.answer()).status)
        assert statuses == [200, 200, 200, 200, 401, 401]

    trap(scenario)


def test_24_a_refusal_before_the_body_was_read_arrives(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        short = await site.caller()
        for key, status in ((False, 401), (True, 200)):  # a short body is read, and the connection goes on
            short.write(site.request(b"x" * 1000, key=key))
            assert (await short.answer()).status == status
        short.close()
        caller = await site.caller()
        caller.write(site.head(b"content-length: 8000000", key=False) + b"x" * 500_000)
        said = await caller.answer()
        assert (said.status, said.cut) == (401, False)
        caller.close()

    trap(scenario)

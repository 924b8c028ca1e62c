"""The conversation with a controller that is there, is not there, repeats itself, or talks nonsense."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from headgate import codec
from headgate.control import ExchangeReply, ExchangeRequest
from headgate.evidence import Outcome
from headgate.findings import FindingsError
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_kit.layout import DataFolder
from headgate_router import feed
from headgate_router.count import Book
from headgate_router.feed import Announced, Away, Feed
from headgate_router.main import check_control
from headgate_router.routes import Routes

Reply = Callable[[ExchangeRequest], ExchangeReply | bytes | None]
ODD = ["http://[", "http://h:99999", "http://h:x", f"http://{'a' * 64}:1"]  # where nobody can be


def table(generation: int, per_mille: int = 1000, *addresses: str) -> RouteTable:
    route = EndpointRoute("e", generation, "c", (RouteRevision("r", "blue", per_mille, addresses),))
    return seal(RouteTable(generation, "c", {"e": route}))


class Controller:
    """Answers exchanges on a real socket with what `reply` says; None: closes without an answer."""

    def __init__(self, data: DataFolder, reply: Reply) -> None:
        self._data = data
        self.reply = reply
        self.heard: list[ExchangeRequest] = []
        self.authorizations: list[str] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._data.prepare()
        self._data.control.write_text(json.dumps({"url": url, "pid": 1}))
        self._data.token.write_text("secret-token\n")

    def stop(self) -> None:
        self._server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("post /exchange http/1.1")
                self.authorizations.append(head.partition("authorization: ")[2].partition("\r\n")[0])
                body = await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
                self.heard.append(codec.decode(ExchangeRequest, body))
                reply = self.reply(self.heard[-1])
                if reply is None:
                    return
                answer = reply if isinstance(reply, bytes) else codec.canonical(reply)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


SIDES: list[Side] = []  # of the test that runs


class Side:
    """A router's side of the conversation."""

    def __init__(self, root: Path) -> None:
        self.data = DataFolder(root / "data")
        self.routes = Routes(Random(1))
        self.book = Book()
        self.feed = Feed(self.data, "router-0", self.routes, self.book, Random(1))
        SIDES.append(self)

    def count(self) -> None:
        self.book.live("e", 1, "r", Outcome.OK, 200, 1.0, 1.0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        try:
            async with asyncio.timeout(60):
                await scenario
        finally:
            for side in SIDES:
                side.feed._hang_up()  # or its connection would outlive the loop
            SIDES.clear()

    asyncio.run(bounded())


def received(request: ExchangeRequest) -> ExchangeReply:
    return ExchangeReply(request.sequence)


def test_a_table_is_served_by_and_acked_in_the_next_exchange(tmp_path: Path) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        new = table(5)
        controller = Controller(side.data, lambda r: ExchangeReply(r.sequence, new if r.acked is None else None))
        await controller.start()
        assert await side.feed.exchange()
        assert side.routes.find("e") is not None
        assert not await side.feed.exchange()
        acked = controller.heard[1].acked
        assert acked is not None
        assert (acked.generation, acked.hash) == (5, new.hash)
        assert controller.authorizations == ["bearer secret-token"] * 2
        controller.stop()

    run(scenario())


def test_a_worker_boots_from_disk_with_no_controller(tmp_path: Path) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        controller = Controller(side.data, lambda r: ExchangeReply(r.sequence, table(5)))
        await controller.start()
        await side.feed.exchange()
        controller.stop()
        await side.feed.flush(0.01)
        again = Side(tmp_path)
        assert again.feed.load()
        assert again.routes.table == table(5)

    run(scenario())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", codec.canonical(replace(table(5), hash="0" * 64)), b"\x00" * 1000],
    ids=["empty", "cut", "other", "hash", "zeros"],
)
def test_a_spoilt_table_on_disk_is_not_served(tmp_path: Path, content: bytes) -> None:
    side = Side(tmp_path)
    side.feed.file.parent.mkdir(parents=True)
    side.feed.file.write_bytes(content)
    assert not side.feed.load()
    assert side.routes.table is None


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (table(6, per_mille=950), "adds up to 950"),
        (table(4), "older than 5"),
        (replace(table(6), hash="0" * 64), "hash"),
        (seal(replace(table(6), schema=99)), "schema"),
        (table(6, 1000, f"http://{'a' * 64}:1"), "no replica can be dialled"),
    ],
    ids=["sum", "older", "hash", "schema", "address"],
)
def test_a_bad_table_is_refused_reported_and_the_last_good_one_serves(
    tmp_path: Path, bad: RouteTable, why: str
) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        tables = iter([table(5), bad, table(7)])
        controller = Controller(side.data, lambda r: ExchangeReply(r.sequence, next(tables)))
        await controller.start()
        assert await side.feed.exchange()
        assert not await side.feed.exchange()
        assert side.routes.table == table(5)
        assert side.feed.tables_refused == 1
        assert await side.feed.exchange()
        assert why in controller.heard[2].refused[0]
        acked = controller.heard[2].acked
        assert acked is not None
        assert acked.generation == 5
        assert side.routes.table == table(7)
        controller.stop()
        await side.feed.flush(0.01)

    run(scenario())


def test_an_unconfirmed_batch_is_sent_again_unchanged(tmp_path: Path) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        controller = Controller(side.data, lambda r: None)
        await controller.start()
        side.count()
        for _ in range(2):
            with pytest.raises(Away):
                await side.feed.exchange()
            side.count()
        controller.reply = received
        await side.feed.exchange()
        sent = {codec.digest(request.batches) for request in controller.heard}
        assert len(sent) == 1
        assert {request.sequence for request in controller.heard} == {1}
        await side.feed.exchange()
        assert controller.heard[-1].sequence == 2
        (batch,) = controller.heard[-1].batches
        assert batch.live["r"].requests == 2
        controller.stop()

    run(scenario())


def test_with_nothing_new_no_sequence_is_used(tmp_path: Path) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        controller = Controller(side.data, received)
        await controller.start()
        side.count()
        for _ in range(3):
            await side.feed.exchange()
        assert [(r.sequence, len(r.batches)) for r in controller.heard] == [(1, 1), (1, 0), (1, 0)]
        controller.stop()

    run(scenario())


def test_a_controller_that_comes_back_on_another_port_is_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        with pytest.raises(Away):
            await side.feed.exchange()
        first, second = Controller(side.data, received), Controller(side.data, received)
        await first.start()
        await side.feed.exchange()
        await second.start()
        first.reply = lambda request: None  # killed in mid-answer
        with pytest.raises(Away):
            await side.feed.exchange()
        await side.feed.exchange()
        assert len(second.heard) == 1
        first.stop()
        second.stop()

    run(scenario())


@pytest.mark.parametrize("url", ODD)
def test_a_controller_announced_where_nobody_can_be_is_away(tmp_path: Path, url: str) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        side.data.prepare()
        side.data.control.write_text(json.dumps({"url": url, "pid": 1}))
        side.data.token.write_text("secret-token\n")
        with pytest.raises(Away):
            await side.feed.exchange()
        controller = Controller(side.data, received)
        await controller.start()
        await side.feed.exchange()
        assert len(controller.heard) == 1
        controller.stop()

    run(scenario())


@pytest.mark.parametrize("nonsense", [b"", b"{}", b"<html>", b'{"received": "many"}'])
def test_nonsense_is_a_controller_that_is_away(tmp_path: Path, nonsense: bytes) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        controller = Controller(side.data, lambda r: nonsense)
        await controller.start()
        side.count()
        with pytest.raises(Away):
            await side.feed.exchange()
        controller.reply = received
        await side.feed.exchange()
        assert controller.heard[-1].batches
        controller.stop()

    run(scenario())


def test_the_last_counts_are_flushed(tmp_path: Path) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        controller = Controller(side.data, lambda r: None)
        await controller.start()
        side.count()
        with pytest.raises(Away):
            await side.feed.exchange()
        side.count()
        controller.reply = received
        assert await side.feed.flush(10)
        delivered = {r.sequence: r.batches for r in controller.heard}
        assert sum(batch.live["r"].requests for batches in delivered.values() for batch in batches) == 2
        controller.reply = lambda request: None
        side.count()
        assert not await side.feed.flush(10)
        controller.stop()

    run(scenario())


@pytest.mark.parametrize("hangs", [False, True], ids=["slow", "hangs"])
def test_a_table_is_acked_when_the_disk_has_it_and_a_disk_that_hangs_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """A worker that is killed comes back with what it acked."""
    go, write = threading.Event(), feed.write_atomic

    def late(path: Path, content: bytes) -> None:
        go.wait(60.0 if hangs else 0.1)
        write(path, content)

    monkeypatch.setattr(feed, "write_atomic", late)
    monkeypatch.setattr(feed, "SAVED_S", 0.2 if hangs else 60.0)
    on_disk: list[bool] = []

    async def scenario() -> None:
        side = Side(tmp_path)

        def reply(request: ExchangeRequest) -> ExchangeReply:
            if request.acked is None:
                return ExchangeReply(request.sequence, table(5))
            on_disk.append(side.feed.file.exists())
            return received(request)

        controller = Controller(side.data, reply)
        await controller.start()
        assert await side.feed.exchange()
        assert not await side.feed.exchange()
        go.set()
        assert await side.feed.flush(60.0)
        assert side.feed.file.exists()
        controller.stop()

    run(scenario())
    assert on_disk[0] is not hangs


def test_a_full_disk_does_not_stop_the_table(tmp_path: Path) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        new = table(5)
        controller = Controller(side.data, lambda r: ExchangeReply(r.sequence, new if r.acked is None else None))
        await controller.start()
        side.data.tables.write_text("a file where a folder is wanted")
        assert await side.feed.exchange()
        await side.feed.flush(0.01)
        assert side.routes.table == table(5)
        assert side.feed.saves_failed == 1
        controller.stop()

    run(scenario())


def test_each_request_is_received_once_whatever_gets_lost(tmp_path: Path) -> None:
    """A controller that stores by sequence, loses every third answer, and moves to another port half way."""

    async def scenario() -> None:
        side = Side(tmp_path)
        stored: dict[int, int] = {}
        asked = 0

        def reply(request: ExchangeRequest) -> ExchangeReply | None:
            nonlocal asked
            asked += 1
            requests = sum(batch.live["r"].requests for batch in request.batches)
            if request.batches:
                assert stored.setdefault(request.sequence, requests) == requests
            return None if asked % 3 == 0 else ExchangeReply(max(stored, default=0))

        first, second = Controller(side.data, reply), Controller(side.data, reply)
        await first.start()
        running = asyncio.create_task(side.feed.run())
        for n in range(200):
            side.count()
            await asyncio.sleep(0.005)
            if n == 100:
                first.reply = lambda request: None
                first.stop()
                await second.start()
        running.cancel()
        await asyncio.wait((running,))
        while not await side.feed.flush(5):
            continue
        assert sum(stored.values()) == 200
        assert asked > 5
        second.stop()

    run(scenario())


def test_a_router_in_a_pod_dials_the_url_it_was_given_with_a_token_that_is_read_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        elsewhere = DataFolder(tmp_path / "controllers-own")
        controller = Controller(elsewhere, received)
        await controller.start()
        url = json.loads(elsewhere.control.read_text())["url"]
        mounted = tmp_path / "token"
        mounted.write_text("old\n")
        data = DataFolder(tmp_path / "pod")
        feed = Feed(data, "pod-1", Routes(Random(1)), Book(), Random(1), announced=Announced(data, url + "/", mounted))
        await feed.exchange()
        controller.reply = lambda _: None
        with pytest.raises(Away):
            await feed.exchange()
        mounted.write_text("new\n")
        controller.reply = received
        await feed.exchange()
        assert [controller.authorizations[0], controller.authorizations[-1]] == ["bearer old", "bearer new"]
        controller.stop()

    run(scenario())


@pytest.mark.parametrize("url", ["https://h:1", "h:7070", "http://", "http://user:word@h:1", "http://word@[", *ODD])
def test_a_url_that_cannot_be_dialled_is_a_finding_without_its_password(url: str) -> None:
    with pytest.raises(FindingsError) as caught:
        check_control(url)
    assert caught.value.findings[0].code == "control-url"
    assert "word" not in str(caught.value)


def test_a_table_of_a_newer_controller_is_served_kept_and_booted_from(tmp_path: Path) -> None:
    async def scenario() -> None:
        side = Side(tmp_path)
        newer = codec.to_data(table(5))
        newer["endpoints"]["e"]["zone"] = "eu"
        newer["hash"] = codec.digest({**newer, "hash": ""})
        controller = Controller(side.data, lambda r: codec.canonical({"received": r.sequence, "table": newer}))
        await controller.start()
        assert await side.feed.exchange()
        assert side.feed.fields_unknown == 1
        controller.stop()
        await side.feed.flush(0.01)
        again = Side(tmp_path)
        assert again.feed.load()
        assert again.routes.find("e") is not None

    run(scenario())


class Beside:
    """Serves in the worker's place, when it is told to."""

    def __init__(self) -> None:
        self.acked: RouteTable | None = None
        self.refused = ""
        self.cannot: tuple[str, ...] = ()

    def problems(self, table: RouteTable) -> tuple[str, ...]:
        return self.cannot

    async def served(self, seconds: float) -> None:
        return None


def beside(root: Path) -> tuple[Side, Beside]:
    side, plane = Side(root), Beside()
    side.feed = Feed(side.data, "router-0", side.routes, side.book, Random(1), plane=plane)
    return side, plane


def test_what_serves_in_the_workers_place_acknowledges(tmp_path: Path) -> None:
    async def scenario() -> None:
        side, plane = beside(tmp_path)
        new = table(5)
        controller = Controller(side.data, lambda r: ExchangeReply(r.sequence, new if r.acked is None else None))
        await controller.start()
        assert await side.feed.exchange()
        assert side.routes.table == new  # callers are admitted by it already
        assert not await side.feed.exchange()  # offered again: no news
        plane.acked = side.routes.table
        assert not await side.feed.exchange()
        assert [heard.acked and heard.acked.generation for heard in controller.heard] == [None, None, 5]
        controller.stop()

    run(scenario())


def test_what_serves_in_the_workers_place_can_refuse_before_and_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        side, plane = beside(tmp_path)
        controller = Controller(side.data, lambda r: ExchangeReply(r.sequence, table(5)))
        await controller.start()
        plane.cannot = ("e: replica x is no IP address and port",)
        assert not await side.feed.exchange()
        assert side.routes.table is None
        plane.cannot = ()
        assert await side.feed.exchange()
        plane.refused = "Envoy refused clusters 2; its log says why"
        await side.feed.exchange()
        assert [heard.refused for heard in controller.heard] == [
            (), ("table 5: e: replica x is no IP address and port",), (plane.refused,),
        ]  # fmt: skip
        controller.stop()

    run(scenario())

"""Many callers at once, who send ahead, cut, stop and leave; models that hurry, die, break off and say too much.

Each request has a mark of its own, in a field and all over its body, and its answer has it too: nobody, caller or
model, may ever hear of another's. What the bytes do in time differs from run to run; the seed is in the test's name.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from headgate_router.main import ASGI, BUILTIN, ENVOY
from trapplay import PATH, Caller, Heard, Reader, Said, Writer, read_body, read_head

SEEDS = range(1, 1 + int(os.environ.get("HEADGATE_FUZZ", "1")))
CALLERS = 16
TURNS = 10  # connections of each caller, one after the other
MARK = re.compile(rb"\[\d+-\d+\]")
ACTS = ("whole", "chunks", "slow", "die", "cut", "early", "error", "surplus", "empty", "until the end")
LEAVES = ("in the head", "in the body", "before the answer", "in the answer")


class Tap(asyncio.StreamReader):
    """Remembers every byte."""

    def __init__(self) -> None:
        super().__init__(limit=1 << 22)
        self.raw = bytearray()

    def feed_data(self, data: bytes) -> None:
        self.raw += data
        super().feed_data(data)


@dataclass
class Marked:
    """A model that answers as the field `x-act` asks, with the mark it was asked with."""

    draws: Random
    wrong: list[str] = field(default_factory=list)
    died: set[bytes] = field(default_factory=set)  # asked again, it answers

    async def handle(self, reader: Reader, writer: Writer) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: Reader, writer: Writer) -> bool:
        """Whether the connection goes on."""
        heard = await read_head(reader)
        act, mark = heard.all(b"x-act")[0], heard.all(b"x-mark")[0]
        times = int(heard.all(b"x-times")[0])
        if act == b"early":
            self._head(writer, mark, b"content-length: %d" % (len(mark) * times))
            writer.write(mark * times)
        await read_body(heard, reader)
        self._check(heard, mark)
        if act == b"early":
            return True
        says: dict[bytes, Callable[[Writer, bytes, bytes], Awaitable[bool]]] = {
            b"chunks": self._chunks, b"die": self._die, b"cut": self._cut, b"until the end": self._until_the_end,
        }  # fmt: skip
        if act in says and (act != b"die" or mark not in self.died):
            return await says[act](writer, mark, mark * times)
        return await self._whole(act, writer, mark, mark * times)

    def _check(self, heard: Heard, mark: bytes) -> None:
        size = len(heard.body) // len(mark)
        if heard.body != mark * size or MARK.findall(heard.start) != [mark]:
            self.wrong.append(f"{mark!r} came with {Counter(MARK.findall(heard.body))}, {heard.start!r}")

    def _head(self, writer: Writer, mark: bytes, framing: bytes, status: bytes = b"200 OK") -> None:
        writer.write(b"HTTP/1.1 %b\r\nx-mark: %b\r\n%b\r\n\r\n" % (status, mark, framing))

    async def _whole(self, act: bytes, writer: Writer, mark: bytes, body: bytes) -> bool:
        if act == b"slow":
            await asyncio.sleep(self.draws.random() * 0.02)
        if act == b"empty":
            writer.write(b"HTTP/1.1 204 None\r\nx-mark: %b\r\n\r\n" % mark)
            return True
        if act == b"surplus":  # at once: what comes when the connection is in use again is that request's answer
            said = b"HTTP/1.1 200 OK\r\nx-mark: %b\r\ncontent-length: %d\r\n\r\n%b" % (mark, len(body), body)
            writer.write(said + said)
            return True
        self._head(writer, mark, b"content-length: %d" % len(body), b"500 No" if act == b"error" else b"200 OK")
        writer.write(body)
        await writer.drain()
        return True

    async def _chunks(self, writer: Writer, mark: bytes, body: bytes) -> bool:
        self._head(writer, mark, b"transfer-encoding: chunked")
        at = 0
        while at < len(body):
            size = self.draws.choice((1, 7, 100, 9_000, 70_000))
            piece, at = body[at : at + size], at + size
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
            if size == 1:
                writer.write(b"%x\r\n%b\r\n" % (len(body) - at, body[at:]) if body[at:] else b"")
                break
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _die(self, writer: Writer, mark: bytes, body: bytes) -> bool:
        self.died.add(mark)
        writer.transport.abort()
        return False

    async def _cut(self, writer: Writer, mark: bytes, body: bytes) -> bool:
        self._head(writer, mark, b"content-length: %d" % (len(body) + 1))
        writer.write(body)
        await writer.drain()
        writer.close()
        return False

    async def _until_the_end(self, writer: Writer, mark: bytes, body: bytes) -> bool:
        self._head(writer, mark, b"connection: close")
        writer.write(body)
        await writer.drain()
        return False


@asynccontextmanager
async def marked(draws: Random, site: Any) -> AsyncIterator[Marked]:
    """In the place of the site's model."""
    model = Marked(draws)
    server = await asyncio.start_server(model.handle, "127.0.0.1", 0, limit=1 << 16)
    site.through = server.sockets[0].getsockname()[1]
    site.route(repeatable=True, max_concurrent_per_instance=200)
    try:
        yield model
    finally:
        server.close()


@dataclass(frozen=True)
class Asked:
    mark: bytes
    act: str
    times: int
    raw: bytes

    def wrong(self, said: Said) -> str:
        """What is not as it should be in an answer of a model; empty: nothing."""
        if said.all(b"x-mark") not in ([self.mark], []):
            return f"{self.mark!r} got the fields of {said.all(b'x-mark')}"
        whole = self.mark * self.times
        if said.status == 200 and not said.cut and self.act != "cut" and said.body != whole:
            return f"{self.mark!r} ({self.act}) got {len(said.body)} bytes for {len(whole)}"
        return ""


class Stranger:
    """One of many callers."""

    def __init__(self, site: Any, number: int, draws: Random) -> None:
        self.site = site
        self.number = number
        self.draws = draws
        self.asked = 0
        self.wrong: list[str] = []
        self.got: Counter[str] = Counter()

    def request(self) -> Asked:
        draws = self.draws
        self.asked += 1
        mark = b"[%d-%d]" % (self.number, self.asked)
        act = draws.choice(ACTS)
        long = 300_000  # more than is held
        body = mark * (long if act == "early" else draws.choice((0, 1, 20, 3_000, 30_000, long)))
        times = 5 if act in ("error", "surplus") else draws.choice((1, 5, 400, 30_000))
        fields = [b"x-act: " + act.encode(), b"x-mark: " + mark, b"x-times: %d" % times]
        path = PATH + b"?" + mark
        if draws.random() < 0.5:
            return Asked(mark, act, times, self.site.request(body, *fields, path=path))
        half = len(body) // 2
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]) if piece]
        head: bytes = self.site.head(*fields, b"transfer-encoding: chunked", path=path)
        return Asked(mark, act, times, head + b"".join(pieces) + b"0\r\n\r\n")

    async def turn(self) -> None:
        """One connection: some requests, sent ahead; perhaps it leaves."""
        tap = Tap()
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(tap), "127.0.0.1", self.site.port
            )
        except ConnectionError:
            self.got["reset"] += 1
            return
        caller = Caller(tap, asyncio.StreamWriter(transport, protocol, tap, loop))
        every = [self.request() for _ in range(self.draws.choice((1, 1, 2, 4)))]
        leaves = self.draws.choice(LEAVES) if self.draws.random() < 0.3 else ""
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(self._say(caller, every, leaves), self._hear(caller, every, leaves))
        except ConnectionError:
            self.got["reset"] += 1
        finally:
            caller.close()
        foreign = set(MARK.findall(bytes(tap.raw))) - {one.mark for one in every}
        if foreign:
            self.wrong.append(f"{every[0].mark!r} heard of {foreign}")

    async def _say(self, caller: Caller, every: list[Asked], leaves: str) -> None:
        raw = b"".join(one.raw for one in every)
        head = raw.index(b"\r\n\r\n")
        end = {"in the head": self.draws.randrange(head), "in the body": self.draws.randrange(head, len(raw))}
        raw = raw[: end.get(leaves, len(raw))]
        at = 0
        while at < len(raw) and not caller.writer.is_closing():
            size = self.draws.choice((1, 50, 5_000, 500_000))
            caller.write(raw[at : at + size])
            at += size
            await caller.writer.drain()
            await asyncio.sleep(0)
        if leaves in end:
            await asyncio.sleep(self.draws.random() * 0.01)
            caller.close()

    async def _hear(self, caller: Caller, every: list[Asked], leaves: str) -> None:
        if leaves == "in the answer":
            await caller.reader.read(100)
        if leaves == "before the answer":
            await asyncio.sleep(self.draws.random() * 0.02)
        if leaves in LEAVES[2:]:
            caller.close()
            return
        for one in every:
            said = await caller.answer()
            self.got[f"{said.status}{' cut' if said.cut else ''}"] += 1
            if wrong := one.wrong(said):
                self.wrong.append(wrong)
            if said.status == 0 or said.cut:
                return

    async def run(self) -> None:
        for _ in range(TURNS):
            await self.turn()


@pytest.mark.only(BUILTIN, ASGI, ENVOY, why="it is about us")
@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_ever_gets_a_byte_of_anothers(trap: Any, seed: int) -> None:
    async def scenario(site: Any) -> None:
        async with marked(Random(seed), site) as model:
            await site.served()
            strangers = [Stranger(site, number, Random(seed * 1000 + number)) for number in range(CALLERS)]
            await asyncio.gather(*(stranger.run() for stranger in strangers))
            await site.settled()
        assert [wrong for stranger in strangers for wrong in stranger.wrong] == []
        assert model.wrong == []
        got = sum((stranger.got for stranger in strangers), Counter[str]())
        assert got["200"] > CALLERS * TURNS / 2, got  # it did happen
        assert min(got[what] for what in ("424", "204", "200 cut")) > 0, got

    trap(scenario)

"""The split and the mirror as callers and models count them: requests over real connections, none asked twice.

HEADGATE_SOAK=10 asks 20,000 times each (`make soak`); 2,000 without it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import uvloop
from scipy.stats import binomtest

from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.main import Settings, Worker

REQUESTS = 2_000 * int(os.environ.get("HEADGATE_SOAK", "1"))
AHEAD = 20  # requests on their way on one connection
SURE = 1e-6  # a draw that is less likely than that is no chance
KEY = hashlib.sha256(b"k").hexdigest()
HEAD = b"POST /endpoints/e/score HTTP/1.1\r\nhost: h\r\nauthorization: Bearer k\r\n"
NAMES = ("blue", "green", "red")


class Model(asyncio.Protocol):
    """Answers with its name, and counts what it was asked: copies, and requests."""

    def __init__(self, name: str, asked: Counter[str]) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(name), name.encode())
        self._name = name
        self._asked = asked
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *whole, self._seen = (self._seen + data).split(b"\r\n\r\n{}")
        for head in whole:
            copy = b"\r\nheadgate-mirror: " in head.lower()
            self._asked[f"copy to {self._name}" if copy else self._name] += 1
            self._transport.write(self._answer)


@dataclass
class Site:
    workers: list[Worker]
    ports: list[int]
    asked: Counter[str]  # as models counted

    async def told(self, requests: int, draws: Random, sticky: bool) -> list[Counter[str]]:
        """What callers of each worker were answered; worker by worker another share of the requests."""
        weights = range(1, len(self.ports) + 1)
        shares = [requests * weight // sum(weights) for weight in weights]
        shares[-1] += requests - sum(shares)
        pairs = zip(self.ports, shares, strict=True)
        return await asyncio.gather(*[ask(port, share, draws, sticky) for port, share in pairs])


async def ask(port: int, requests: int, draws: Random, sticky: bool) -> Counter[str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    told: Counter[str] = Counter()
    left = requests
    while left:
        now = min(AHEAD, left)
        left -= now
        for _ in range(now):
            user = b"x-user: %x\r\n" % draws.getrandbits(64) if sticky else b""
            writer.write(b"%b%bcontent-length: 2\r\n\r\n{}" % (HEAD, user))
        for _ in range(now):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            revision = head.partition(b"headgate-revision: ")[2].partition(b"\r\n")[0].decode()
            told[revision] += 1
            assert await reader.readexactly(length) == revision.encode(), "an answer of another revision"
    writer.close()
    return told


@asynccontextmanager
async def site(folder: Path, workers: int, shares: dict[str, int], sticky: str = "none", mirror: int = 0) -> Any:
    async with AsyncExitStack() as stack:
        asked: Counter[str] = Counter()
        rows = []
        for name, share in [*shares.items(), ("candidate", 0)]:
            server = await asyncio.get_running_loop().create_server(lambda n=name: Model(n, asked), "127.0.0.1", 0)
            stack.callback(server.close)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            rows.append(RouteRevision(name, name, share, (url,), max_concurrent_per_instance=100))
        mirrors = (Mirror("candidate", mirror),) if mirror else ()
        route = EndpointRoute("e", 1, "c" * 40, tuple(rows), mirrors, keys=(KEY,), sticky=sticky)
        made: list[Worker] = []
        ports = []
        for index in range(workers):
            worker = Worker(Settings(DataFolder(folder), f"router-{index}"))
            worker.routes.swap(seal(RouteTable(1, "c" * 40, {"e": route})))
            sock = listen.bind("127.0.0.1", 0)
            ports.append(sock.getsockname()[1])
            made.append(worker)
            serving = asyncio.create_task(worker.serve(sock))
            stack.push_async_callback(asyncio.wait_for, serving, 60)
            stack.callback(worker.end)
        yield Site(made, ports, asked)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


@pytest.mark.parametrize("workers", [1, 4], ids=["1 worker", "4 workers"])
@pytest.mark.parametrize("sticky", [False, True], ids=["split", "sticky"])
@pytest.mark.parametrize("percents", [(90, 10), (99, 1), (50, 30, 20)], ids=lambda p: "-".join(map(str, p)))
def test_every_revision_answers_its_share(
    tmp_path: Path, percents: tuple[int, ...], sticky: bool, workers: int
) -> None:
    """Unsticky: every worker is exact over each period, so that it is off by less than one period's share. Sticky, with
    callers drawn at random: an exact binomial test.
    """
    shares = {name: percent * 10 for name, percent in zip(NAMES, percents, strict=False)}
    unit = gcd(*shares.values())
    period = 1000 // unit

    async def scenario() -> None:
        async with site(tmp_path, workers, shares, "header:x-user" if sticky else "none") as here:
            told = await here.told(REQUESTS, Random(4), sticky)
            whole = sum(told, Counter())
            assert whole.total() == REQUESTS
            assert whole == here.asked, "a request was asked twice, or not at all"
            for name, share in shares.items():
                assert binomtest(whole[name], REQUESTS, share / 1000).pvalue > SURE
                for one in [] if sticky else told:
                    periods = one.total() // period
                    in_one = share // unit
                    over = one.total() % period
                    assert periods * in_one <= one[name] <= periods * in_one + min(in_one, over)

    run(scenario())


@pytest.mark.parametrize("per_mille", [10, 200, 1000])
def test_copies_are_their_share_and_never_answer(tmp_path: Path, per_mille: int) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2, {"blue": 900, "green": 100}, mirror=per_mille) as here:
            told = sum(await here.told(REQUESTS, Random(4), sticky=False), Counter())
            for worker in here.workers:
                await worker.mirrors.drain(30.0)
            assert set(told) == {"blue", "green"}
            assert {name: here.asked[name] for name in told} == told
            dropped = sum(sum(b.dropped.values()) for w in here.workers for b in w.book.seal(1.0))
            copies = here.asked["copy to candidate"]
            assert here.asked["candidate"] == 0
            sampled = sum(worker.book.totals().dropped.get(("e", "not_sampled"), 0) for worker in here.workers)
            drawn = copies + dropped - sampled
            assert binomtest(drawn, REQUESTS, per_mille / 1000).pvalue > SURE if per_mille < 1000 else drawn == REQUESTS

    run(scenario())

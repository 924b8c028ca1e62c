"""Changes while callers ask: tables, replicas and workers come and go, and no caller is failed by it."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvloop

from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.main import ASGI, BUILTIN, Settings, Worker

CALLERS = 8
CHANGES = 50
REQUESTS = 2500  # at least
KEY = hashlib.sha256(b"k").hexdigest()
REVISIONS = ("blue", "green")


@dataclass
class Replica:
    """Answers with its revision's name."""

    name: bytes
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> str:
        self.server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n{}"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(self.name), self.name))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    def kill(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()


@dataclass
class Story:
    """What callers saw, and what they must not have seen."""

    seen: Counter[int] = field(default_factory=Counter)
    late: list[tuple[int, int]] = field(default_factory=list)  # answered under an older generation than was acked
    foreign: int = 0  # an answer that is not of the revision it claims to be of
    acked: int = 0
    over: bool = False


class Pair:
    """Two workers on one listening socket, as processes are under the supervisor."""

    def __init__(self, folder: Path, plane: str) -> None:
        self.sock = listen.bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}/endpoints/e/score"
        self.folder = folder
        self.plane = plane
        self.tables: list[RouteTable] = []
        self.running: dict[str, tuple[Worker, asyncio.Task[None]]] = {}

    def start(self, name: str) -> None:
        worker = Worker(Settings(DataFolder(self.folder), name, dataplane=self.plane))
        for table in self.tables[-1:]:
            worker.routes.swap(table)
        self.running[name] = worker, asyncio.create_task(worker.serve(self.sock.dup()))

    def publish(self, table: RouteTable) -> int:
        """What all workers serve by now."""
        self.tables.append(table)
        for worker, _ in self.running.values():
            worker.routes.swap(table)
        return table.generation

    async def stop(self, name: str) -> None:
        worker, serving = self.running.pop(name)
        worker.end()
        await serving


async def call(story: Story, url: str) -> None:
    async with httpx.AsyncClient(timeout=20, trust_env=False, headers={"authorization": "Bearer k"}) as client:
        while not story.over:
            acked = story.acked
            try:
                answer = await client.post(url, content=b"{}")
            except httpx.HTTPError:
                story.seen[0] += 1
                continue
            story.seen[answer.status_code] += 1
            generation = int(answer.headers["headgate-generation"])
            if generation < acked:
                story.late.append((generation, acked))
            story.foreign += answer.status_code == 200 and answer.text != answer.headers["headgate-revision"]


def route(generation: int, addresses: dict[str, list[str]], dead: str) -> RouteTable:
    """The shares move with each generation; a mirror that answers to nobody is always there."""
    green = generation * 37 % 1001
    shares = {"blue": 1000 - green, "green": green}
    more = {"max_concurrent_per_instance": 100, "request_timeout_ms": 20_000}
    live = [RouteRevision(name, name, shares[name], tuple(addresses[name]), **more) for name in REVISIONS]
    candidate = RouteRevision("cand", "cand", 0, (dead,))
    endpoint = EndpointRoute("e", generation, "c" * 40, (*live, candidate), (Mirror("cand", 200),), keys=(KEY,))
    return seal(RouteTable(generation, "c" * 40, {"e": endpoint}))


@pytest.mark.parametrize("plane", [BUILTIN, ASGI])
def test_no_request_fails_while_tables_replicas_and_workers_change(tmp_path: Path, plane: str) -> None:
    async def scenario() -> Story:
        story = Story()
        replicas = {name: [Replica(name.encode()), Replica(name.encode())] for name in REVISIONS}
        addresses = {name: [await one.start() for one in replicas[name]] for name in REVISIONS}
        dead = Replica(b"cand")
        nobody = await dead.start()
        dead.kill()
        pair = Pair(tmp_path, plane)
        pair.publish(route(1, addresses, nobody))
        for name in ("router-0", "router-1"):
            pair.start(name)
        callers = [asyncio.create_task(call(story, pair.url)) for _ in range(CALLERS)]
        for generation in range(2, CHANGES + 2):
            if generation % 10 == 0:  # one of two replicas dies, another takes its place in the next table
                name = REVISIONS[generation // 10 % 2]
                replicas[name][0].kill()
                replicas[name][0] = Replica(name.encode())
                addresses[name] = [addresses[name][1], await replicas[name][0].start()]
                replicas[name].reverse()
            story.acked = pair.publish(route(generation, addresses, nobody))
            if generation == CHANGES // 2:
                await pair.stop("router-1")
                pair.start("router-1")
            share = REQUESTS * (generation - 1) // CHANGES
            while story.seen.total() < share:
                await asyncio.sleep(0.002)
        story.over = True
        await asyncio.gather(*callers)
        for name in list(pair.running):
            await pair.stop(name)
        pair.sock.close()
        for one in (*replicas["blue"], *replicas["green"]):
            one.kill()
        return story

    async def bounded() -> Story:
        async with asyncio.timeout(120):
            return await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        story = runner.run(bounded())
    assert set(story.seen) == {200}
    assert story.seen[200] >= REQUESTS
    assert story.late == []
    assert story.foreign == 0

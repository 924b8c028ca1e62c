"""The whole router in one process, on real sockets: a caller on one side, models on the other."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import envoyplane
from headgate.evidence import Batch, PairKind
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.main import ASGI, ENVOY, Settings, Worker

KEY = "the-key"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
AUTH = {"authorization": f"Bearer {KEY}"}
WITHIN_S = 30.0  # a deadline, for a machine that does much else

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Answer = Callable[["Heard", Writer], Awaitable[None]]


@dataclass
class Heard:
    """A request as a model got it."""

    start: str
    fields: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]


def ok(body: bytes, media_type: str = "application/json") -> Answer:
    return status(200, "OK", body, media_type)


def status(code: int, reason: str, body: bytes, media_type: str = "text/plain") -> Answer:
    async def answer(heard: Heard, writer: Writer) -> None:
        head = f"HTTP/1.1 {code} {reason}\r\ncontent-type: {media_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    return answer


async def hang(heard: Heard, writer: Writer) -> None:
    """A model that takes a request and says nothing."""
    await asyncio.Event().wait()


@dataclass
class Model:
    """A model server that answers each request with `answer`, and remembers what it heard."""

    answer: Answer
    heard: list[Heard] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # a connection was closed by the router
    address: str = ""

    async def start(self) -> Model:
        self.server = await asyncio.start_server(self._handle, "127.0.0.1", 0, limit=1 << 22)
        self.address = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def _handle(self, reader: Reader, writer: Writer) -> None:
        try:
            while True:
                heard = await _request(reader)
                self.heard.append(heard)
                await _until_left(self.answer(heard, writer), reader)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            self.gone.set()
        finally:
            writer.close()


async def _request(reader: Reader) -> Heard:
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    heard = Heard(start, [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)], b"")
    if heard.all("transfer-encoding"):
        while size := int((await reader.readuntil(b"\n")).strip(), 16):
            heard.body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        heard.body = await reader.readexactly(int((heard.all("content-length") or ["0"])[0]))
    return heard


async def _until_left(answer: Awaitable[None], reader: Reader) -> None:
    """Runs the answer; ends it when the router closes its side first."""
    running = asyncio.ensure_future(answer)
    while not running.done():
        await asyncio.wait((running,), timeout=0.01)
        if reader.at_eof() or reader.exception() is not None:
            running.cancel()
            raise ConnectionResetError
    await running


class System:
    """A router worker and a caller."""

    def __init__(self, worker: Worker, url: str) -> None:
        self.worker = worker
        self.url = url
        self.caller = httpx.AsyncClient(
            base_url=url, timeout=2 * WITHIN_S, headers=AUTH, trust_env=False, event_hooks={"request": [self.served]}
        )
        self.generation = 0

    def route(self, *revisions: RouteRevision, **more: Any) -> None:
        self.generation += 1
        route = EndpointRoute("e", self.generation, "c" * 40, revisions, keys=(DIGEST,), **more)
        self.worker.routes.swap(seal(RouteTable(self.generation, "c" * 40, {"e": route})))

    async def served(self, request: httpx.Request | None = None) -> None:
        """Until the last table decides: at once, but for Envoy."""
        if self.worker.side is not None:
            await self.worker.side.plane.served(WITHIN_S)

    async def post(self, content: bytes = b"{}", path: str = "/endpoints/e/score", **more: Any) -> httpx.Response:
        return await self.caller.post(path, content=content, **more)

    async def raw(self, request: bytes) -> bytes:
        """What the router says to raw bytes, until it closes."""
        await self.served()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        writer.write(request)
        said = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(WITHIN_S):
                while chunk := await reader.read(65536):
                    said += chunk
        writer.close()
        return said

    async def settled(self) -> None:
        """Until every request and copy has ended."""
        if self.worker.side is not None:
            return await envoyplane.settled(self.worker.side)
        return await until(lambda: self.worker.book.in_flight == 0 and self.worker.mirrors.running == 0)

    async def sealed(self) -> Batch:
        """What was counted of requests that have ended."""
        if self.worker.side is not None:
            await self.settled()
        (batch,) = self.worker.book.seal(1.0)
        return batch


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():
            await asyncio.sleep(0.005)


PLANES = {"now": ASGI}  # which data path `router` starts


@asynccontextmanager
async def router(folder: Path, **settings: Any) -> AsyncIterator[System]:
    settings = {"dataplane": PLANES["now"], **settings}
    sock = envoyplane.prepare(settings) if settings["dataplane"] == ENVOY else listen.bind("127.0.0.1", 0)
    worker = Worker(Settings(DataFolder(folder), "router-0", **settings))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    serving = asyncio.create_task(worker.serve(sock))
    system = System(worker, url)
    try:
        if worker.side is not None:
            await envoyplane.listening(url)
        yield system
    finally:
        await system.caller.aclose()
        worker.end()
        await serving


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(6 * WITHIN_S):
            await scenario

    asyncio.run(bounded())


def revision(name: str, per_mille: int, *models: Model, **more: Any) -> RouteRevision:
    more = {"max_concurrent_per_instance": 50, **more}
    return RouteRevision(name, f"{name}-name", per_mille, tuple(m.address for m in models), **more)


def mirrored_to(model: Model, kind: PairKind = PairKind.COMPARE) -> tuple[RouteRevision, Mirror]:
    return revision("cand", 0, model), Mirror("cand", 1000, kind)

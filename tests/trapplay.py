"""A proxy on 127.0.0.1 between a caller that writes bytes and a model that writes bytes: the stage of `tests/traps`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import envoyplane
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.main import ENVOY, Settings, Worker

KEY = "the-key"
PATH = b"/endpoints/e/score"
DEADLINE_S = 30.0

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass(frozen=True)
class Limits:
    """What a proxy is set up to allow. Seconds, bytes."""

    head_s: float = 15.0  # for a request's head
    body_s: float = 30.0  # without a byte of its body
    answer_s: float = 20.0  # until an answer begins, and without a byte of it
    body: int = 100 * 1024 * 1024
    connections: int = 32_768
    client_connections: int = 16_384  # of one address


@dataclass
class Heard:
    """A request as the model read it."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    connection: int  # which of the model's connections it came over

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


@dataclass
class Said:
    """An answer as the caller read it."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    cut: bool = False  # it did not come to its end

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


Act = Callable[[Heard, Reader, Writer], Awaitable[None]]


def answer(raw: bytes) -> Act:
    async def act(heard: Heard, reader: Reader, writer: Writer) -> None:
        writer.write(raw)

    return act


async def hang(heard: Heard, reader: Reader, writer: Writer) -> None:
    """A model that takes a request and says nothing."""
    await asyncio.Event().wait()


OK = answer(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok")


@dataclass
class Model:
    """Reads requests, and acts on each with `act`. `early`: acts when the head is read."""

    act: Act = OK
    early: bool = False
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Server | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> Model:
        self.server = await asyncio.start_server(self._handle, "127.0.0.1", 0, limit=1 << 16)
        return self

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.sockets[0].getsockname()[1])

    async def _handle(self, reader: Reader, writer: Writer) -> None:
        number = self.connections = self.connections + 1
        current = asyncio.current_task()
        if current is not None:
            self.tasks.add(current)
        try:
            while True:
                heard = await read_head(reader, number)
                self.heard.append(heard)
                if not self.early:
                    await read_body(heard, reader)
                acting = asyncio.ensure_future(self.act(heard, reader, writer))
                while not acting.done():
                    await asyncio.wait((acting,), timeout=0.01)
                    if not self.early and (reader.at_eof() or reader.exception()):
                        acting.cancel()
                        raise ConnectionResetError
                await acting
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            self.gone.set()
        finally:
            writer.close()


async def read_head(reader: Reader, number: int = 0) -> Heard:
    start, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    return Heard(start, fields, b"", number)


async def read_body(heard: Heard, reader: Reader) -> None:
    """The whole body, with every trailer as a field named `trailer!`."""
    if heard.all(b"transfer-encoding"):
        while size := int((await reader.readuntil(b"\n")).strip(), 16):
            heard.body += await reader.readexactly(size)
            await reader.readline()
        while line := (await reader.readline()).strip():
            heard.fields.append((b"trailer!", line))
    else:
        heard.body = await reader.readexactly(int((heard.all(b"content-length") or [b"0"])[0]))


@asynccontextmanager
async def served() -> AsyncIterator[Model]:
    model = await Model().start()
    try:
        yield model
    finally:
        assert model.server is not None
        model.server.close()
        for task in model.tasks:
            task.cancel()


class Caller:
    """A connection of a caller that writes what it likes."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, method: bytes = b"POST", *, interim: bool = False) -> Said:
        """The next answer; `interim`: a 1xx too. Status 0: the connection ended instead."""
        try:
            head = await read_head(self.reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return Said(0, [], b"", cut=True)
        said = Said(int(head.start.split(b" ")[1]), head.fields, b"")
        if said.status < 200:
            return said if interim else await self.answer(method)
        if method == b"HEAD" or said.status in (204, 304):
            return said
        try:
            if said.all(b"transfer-encoding") or said.all(b"content-length"):
                heard = Heard(b"", said.fields, b"", 0)
                await read_body(heard, self.reader)
                said.body = heard.body
            else:
                said.body = await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            said.cut = True
        return said

    async def ended(self) -> bool:
        """Whether the proxy closes, with nothing more said."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.transport.abort()


@dataclass
class Site:
    """A proxy in front of `model`."""

    kind: str
    model: Model
    port: int
    worker: Worker | None = None
    mirrored: Model | None = None
    limits: Limits = Limits()
    drain: Callable[[], None] | None = None  # tells it to end as it should; None: the worker is told
    through: int = 0  # the port of a proxy before the model; 0: there is none
    callers: list[Caller] = field(default_factory=list)

    @property
    def router(self) -> Worker:
        assert self.worker is not None
        return self.worker

    @property
    def upstream(self) -> int:
        return self.through or self.model.port

    def route(self, opens: Sequence[bytes] = (KEY.encode(), b"other-key"), **more: Any) -> None:
        """A new table; `opens`: keys; `more`: settings of the revision, or of the route."""
        if self.worker is None:
            return
        of_route = {key: more.pop(key) for key in ("repeatable", "mirrors") if key in more}
        answer_ms = round(self.limits.answer_s * 1000)
        more = {"max_concurrent_per_instance": 50, "request_timeout_ms": answer_ms, **more}
        url = f"http://127.0.0.1:{self.upstream}"
        revisions = [RouteRevision("rev", "rev", 1000, (url,), **more)]
        if self.mirrored is not None:
            revisions.append(RouteRevision("cand", "cand", 0, (f"http://127.0.0.1:{self.mirrored.port}",), **more))
            of_route.setdefault("mirrors", (Mirror("cand", 1000),))
        table = self.worker.routes.table
        generation = table.generation + 1 if table else 1
        keys = tuple(hashlib.sha256(key).hexdigest() for key in opens)
        route = EndpointRoute("e", generation, "c" * 40, tuple(revisions), keys=keys, **of_route)
        self.worker.routes.swap(seal(RouteTable(generation, "c" * 40, {"e": route})))

    async def served(self) -> None:
        """Until the last table decides: at once, but for Envoy."""
        if self.worker is not None and self.worker.side is not None:
            await self.worker.side.plane.served(DEADLINE_S)

    async def caller(self) -> Caller:
        await self.served()
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22))
        self.callers.append(caller)
        return caller

    def end(self) -> None:
        """Open answers end, then the proxy does."""
        if self.drain is not None:
            self.drain()
        else:
            self.router.end()

    async def run(self, scenario: Scenario) -> None:
        try:
            await scenario(self)
        finally:
            for caller in self.callers:
                caller.close()
            await asyncio.sleep(0.01)  # for the transports to notice

    def head(self, *fields: bytes, method: bytes = b"POST", path: bytes = PATH, key: bool = True) -> bytes:
        """A request's head with these fields, a Host and a key."""
        every = [b"host: here", *([b"authorization: Bearer " + KEY.encode()] if key else []), *fields]
        return b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, path, b"\r\n".join(every))

    def request(self, body: bytes = b"{}", *fields: bytes, **more: Any) -> bytes:
        return self.head(*fields, b"content-length: %d" % len(body), **more) + body

    async def ask(self, raw: bytes, method: bytes = b"POST") -> Said:
        """One request on a connection of its own."""
        caller = await self.caller()
        caller.write(raw)
        said = await caller.answer(method)
        caller.close()
        return said

    async def settled(self) -> None:
        """Until every request and copy has ended."""
        if self.worker is not None and self.worker.side is not None:
            await envoyplane.settled(self.worker.side)
        elif self.worker is not None:
            worker = self.worker
            await until(lambda: worker.book.in_flight == 0 and worker.mirrors.running == 0)

    def outcomes(self) -> dict[str, int]:
        (batch,) = self.router.book.seal(1.0)
        return dict(batch.live["rev"].outcomes)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(0.005)


Scenario = Callable[[Site], Coroutine[Any, Any, None]]


@asynccontextmanager
async def ours(kind: str, folder: Path, model: Model, limits: Limits) -> AsyncIterator[Site]:
    settings: dict[str, Any] = {
        "max_body": limits.body,
        "connections": limits.connections,
        "client_connections": limits.client_connections,
    }
    sock = envoyplane.prepare(settings) if kind == ENVOY else listen.bind("127.0.0.1", 0)
    worker = Worker(Settings(DataFolder(folder), "router-0", dataplane=kind, **settings))
    serving = asyncio.create_task(worker.serve(sock))
    site = Site(kind, model, sock.getsockname()[1], worker, limits=limits)
    site.route()
    try:
        if kind == ENVOY:
            await envoyplane.listening(f"http://127.0.0.1:{site.port}")
        yield site
    finally:
        worker.end()
        await serving

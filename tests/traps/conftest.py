"""A proxy on 127.0.0.1 between a caller that writes bytes and a model that writes bytes: ours on each data path.

nginx and haproxy are put in our place when they are installed; what they do otherwise is reported (`-rx`), for they are
what people compare with, and is no failure.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

import envoyplane
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.main import ASGI, BUILTIN, ENVOY, Settings, Worker

KEY = "the-key"
PATH = b"/endpoints/e/score"
DEADLINE_S = 30.0
PEERS = ("nginx", "haproxy")
PEER_S = 5.0  # a scenario that hangs there is one more thing they do otherwise

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


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
        more = {"max_concurrent_per_instance": 50, "request_timeout_ms": 20_000, **more}
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


@asynccontextmanager
async def ours(kind: str, folder: Path, model: Model, **settings: Any) -> AsyncIterator[Site]:
    sock = envoyplane.prepare(settings) if kind == ENVOY else listen.bind("127.0.0.1", 0)
    worker = Worker(Settings(DataFolder(folder), "router-0", dataplane=kind, **settings))
    serving = asyncio.create_task(worker.serve(sock))
    site = Site(kind, model, sock.getsockname()[1], worker)
    site.route()
    try:
        if kind == ENVOY:
            await envoyplane.listening(f"http://127.0.0.1:{site.port}")
        yield site
    finally:
        worker.end()
        await serving


def configuration(kind: str, folder: Path, port: int, model: int) -> list[str]:
    """Writes what a peer needs to do the same; its argv."""
    file = folder / f"{kind}.conf"
    if kind == "nginx":
        file.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
            "events {}\nhttp { access_log off;"
            + "".join(f" {name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi"))
            + f" scgi_temp_path {folder}/scgi; upstream model {{ server 127.0.0.1:{model}; keepalive 8; }}\n"
            f" server {{ listen 127.0.0.1:{port}; client_max_body_size 10m; location / {{ proxy_pass http://model;\n"
            '  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}\n'.replace("}}", "} } }")
        )
        return ["nginx", "-p", str(folder), "-c", str(file)]
    file.write_text(
        "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        f" timeout http-request 15s\n option http-no-delay\n option abortonclose\nlisten all\n bind 127.0.0.1:{port}\n"
        f" server model 127.0.0.1:{model}\n"
    )
    return ["haproxy", "-q", "-f", str(file)]


@contextmanager
def process(argv: list[str]) -> Iterator[None]:
    child = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.kill()
        child.wait()


@asynccontextmanager
async def peer(kind: str, folder: Path, model: Model, to: int = 0) -> AsyncIterator[Site]:
    """`to`: the port it passes requests on to; 0: the model's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with process(configuration(kind, folder, port, to or model.port)):
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        yield Site(kind, model, port)


Scenario = Callable[[Site], Coroutine[Any, Any, None]]


class Trap:
    """Runs a scenario behind one kind of proxy."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder

    def __call__(self, scenario: Scenario, *, only_ours: bool = False, mirrored: bool = False, **settings: Any) -> None:
        """`only_ours`: says nothing of peers, which know no keys, copies or counters."""
        if self.kind in PEERS and only_ours:
            return

        async def whole() -> None:
            seconds = PEER_S if self.kind in PEERS else DEADLINE_S * 2
            async with asyncio.timeout(seconds), served() as model, served() as candidate:
                if self.kind in PEERS:
                    async with peer(self.kind, self.folder, model) as site:
                        await site.run(scenario)
                else:
                    async with ours(self.kind, self.folder, model, **settings) as site:
                        if mirrored:
                            site.mirrored = candidate
                            site.route()
                        await site.run(scenario)

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(whole())
        except (AssertionError, TimeoutError) as error:
            if self.kind in PEERS:
                pytest.xfail(f"{self.kind} does otherwise: {str(error)[:200]}")
            raise


@pytest.fixture(params=[BUILTIN, ASGI, envoyplane.PARAM, *(name for name in PEERS if shutil.which(name))])
def trap(request: pytest.FixtureRequest, tmp_path: Path) -> Trap:
    if request.param == ENVOY:
        envoyplane.expect(request)
    return Trap(request.param, tmp_path)


Chain = Callable[[Callable[..., Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[BUILTIN, ASGI, envoyplane.PARAM])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    """A model behind nginx behind each of our data paths."""
    return _chain(request, tmp_path, first=False)


@pytest.fixture(params=[BUILTIN, ASGI, envoyplane.PARAM])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    """nginx alone, and nginx before each of our data paths."""
    return _chain(request, tmp_path, first=True)


def _chain(request: pytest.FixtureRequest, folder: Path, *, first: bool) -> Chain:
    if not shutil.which("nginx"):
        pytest.skip("no nginx: apt install nginx")

    async def whole(scenario: Callable[..., Coroutine[Any, Any, None]]) -> None:
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(served())
            site = await stack.enter_async_context(ours(request.param, folder, model))
            nginx = await stack.enter_async_context(peer("nginx", folder, model))
            if not first:
                site.through = nginx.port
                site.route()
                await site.run(lambda only: scenario(only))
                return
            await site.served()
            (folder / "chained").mkdir()
            chained = await stack.enter_async_context(peer("nginx", folder / "chained", model, site.port))
            await chained.run(lambda last: nginx.run(lambda alone: scenario(alone, last)))

    def run(scenario: Callable[..., Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(whole(scenario))

    return run

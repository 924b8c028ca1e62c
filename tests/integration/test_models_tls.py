"""Mutual TLS between routers and models on real sockets: real fronts, the real router, an authority of our own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

import ports
from certificates import CLIENT, SERVER, Authority, Faulty
from fronts import ECHO, Replica, until
from headgate.evidence import PairKind, Result
from headgate.fault import Fault
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal
from headgate.testing import deployment
from headgate.workload import HEALTH, NOT_SET_UP, TLS
from headgate_controllers import smoke
from headgate_kit import followed, identity, listen
from headgate_kit.identity import Identity
from headgate_kit.layout import DataFolder
from headgate_router import upstream
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.failures import Unreachable
from headgate_router.main import Settings, Worker, main
from headgate_router.trust import Trust

AUTH = {"authorization": "Bearer key"}
WHO = "import os\ndef init():\n    pass\ndef run(data):\n    return os.environ['WHO']\n"
BOTH = pytest.mark.parametrize("dataplane", ["builtin", "asgi"])
US, THEM = Authority("us"), Authority("them")

Start = Callable[..., Replica]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Replica] = []

    def make(files: Path | None = None, *, name: str = "one", health: str = "", script: str = ECHO) -> Replica:
        told = {**({TLS: str(files)} if files else {}), **({HEALTH: health} if health else {})}
        made.append(Replica(tmp_path / name, script, {"WHO": name}, 10_000_000, told))
        if files:
            client = US.issue(tmp_path / "tester", CLIENT, trusts=US.pem + THEM.pem)
            made[-1].client = client_of(client)
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def client_of(files: Path) -> httpx.Client:
    class Named(httpx.Client):
        def build_request(self, *args: Any, **more: Any) -> httpx.Request:
            request = super().build_request(*args, **more)
            request.extensions["sni_hostname"] = identity.NAME
            return request

    return Named(verify=identity.client(files), trust_env=False, timeout=20)


class System:
    def __init__(self, worker: Worker, url: str, shows: Identity | None) -> None:
        self.worker = worker
        self._shows = shows
        self.caller = httpx.AsyncClient(base_url=url, headers=AUTH, trust_env=False, timeout=20)

    async def post(self, content: str = "{}") -> httpx.Response:
        return await self.caller.post("/endpoints/e/score", content=content)

    def hang_up(self) -> None:
        """The next request meets the model anew."""
        live = self.worker.routes.find("e")
        for replica in live.revisions["r1"].replicas.every if live else ():
            while (kept := replica.pooled(60, time.monotonic())) is not None:
                kept.abort()

    @property
    def shows(self) -> Identity:
        assert self._shows is not None
        return self._shows

    @property
    def failed(self) -> int:
        return self.worker.routes.trust.failed


@asynccontextmanager
async def router(
    folder: Path,
    *addresses: str,
    shows: Path | None,
    dataplane: str = "builtin",
    mirror: str = "",
    websocket: bool = False,
    **more: Any,
) -> AsyncIterator[System]:
    models = Identity(shows, identity.client) if shows else None
    worker = Worker(Settings(DataFolder(folder / "data"), "router-0", dataplane=dataplane, models=models))
    rows = [RouteRevision("r1", "blue", 1000, addresses, max_concurrent_per_instance=50, websocket=websocket)]
    if mirror:
        rows.append(RouteRevision("r2", "green", 0, (mirror,), max_concurrent_per_instance=50))
        more["mirrors"] = (Mirror("r2", 1000, PairKind.COMPARE),)
    route = EndpointRoute("e", 1, "c", tuple(rows), keys=(hashlib.sha256(b"key").hexdigest(),), **more)
    worker.routes.swap(seal(RouteTable(1, "c", {"e": route})))
    sock = listen.bind("127.0.0.1", 0)
    serving = asyncio.create_task(worker.serve(sock))
    system = System(worker, f"http://127.0.0.1:{sock.getsockname()[1]}", models)
    try:
        yield system
    finally:
        await system.caller.aclose()
        worker.end()
        await serving


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@pytest.fixture
def free_port() -> Iterator[Callable[[], str]]:
    with ExitStack() as stack:
        yield lambda: f"127.0.0.1:{stack.enter_context(ports.held())}"


@BOTH
def test_a_model_that_asks_for_a_certificate_answers_short_and_long(
    start: Start, tmp_path: Path, dataplane: str
) -> None:
    model = start(US.issue(tmp_path / "server", SERVER)).ready()
    assert model.url.startswith("https://")

    async def scenario() -> None:
        async with router(
            tmp_path, model.url, shows=US.issue(tmp_path / "client", CLIENT), dataplane=dataplane
        ) as system:
            for body in ("{}", "x" * 3_000_000, "{}"):
                answer = await system.post(body)
                assert (answer.status_code, answer.json()) == (200, body)
            assert system.failed == 0

    run(scenario())


@BOTH
def test_plain_and_tls_replicas_of_one_revision_answer_side_by_side(
    start: Start, tmp_path: Path, dataplane: str
) -> None:
    secure = start(US.issue(tmp_path / "server", SERVER), name="secure", script=WHO).ready()
    plain = start(name="plain", script=WHO).ready()

    async def scenario() -> None:
        client = US.issue(tmp_path / "client", CLIENT)
        async with router(tmp_path, secure.url, plain.url, shows=client, dataplane=dataplane) as system:
            answers = [await system.post() for _ in range(40)]
            assert {a.status_code for a in answers} == {200}
            assert {a.json() for a in answers} == {"secure", "plain"}

    run(scenario())


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(lambda at: None, id="none given"),
        pytest.param(lambda at: THEM.issue(at, CLIENT, trusts=US.pem), id="of another authority"),
        pytest.param(lambda at: US.issue(at, CLIENT, expired=True), id="expired"),
        pytest.param(lambda at: US.issue(at, SERVER), id="a model's own"),
    ],
)
@BOTH
def test_a_router_that_the_model_does_not_know_gets_nothing(
    start: Start, tmp_path: Path, dataplane: str, shown: Callable[[Path], Path | None]
) -> None:
    model = start(US.issue(tmp_path / "server", SERVER)).ready()

    async def scenario() -> None:
        async with router(tmp_path, model.url, shows=shown(tmp_path / "client"), dataplane=dataplane) as system:
            await refused(system)

    run(scenario())


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(lambda at: THEM.issue(at, SERVER, trusts=US.pem), id="of another authority"),
        pytest.param(lambda at: US.issue(at, SERVER, expired=True), id="expired"),
        pytest.param(lambda at: US.issue(at, SERVER, name="models.example"), id="for another name"),
        pytest.param(lambda at: US.issue(at, CLIENT), id="a router's own"),
    ],
)
@BOTH
def test_a_model_that_the_router_does_not_know_is_asked_nothing(
    start: Start, free_port: Callable[[], str], tmp_path: Path, dataplane: str, shown: Callable[[Path], Path]
) -> None:
    model = start(shown(tmp_path / "server"), health=(health := free_port()))
    with httpx.Client(trust_env=False) as plain:
        until(lambda: (model.folder / "address").exists())
        until(lambda: plain.get(f"http://{health}/ready").status_code == 200)

    async def scenario() -> None:
        async with router(
            tmp_path, model.url, shows=US.issue(tmp_path / "client", CLIENT), dataplane=dataplane
        ) as system:
            await refused(system)

    run(scenario())


async def refused(system: System) -> None:
    answer = await system.post()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "upstream-tls"
    assert system.failed == 1
    metrics = (await system.caller.get("/metrics")).text
    assert 'headgate_router_upstream_tls_failed_total{worker="router-0"} 1.0' in metrics


@BOTH
def test_a_replica_of_another_authority_costs_no_caller_an_answer(
    start: Start, free_port: Callable[[], str], tmp_path: Path, dataplane: str
) -> None:
    """Nothing was sent to it, so that even what must not run twice goes to the other one."""
    strange = start(THEM.issue(tmp_path / "theirs", SERVER, trusts=US.pem), name="strange", health=free_port())
    distrusts = start(US.issue(tmp_path / "ours", SERVER, trusts=THEM.pem), name="distrusts", health=free_port())
    good = start(US.issue(tmp_path / "server", SERVER), name="good", script=WHO).ready()
    for other in (strange, distrusts):
        until((other.folder / "address").exists)

    async def scenario() -> None:
        client = US.issue(tmp_path / "client", CLIENT)
        urls = (strange.url, distrusts.url, good.url)
        async with router(tmp_path, *urls, shows=client, dataplane=dataplane, repeatable=False) as system:
            answers = [await system.post() for _ in range(40)]
            assert [(a.status_code, a.json()) for a in answers] == [(200, "good")] * 40
            assert system.failed >= 2

    run(scenario())


def test_the_steps_of_one_meeting_share_the_time_there_is(tmp_path: Path) -> None:
    """A handshake that is slow leaves less for the greeting, which nobody answers here."""

    async def scenario() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async def accept_late() -> None:
            await asyncio.sleep(0.3)
            await server.start_serving()

        context = identity.server(US.issue(tmp_path / "server", SERVER))
        sock = listen.bind("127.0.0.1", 0)
        server = await asyncio.start_server(silent, sock=sock, ssl=context, start_serving=False)
        trust = Trust(Identity(US.issue(tmp_path / "client", CLIENT), identity.client))
        replica = upstream.Replica(f"https://127.0.0.1:{sock.getsockname()[1]}", trust)
        accepting = asyncio.create_task(accept_late())
        try:
            with pytest.raises(Unreachable, match="no TLS within"):
                await replica.connect(Connection, 0.6)
        finally:
            await accepting
            server.close()

    run(scenario())


def test_a_fault_of_ours_on_the_way_to_a_replica_leaves_no_request_counted_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = US.issue(tmp_path / "client", CLIENT)
        async with router(tmp_path, "https://127.0.0.1:1", shows=client) as system:
            system.worker.routes.trust.identity = Faulty()
            assert (await system.post()).status_code == 500
            live = system.worker.routes.find("e")
            assert live is not None
            assert [replica.in_flight for replica in live.revisions["r1"].replicas.every] == [0]

    run(scenario())


def test_a_websocket_to_a_model_that_answers_once_a_connection_is_joined_by_tls(tmp_path: Path) -> None:
    async def echo(model: ServerConnection) -> None:
        async for message in model:
            await model.send(message)

    async def health(model: ServerConnection, request: Request) -> Response | None:
        return model.respond(200, "alive") if request.path == "/" else None

    async def scenario() -> None:
        server = identity.server(US.issue(tmp_path / "server", SERVER))
        client = US.issue(tmp_path / "client", CLIENT)
        async with serve(echo, "127.0.0.1", 0, ssl=server, process_request=health) as model:
            url = f"https://127.0.0.1:{next(iter(model.sockets)).getsockname()[1]}"
            async with router(tmp_path, url, shows=client, websocket=True) as system:
                door = f"ws://127.0.0.1:{system.caller.base_url.port}/endpoints/e/chat"
                async with connect(door, additional_headers=AUTH, proxy=None) as caller:
                    for said in ("one", "x" * 100_000):
                        await caller.send(said)
                        assert await caller.recv() == said
                assert system.failed == 0

    run(scenario())


def test_a_copy_is_sent_by_tls_too(start: Start, tmp_path: Path) -> None:
    files = US.issue(tmp_path / "server", SERVER)
    live, copied = (start(files, name=name, script=WHO).ready() for name in ("live", "copied"))

    async def scenario() -> None:
        client = US.issue(tmp_path / "client", CLIENT)
        async with router(tmp_path, live.url, shows=client, mirror=copied.url, repeatable=True) as system:
            assert (await system.post()).json() == "live"
            while not (pairs := [pair for batch in system.worker.book.seal(1.0) for pair in batch.pairs]):
                await asyncio.sleep(0.01)
            assert json.loads(pairs[0].copy.body) == "copied"

    run(scenario())


def test_the_smoke_request_is_asked_by_mutual_tls(start: Start, tmp_path: Path) -> None:
    model = start(US.issue(tmp_path / "server", SERVER)).ready()
    blue = deployment("blue")
    verdict, look = smoke.ask(model.url, blue, b"{}", certificate=US.issue(tmp_path / "client", CLIENT))
    assert verdict.result is Result.PASS
    assert look is not None
    theirs = THEM.issue(tmp_path / "theirs", CLIENT, trusts=US.pem)
    distrusts = US.issue(tmp_path / "distrusts", CLIENT, trusts=THEM.pem)
    for shown, words in (
        (theirs, "upstream-tls: it ended the handshake: it does not take the controller's certificate"),
        (distrusts, "upstream-tls: its certificate was refused"),
        (tmp_path / "nothing", "models-tls: .* has no tls.crt"),
    ):
        with pytest.raises(smoke.NotAsked, match=words) as met:
            smoke.ask(model.url, blue, b"{}", certificate=shown)
        assert met.value.held.fault is Fault.CERTIFICATES


@BOTH
def test_authorities_change_under_load_and_no_caller_sees_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataplane: str
) -> None:
    """First both are trusted on either side, then the new one issues, then the old one is trusted no more."""
    monkeypatch.setattr(followed, "LOOK_S", 0.05)
    server, client = US.issue(tmp_path / "server", SERVER), US.issue(tmp_path / "client", CLIENT)
    model = start(server).ready()
    both = US.pem + THEM.pem

    async def scenario() -> None:
        async with router(tmp_path, model.url, shows=client, dataplane=dataplane) as system:
            seen: set[int] = set()
            over = asyncio.Event()

            async def call() -> None:
                while not over.is_set():
                    seen.add((await system.post()).status_code)
                    system.hang_up()

            calling = asyncio.create_task(call())
            for issuer, trusts in ((US, both), (THEM, both), (THEM, THEM.pem)):
                shown = await asyncio.to_thread(peer, model.url)
                issuer.issue(server, SERVER, trusts=trusts)
                while await asyncio.to_thread(peer, model.url) == shown:
                    await asyncio.sleep(0.02)
                issuer.issue(client, CLIENT, trusts=trusts)
                taken_up = system.shows.renewed
                while system.shows.renewed == taken_up:
                    await asyncio.sleep(0.02)
            over.set()
            await calling
            assert seen == {200}
            assert system.failed == 0

    run(scenario())
    with pytest.raises(httpx.HTTPError), client_of(US.issue(tmp_path / "old", CLIENT, trusts=both)) as old:
        old.get(model.url + "/")


def peer(url: str) -> bytes | None:
    """The certificate that is shown there, to anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), 10) as sock, context.wrap_socket(sock) as opened:
        return opened.getpeercert(binary_form=True)


def test_who_has_no_certificate_reads_nothing_there_and_only_health_beside_it(
    start: Start, free_port: Callable[[], str], tmp_path: Path
) -> None:
    health = free_port()
    model = start(US.issue(tmp_path / "server", SERVER), health=health).ready()
    trusting = ssl.create_default_context(cafile=str(tmp_path / "server/ca.crt"))
    host, port = model.url.removeprefix("https://").split(":")
    said = b""
    with (
        socket.create_connection((host, int(port)), 10) as sock,
        suppress(ssl.SSLError, ConnectionError),
        trusting.wrap_socket(sock, server_hostname=identity.NAME) as opened,
    ):
        opened.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        said = opened.recv(100)
    assert said == b""
    with socket.create_connection((host, int(port)), 10) as sock, suppress(ConnectionError):
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"HTTP" not in sock.recv(100)
    with httpx.Client(base_url=f"http://{health}", trust_env=False) as plain:
        assert [plain.get(path).status_code for path in ("/", "/ready", "/score", "/swagger.json")] == [
            200,
            200,
            404,
            404,
        ]
        assert plain.post("/score", content="{}").status_code == 404


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(lambda at: (at / "ca.crt").unlink(), "has no ca.crt", id="no authority"),
        pytest.param(lambda at: [f.unlink() for f in at.iterdir()], "has no tls.crt, tls.key, ca.crt", id="no Secret"),
        pytest.param(lambda at: (at / "tls.key").write_text("x"), "has a tls.crt that does not load", id="no key"),
        pytest.param(
            lambda at: (at / "ca.crt").write_text("x"), "has a ca.crt that does not load", id="no certificate"
        ),
    ],
)
def test_a_front_without_its_files_says_so_and_does_not_start(
    start: Start, tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    files = US.issue(tmp_path / "server", SERVER)
    spoil(files)
    model = start(files)
    assert model.process.wait(30) == NOT_SET_UP
    assert f"not started: {files} {says}" in model.log.splitlines()[-1]


def test_a_router_without_its_files_says_so_and_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"models-tls.*has no tls.crt, tls.key, ca.crt"):
        main(["--data", str(tmp_path / "data"), "--port", "0", "--models-tls", str(tmp_path)])

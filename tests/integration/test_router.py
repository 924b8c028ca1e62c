"""The whole router in one process, on real sockets: a caller on one side, models on the other."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

import envoyplane
from headgate.evidence import Batch, PairKind, add
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, seal
from headgate.version import __version__
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.datapath import data_path
from headgate_router.dataplanes.builtin.guard import Guarded
from headgate_router.dataplanes.builtin.protocol import CallerConnection
from headgate_router.main import ASGI, BUILTIN, ENVOY, Settings, Worker
from headgate_router.metrics import STATES

KEY = "the-key"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
AUTH = {"authorization": f"Bearer {KEY}"}

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
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


async def _request(reader: Reader) -> Heard:
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    heard = Heard(start, [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)], b"")
    if heard.all("transfer-encoding"):
        while size := int((await reader.readline()).strip(), 16):
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
            base_url=url, timeout=20, headers=AUTH, trust_env=False, event_hooks={"request": [self.served]}
        )
        self.generation = 0

    def route(self, *revisions: RouteRevision, **more: Any) -> None:
        self.generation += 1
        route = EndpointRoute("e", self.generation, "c" * 40, revisions, keys=(DIGEST,), **more)
        self.worker.routes.swap(seal(RouteTable(self.generation, "c" * 40, {"e": route})))

    async def served(self, request: httpx.Request | None = None) -> None:
        """Until the last table decides: at once, but for Envoy."""
        if self.worker.side is not None:
            await self.worker.side.plane.served(15)

    async def post(self, content: bytes = b"{}", path: str = "/endpoints/e/score", **more: Any) -> httpx.Response:
        return await self.caller.post(path, content=content, **more)

    async def raw(self, request: bytes) -> bytes:
        """What the router says to raw bytes, until it closes or is silent for a while."""
        await self.served()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        writer.write(request)
        said = b""
        try:
            async with asyncio.timeout(1):
                while chunk := await reader.read(65536):
                    said += chunk
        except (TimeoutError, ConnectionError):
            pass
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
    async with asyncio.timeout(15):
        while not true():
            await asyncio.sleep(0.005)


PLANES = {"now": ASGI}  # which data path `router` starts


@pytest.fixture(params=[BUILTIN, ASGI, envoyplane.PARAM], autouse=True)
def plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on each data path."""
    monkeypatch.setitem(PLANES, "now", request.param)
    if request.param == ENVOY:
        envoyplane.expect(request)


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
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


def revision(name: str, per_mille: int, *models: Model, **more: Any) -> RouteRevision:
    more = {"max_concurrent_per_instance": 50, **more}
    return RouteRevision(name, f"{name}-name", per_mille, tuple(m.address for m in models), **more)


# The contract.


def test_an_answer_says_who_gave_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b'{"y": 1}')).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            ids = {"x-ms-request-id": "my-id.1", "x-ms-client-request-id": "client 1", "traceparent": "00-ab-cd-01"}
            answer = await system.post(b'{"x": 1}', headers={**ids, "x-ms-client-request-id": "client-1"})
            assert (answer.status_code, answer.json()) == (200, {"y": 1})
            said = answer.headers
            assert said["x-ms-request-id"] == "my-id.1"
            assert said["x-ms-client-request-id"] == "client-1"
            assert said["azureml-model-deployment"] == "rev-name"
            assert said["headgate-revision"] == "rev"
            assert said["headgate-generation"] == "1"
            assert int(said["ms-azureml-model-time"]) >= 0
            assert "server" not in said
            (heard,) = model.heard
            assert heard.start == "POST /score HTTP/1.1"
            assert heard.body == b'{"x": 1}'
            assert heard.all("traceparent") == ["00-ab-cd-01"]
            assert heard.all("x-ms-request-id") == ["my-id.1"]
            assert heard.all("host") == [model.address.removeprefix("http://")]

    run(scenario())


@pytest.mark.parametrize("given", ["", "has space", "x" * 129, "é", "a\tb"], ids=range(5))
def test_a_request_id_that_is_not_valid_is_made_anew(tmp_path: Path, given: str) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            answer = await system.post(headers={"x-ms-request-id": given.encode("latin-1")} if given else {})
            made = answer.headers["x-ms-request-id"]
            assert made != given
            assert len(made) == 32
            assert model.heard[0].all("x-ms-request-id") == [made]

    run(scenario())


def test_the_credential_and_connection_fields_end_at_the_router(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def answer(heard: Heard, writer: Writer) -> None:
            writer.write(
                b"HTTP/1.1 200 OK\r\nconnection: x-private, keep-alive\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n"
                b"x-public: 1\r\nheadgate-revision: forged\r\nx-ms-request-id: forged\r\ncontent-length: 2\r\n\r\nok"
            )

        model = await Model(answer).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            asked = {"connection": "x-secret, keep-alive", "x-secret": "1", "te": "trailers", "x-kept": "1"}
            said = await system.post(headers={**asked, "headgate-mirror": "compare", "proxy-authorization": "x"})
            (heard,) = model.heard
            for gone in ("authorization", "x-secret", "te", "connection", "headgate-mirror", "proxy-authorization"):
                assert heard.all(gone) == []
            assert heard.all("x-kept") == ["1"]
            assert "x-private" not in said.headers
            assert said.headers["x-public"] == "1"
            assert said.headers.get_list("headgate-revision") == ["rev"]
            assert len(said.headers.get_list("x-ms-request-id")) == 1

    run(scenario())


def test_no_entry_without_exactly_one_valid_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            head = b"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n"
            key = f"authorization: Bearer {KEY}\r\n".encode()
            for fields in (b"", b"authorization: Bearer wrong\r\n", key + key, b"authorization: Basic x\r\n"):
                said = await system.raw(head + fields + b"connection: close\r\n\r\n")
                assert said.startswith(b"HTTP/1.1 401 ")
                assert b"www-authenticate: Bearer" in said
                assert KEY.encode() not in said
            assert model.heard == []
            assert (await system.sealed()).statuses == {"401": 4}

    run(scenario())


def test_unknown_endpoints_drained_ones_and_unknown_deployments_are_404(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            assert (await system.post()).status_code == 404
            system.route(revision("rev", 0, model))
            assert (await system.post(path="/endpoints/other/score")).json()["error"]["code"] == "no-endpoint"
            drained = await system.post()
            assert (drained.status_code, drained.json()["error"]["code"]) == (404, "no-deployment")
            unknown = await system.post(headers={"azureml-model-deployment": "nobody"})
            assert unknown.status_code == 404
            assert model.heard == []
            named = await system.post(headers={"azureml-model-deployment": "rev-name"})
            assert named.headers["headgate-revision"] == "rev"

    run(scenario())


def test_the_split_is_exact_and_the_override_reaches_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        blue, green = await Model(ok(b'"blue"')).start(), await Model(ok(b'"green"')).start()
        async with router(tmp_path) as system:
            system.route(revision("blue", 950, blue), revision("green", 50, green))
            answers = [await system.post() for _ in range(200)]
            assert Counter(a.headers["headgate-revision"] for a in answers) == {"blue": 190, "green": 10}
            assert all(a.json() == a.headers["headgate-revision"] for a in answers)
            for override in ("green-name", "green-name@green"):
                answer = await system.post(headers={"azureml-model-deployment": override})
                assert answer.json() == "green"
            live = (await system.sealed()).live
            assert (live["blue"].requests, live["green"].requests) == (190, 12)

    run(scenario())


def test_a_sticky_caller_stays_where_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        blue, green = await Model(ok(b"1")).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            for by, fields in (("header:X-User", "x-user"), ("cookie:user", "cookie")):
                system.route(revision("blue", 500, blue), revision("green", 500, green), sticky=by)
                reached = {}
                for user in range(20):
                    value = f"a=b; user={user}" if fields == "cookie" else str(user)
                    answers = [await system.post(headers={fields: value}) for _ in range(3)]
                    (reached[user],) = {a.headers["headgate-revision"] for a in answers}
                assert set(reached.values()) == {"blue", "green"}

    run(scenario())


def test_a_new_table_decides_the_next_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        blue, green = await Model(ok(b"1")).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            for turn in range(20):
                left, right = (1000, 0) if turn % 2 else (0, 1000)
                system.route(revision("blue", left, blue), revision("green", right, green))
                answer = await system.post()
                assert answer.headers["headgate-revision"] == ("blue" if turn % 2 else "green")
                assert answer.headers["headgate-generation"] == str(turn + 1)

    run(scenario())


def test_every_sub_path_and_query_goes_to_the_model_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model, scoring_path="/v1/predict"))
            await system.post(path="/endpoints/e/score?a=1&b=%20")
            await system.caller.get("/endpoints/e/v1/models/x%2Fy:predict")
            await system.post(path="/score", headers={"host": "E.localhost:8080"})
            await system.post(path="/deep/er", headers={"host": "e.localhost"})
            assert [heard.start for heard in model.heard] == [
                "POST /v1/predict?a=1&b=%20 HTTP/1.1",
                "GET /v1/models/x%2Fy:predict HTTP/1.1",
                "POST /v1/predict HTTP/1.1",
                "POST /deep/er HTTP/1.1",
            ]

    run(scenario())


# What models do.


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
        async def never(heard: Heard, writer: Writer) -> None:
            await asyncio.Event().wait()

        model = await Model(never).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model, request_timeout_ms=50))
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
            system.route(revision("rev", 1000, model, request_timeout_ms=300))
            async with system.caller.stream("POST", "/endpoints/e/score", content=b"{}") as answer:
                before = -1
                while before != sent:  # until it stands still, for longer than the model's own time limit
                    before = sent
                    await asyncio.sleep(0.4)
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


# Limits.


def test_m_times_n_run_as_many_wait_the_rest_is_429(tmp_path: Path) -> None:
    async def scenario() -> None:
        go = asyncio.Event()

        async def wait(heard: Heard, writer: Writer) -> None:
            await go.wait()
            await ok(b"1")(heard, writer)

        model = await Model(wait).start()
        async with router(tmp_path) as system:
            limits = {"max_concurrent_per_instance": 2, "instances": 2, "max_queue_wait_ms": 20_000}
            system.route(revision("rev", 1000, model, **limits))
            asked = [asyncio.create_task(system.post()) for _ in range(11)]
            await until(lambda: sum(task.done() for task in asked) == 3 and len(model.heard) == 4)
            go.set()
            codes = Counter([(await task).status_code for task in asked])
            assert codes == {200: 8, 429: 3}
            assert (await system.sealed()).live["rev"].outcomes == {"ok": 8, "refused": 3}

    run(scenario())


def test_who_waits_too_long_is_429(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def never(heard: Heard, writer: Writer) -> None:
            await asyncio.Event().wait()

        model = await Model(never).start()
        async with router(tmp_path) as system:
            system.route(
                revision(
                    "rev", 1000, model, max_concurrent_per_instance=1, max_queue_wait_ms=20, request_timeout_ms=900
                )
            )
            first = asyncio.create_task(system.post())
            await until(lambda: bool(model.heard))
            second = await system.post()
            assert (second.status_code, second.headers["retry-after"]) == (429, "1")
            assert (await first).status_code == 408

    run(scenario())


def test_a_long_body_is_streamed_and_one_too_long_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path, max_body=6_000_000) as system:
            system.route(revision("rev", 1000, model))

            async def pieces(n: int) -> AsyncIterator[bytes]:
                for _ in range(n):
                    yield b"x" * 500_000

            assert (await system.post(b"y" * 5_000_000)).status_code == 200
            assert model.heard[-1].body == b"y" * 5_000_000
            assert (await system.caller.post("/endpoints/e/score", content=pieces(10))).status_code == 200
            assert model.heard[-1].body == b"x" * 5_000_000
            assert (await system.caller.post("/endpoints/e/score", content=pieces(2))).status_code == 200
            assert model.heard[-1].body == b"x" * 1_000_000
            assert (await system.post(b"y" * 6_000_001)).status_code == 413
            assert (await system.caller.post("/endpoints/e/score", content=pieces(14))).status_code == 413
            assert len(model.heard) == 3

    run(scenario())


def test_a_head_too_long_is_431_while_it_is_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000))
            start = b"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\n"
            for endless in (b"x-a: " + b"y" * 200_000, b"".join(b"x-%d: y\r\n" % n for n in range(20_000))):
                assert (await system.raw(start + endless)).startswith(b"HTTP/1.1 431 ")

    run(scenario())


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 2\r\ncontent-length: 3\r\n",
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding : chunked\r\n",
        b"x: a\r\n b\r\ncontent-length: 2\r\n",
        b"x: a\rb\r\ncontent-length: 2\r\n",
        b"x: a\x00b\r\ncontent-length: 2\r\n",
    ],
    ids=["two lengths", "both framings", "odd coding", "space before colon", "folded", "bare CR", "NUL"],
)
def test_ambiguous_framing_never_reaches_a_model(tmp_path: Path, head: bytes) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000, model))
            start = f"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()
            assert (await system.raw(start + head + b"\r\n{}")).startswith(b"HTTP/1.1 400 ")
            assert model.heard == []

    run(scenario())


def test_connections_that_send_too_slowly_expire(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with router(tmp_path) as system:
            system.route(revision("rev", 1000))
            port = int(system.url.rpartition(":")[2])
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            _, stalled = await asyncio.open_connection("127.0.0.1", port)
            stalled.write(
                b"POST /endpoints/e/score HTTP/1.1\r\nhost: x\r\n" + f"authorization: Bearer {KEY}\r\n".encode()
            )
            stalled.write(b"content-length: 10\r\n\r\nhalf")
            connections = system.worker._server.server_state.connections
            await until(lambda: len(connections) == 2 and system.worker.book.in_flight == 1)
            every = cast(set[Guarded | CallerConnection], connections)
            now = max(one._since for one in every)
            expired = {later: sum(one.expired(now + later) for one in every) for later in (10, 20, 40)}
            assert expired == {10: 0, 20: 1, 40: 2}
            silent.close()
            stalled.close()

    run(scenario())


# Copies.


def mirrored_to(model: Model, kind: PairKind = PairKind.COMPARE) -> tuple[RouteRevision, Mirror]:
    return revision("cand", 0, model), Mirror("cand", 1000, kind)


def test_copies_are_compared_and_never_returned(tmp_path: Path) -> None:
    async def scenario() -> None:
        stable, candidate = await Model(ok(b'{"y": 1, "who": "a"}')).start(), await Model(ok(b'{"y": 2}')).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            echo = Mirror("rev", 1000, PairKind.ECHO)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare, echo), redact=("$.who",))
            for n in range(10):
                answer = await system.post(b"%d" % n, headers={"x-ms-request-id": f"id-{n}"})
                assert answer.json() == {"y": 1, "who": "a"}
            await system.settled()
            batch = await system.sealed()
            assert batch.live["rev"].requests == 10
            assert batch.mirrored["cand"].outcomes == {"ok": 10}
            assert set(batch.mirrored) == {"cand"}
            assert Counter(pair.kind for pair in batch.pairs) == {PairKind.COMPARE: 10, PairKind.ECHO: 10}
            compared = {pair.request_id: pair for pair in batch.pairs if pair.kind is PairKind.COMPARE}
            assert set(compared) == {f"id-{n}" for n in range(10)}
            pair = compared["id-3"]
            assert (pair.live.revision, pair.copy.revision) == ("rev", "cand")
            assert json.loads(pair.live.body) == {"y": 1, "who": "(redacted)"}
            assert json.loads(pair.copy.body) == {"y": 2}
            assert {tuple(h.all("headgate-mirror")) for h in candidate.heard} == {("compare",)}
            assert Counter(tuple(h.all("headgate-mirror")) for h in stable.heard) == {(): 10, ("echo",): 10}
            assert sorted(h.body for h in candidate.heard) == [b"%d" % n for n in range(10)]

    run(scenario())


def test_the_share_of_copies_does_not_follow_the_split(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two, candidate = [await Model(ok(b"1")).start() for _ in range(3)]
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            mirrors = (replace(compare, per_mille=500),)
            system.route(revision("one", 500, one), revision("two", 500, two), target, mirrors=mirrors)
            for _ in range(400):
                await system.post()
            await system.settled()
            pairs = Counter(pair.live.revision for pair in (await system.sealed()).pairs)
            assert 140 <= sum(pairs.values()) <= 200
            assert min(pairs["one"], pairs["two"]) > 50

    run(scenario())


@pytest.mark.parametrize("ill", ["hung", "dead", "refusing", "failing", "absent", "garbage"])
def test_an_ill_mirror_is_counted_and_no_caller_notices(tmp_path: Path, ill: str) -> None:
    async def scenario() -> None:
        async def hang(heard: Heard, writer: Writer) -> None:
            await asyncio.Event().wait()

        async def die(heard: Heard, writer: Writer) -> None:
            writer.transport.abort()

        async def garbage(heard: Heard, writer: Writer) -> None:
            writer.write(b"\x00\x01\x02 not HTTP at all\r\n\r\n")

        answers = {"hung": hang, "dead": die, "failing": status(500, "E", b"e"), "garbage": garbage}
        stable, candidate = await Model(ok(b'"live"')).start(), await Model(answers.get(ill, ok(b"1"))).start()
        if ill == "refusing":
            candidate.server.close()
        async with router(tmp_path) as system:
            target = revision("cand", 0, *([] if ill == "absent" else [candidate]), request_timeout_ms=300)
            system.route(revision("rev", 1000, stable), target, mirrors=(Mirror("cand", 1000),))
            for _ in range(10):
                answer = await system.post()
                assert (answer.status_code, answer.json()) == (200, "live")
            await system.settled()
            batch = await system.sealed()
            assert batch.live["rev"].outcomes == {"ok": 10}
            expected = {"hung": "timeout", "failing": "model_error"}.get(ill, "refused")
            if ill == "absent":
                assert batch.dropped == {"no_upstream": 10}
                assert batch.mirrored == {}
            else:
                assert batch.mirrored["cand"].outcomes == {expected: 10}
                assert len(batch.pairs) == (10 if ill == "failing" else 0)

    run(scenario())


def test_a_hung_mirror_is_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def hang(heard: Heard, writer: Writer) -> None:
            await asyncio.Event().wait()

        stable, candidate = await Model(ok(b"1")).start(), await Model(hang).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            for _ in range(140):
                assert (await system.post()).status_code == 200
            assert system.worker.mirrors.running == 64
            assert (await system.sealed()).dropped == {"busy": 12}

    run(scenario())


def test_what_must_not_be_copied_is_dropped_with_its_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        stable, candidate = await Model(ok(b"1")).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            await system.post(headers={"azureml-model-deployment": "rev-name"})
            await system.post(b"x" * 2_000_000)
            assert (await system.sealed()).dropped == {"override": 1, "too_large": 1}
            system.route(revision("rev", 1000), target, mirrors=(compare,))
            assert (await system.post()).status_code == 503
            assert (await system.sealed()).dropped == {"live_failed": 1}
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,), repeatable=False)
            await system.post()
            assert (await system.sealed()).dropped == {"not_repeatable": 1}
            assert candidate.heard == []

    run(scenario())


def test_batches_add_up_to_what_callers_saw(tmp_path: Path) -> None:
    async def scenario() -> None:
        models = [await Model(ok(b"1")).start() for _ in range(2)]
        async with router(tmp_path) as system:
            system.route(revision("one", 700, models[0]), revision("two", 300, models[1]))
            batches: list[Batch] = []
            stop = asyncio.Event()

            async def keep_sealing() -> None:
                while not stop.is_set():
                    batches.extend(system.worker.book.seal(1.0))
                    await asyncio.sleep(0.001)

            sealing = asyncio.create_task(keep_sealing())
            answers = await asyncio.gather(*[system.post() for _ in range(300)])
            await system.settled()
            stop.set()
            await sealing
            batches.extend(system.worker.book.seal(1.0))
            said = Counter(a.headers["headgate-revision"] for a in answers)
            for name in ("one", "two"):
                assert add([b.live[name] for b in batches if name in b.live]).requests == said[name]

    run(scenario())


# Everything that is not scoring.


def test_health_metrics_and_documents(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = await Model(ok(b"1")).start()
        async with router(tmp_path) as system:
            get = system.caller.get
            assert (await get("/healthz")).json() == {"status": "ok", "data_path": data_path()}
            assert (await get("/readyz")).status_code == 503
            system.route(revision("rev", 1000, model))
            assert (await get("/readyz")).json()["generation"] == 1
            assert (await get("/docs")).status_code == 200
            assert (await get("/nowhere")).status_code == 404
            await system.post()
            await system.settled()
            text = (await get("/metrics")).text
            labels = 'deployment="rev-name",endpoint="e",revision="rev",worker="router-0"'
            assert f'headgate_router_requests_total{{code="200",{labels}}} 1.0' in text
            assert (
                'headgate_router_request_duration_seconds_bucket{deployment="rev-name",endpoint="e",le="+Inf"' in text
            )
            assert 'headgate_router_table_generation{worker="router-0"} 1.0' in text
            built = f'data_path="{data_path()}",version="{__version__}",worker="router-0"'
            assert f"headgate_router_build_info{{{built}}} 1.0" in text

    run(scenario())


def test_requests_of_a_revision_that_run_wait_or_are_copied_are_a_metric(tmp_path: Path) -> None:
    """What replicas are scaled by: 0 is said too, and differs from nobody knowing."""

    async def scenario() -> None:
        go = asyncio.Event()

        async def wait(heard: Heard, writer: Writer) -> None:
            await go.wait()
            await ok(b"1")(heard, writer)

        model, copied = await Model(wait).start(), await Model(wait).start()
        async with router(tmp_path) as system:

            async def count(name: str) -> list[float]:
                text = (await system.caller.get("/metrics")).text
                row = 'headgate_router_requests_open{deployment="%s-name",endpoint="e",revision="%s",state="%s"'
                lines = [next(x for x in text.splitlines() if x.startswith(row % (name, name, s))) for s in STATES]
                return [float(line.rpartition(" ")[2]) for line in lines]

            one = revision("rev", 1000, model, max_concurrent_per_instance=1, max_queue_wait_ms=20_000)
            mirror = Mirror("copy", 1000, PairKind.COMPARE)
            system.route(one, revision("copy", 0, copied), mirrors=(mirror,))
            assert (await count("rev"), await count("copy")) == ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
            asked = [asyncio.create_task(system.post()) for _ in range(2)]
            await until(lambda: system.worker.routes.open("e", "rev") == (1, 1, 0))
            assert await count("rev") == [1.0, 1.0, 0.0]
            go.set()
            assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]
            await system.settled()
            assert (await count("rev"), await count("copy")) == ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])

    run(scenario())


def test_swagger_is_the_models_own_or_made_from_the_route(tmp_path: Path) -> None:
    async def scenario() -> None:
        own = await Model(ok(b'{"swagger": "2.0"}')).start()
        none = await Model(status(404, "Not Found", b"")).start()
        async with router(tmp_path) as system:
            path = "/endpoints/e/swagger.json"
            system.route(revision("rev", 1000, own))
            assert (await system.caller.get(path)).json() == {"swagger": "2.0"}
            system.route(revision("rev", 1000, none))
            made = (await system.caller.get(path)).json()
            assert list(made["paths"]) == ["/endpoints/e/score"]
            assert (await system.caller.get(path, headers={"authorization": "Bearer x"})).status_code == 401
            assert (await system.caller.get("/endpoints/other/swagger.json")).status_code == 404
            system.worker.book.seal(1.0)
            assert system.worker.book.empty

    run(scenario())

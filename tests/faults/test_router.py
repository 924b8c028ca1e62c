"""Router workers and replicas as real processes that are killed, drained and replaced while callers go on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from headgate import codec
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder

pytestmark = pytest.mark.faults

KEY = "the-key"
AUTH = {"authorization": f"Bearer {KEY}"}
DEADLINE_S = 60.0
ASKED = 50  # requests before a fault; three times as many after it

# A replica: answers its own process id after the seconds asked for in the body, with HTTP/1.1 keep-alive.
REPLICA = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        time.sleep(float(self.rfile.read(int(self.headers["content-length"]))))
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def process(*argv: str, pass_fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=pass_fds)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextmanager
def replica() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with process(sys.executable, "-c", REPLICA) as child:
        assert child.stdout is not None
        yield child, f"http://127.0.0.1:{int(child.stdout.readline())}"


@contextmanager
def worker(data: DataFolder, fd: int, name: str = "router-0") -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "headgate_router", "--data", str(data.root), "--worker", name, "--fd", str(fd)]
    with process(*argv, pass_fds=(fd,)) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"listening on http://127.0.0.1:")
        yield child


def prepared(root: Path, *upstreams: str, repeatable: bool = True, workers: int = 1) -> DataFolder:
    """A data folder whose router workers boot with a table: no controller is needed."""
    data = DataFolder(root / "data")
    revision = RouteRevision("rev", "blue", 1000, upstreams, max_concurrent_per_instance=64, request_timeout_ms=20_000)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    route = EndpointRoute("e", 1, "c" * 40, (revision,), keys=(digest,), repeatable=repeatable)
    data.tables.mkdir(parents=True)
    for index in range(workers):
        table = codec.canonical(seal(RouteTable(1, "c" * 40, {"e": route})))
        (data.tables / f"router-{index}.json").write_bytes(table)
    return data


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def url_of(fd: int) -> str:
    sock = listen.adopt(os.dup(fd))
    with sock:
        return f"http://127.0.0.1:{sock.getsockname()[1]}/endpoints/e/score"


def post(url: str, seconds: float = 0.0) -> httpx.Response:
    return httpx.post(url, content=str(seconds), headers=AUTH, timeout=DEADLINE_S, trust_env=False)


def healthy(url: str) -> bool:
    try:
        return post(url).status_code == 200
    except httpx.HTTPError:
        return False


def in_flight(url: str) -> float:
    """Requests that the worker which answers is serving."""
    text = httpx.get(urljoin(url, "/metrics"), timeout=DEADLINE_S, trust_env=False).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith("headgate_router_in_flight{"))


async def load(url: str, callers: int, stop: asyncio.Event, seen: Counter[int]) -> None:
    """Callers that ask, each again as soon as it is answered, until told to stop. `seen` 0: no answer at all."""

    async def call(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            try:
                seen[(await client.post(url, content=b"0.005", headers=AUTH)).status_code] += 1
            except httpx.HTTPError:
                seen[0] += 1

    async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
        await asyncio.gather(*[call(client) for _ in range(callers)])


def under_load(url: str, fault: Callable[[], None], callers: int = 8) -> Counter[int]:
    """What callers saw before, during and after a fault."""

    seen: Counter[int] = Counter()

    async def answered(count: int) -> None:
        wanted = seen.total() + count
        await asyncio.to_thread(until, lambda: seen.total() >= wanted)

    async def scenario() -> None:
        stop = asyncio.Event()
        loading = asyncio.create_task(load(url, callers, stop, seen))
        await answered(ASKED)
        await asyncio.to_thread(fault)
        await answered(3 * ASKED)
        stop.set()
        await loading

    asyncio.run(scenario())
    return seen


def test_a_killed_replica_of_two_fails_no_request(tmp_path: Path) -> None:
    with replica() as (one, first), replica() as (_, second), listen.bind("127.0.0.1", 0) as sock:
        url = url_of(sock.fileno())
        with worker(prepared(tmp_path, first, second), sock.fileno()):
            until(lambda: healthy(url))
            seen = under_load(url, one.kill)
    assert set(seen) == {200}


def test_a_killed_worker_of_two_loses_only_what_it_was_answering(tmp_path: Path) -> None:
    with replica() as (_, address), listen.bind("127.0.0.1", 0) as sock:
        url = url_of(sock.fileno())
        data = prepared(tmp_path, address, workers=2)
        with worker(data, sock.fileno(), "router-0") as first, worker(data, sock.fileno(), "router-1"):
            until(lambda: healthy(url))
            seen = under_load(url, first.kill, callers=8)
    assert set(seen) <= {200, 0}
    assert seen[0] <= 8


def test_connects_wait_while_the_only_worker_is_replaced(tmp_path: Path) -> None:
    with replica() as (_, address), listen.bind("127.0.0.1", 0) as sock:
        url = url_of(sock.fileno())
        data = prepared(tmp_path, address)
        with worker(data, sock.fileno()) as first:
            until(lambda: healthy(url))
            first.kill()
            first.wait()
        waiting = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import httpx; print(httpx.post({url!r}, content='0', headers={AUTH!r}, timeout=30))",
            ],
            stdout=subprocess.PIPE,
        )
        with worker(data, sock.fileno()):
            said, _ = waiting.communicate(timeout=DEADLINE_S)
    assert b"200" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_drained_worker_ends_its_answers_and_then_itself(tmp_path: Path, number: signal.Signals) -> None:
    with replica() as (_, address), listen.bind("127.0.0.1", 0) as sock:
        url = url_of(sock.fileno())
        with worker(prepared(tmp_path, address), sock.fileno()) as child:
            until(lambda: healthy(url))

            async def scenario() -> tuple[httpx.Response, int]:
                slow = asyncio.create_task(asyncio.to_thread(post, url, 1.0))
                await asyncio.to_thread(until, lambda: in_flight(url) == 1)
                child.send_signal(number)
                return await slow, await asyncio.to_thread(child.wait, DEADLINE_S)

            answer, code = asyncio.run(scenario())
    assert answer.status_code == 200
    assert code == 0


def test_a_drained_worker_beside_another_fails_no_request(tmp_path: Path) -> None:
    with replica() as (_, address), listen.bind("127.0.0.1", 0) as sock:
        url = url_of(sock.fileno())
        data = prepared(tmp_path, address, workers=2)
        with worker(data, sock.fileno(), "router-0") as first, worker(data, sock.fileno(), "router-1"):
            until(lambda: healthy(url))
            seen = under_load(url, first.terminate)
            assert first.wait(DEADLINE_S) == 0
    assert set(seen) == {200}


def test_the_socket_is_taken_over_from_a_running_worker(tmp_path: Path) -> None:
    """As a new supervisor does after the old one was killed: the old socket object is gone, a new worker gets it."""
    with replica() as (_, address):
        data = prepared(tmp_path, address, workers=2)
        sock = listen.bind("127.0.0.1", 0)
        url = url_of(sock.fileno())
        with worker(data, sock.fileno()) as first:
            sock.close()
            until(lambda: healthy(url))
            taken = listen.take(data.services / "router-0" / "listen.sock")
            assert taken is not None
            with taken, worker(data, taken.fileno(), "router-1"):
                first.kill()
                first.wait()
                assert post(url).status_code == 200


def test_an_address_in_use_is_a_finding(tmp_path: Path) -> None:
    with listen.bind("127.0.0.1", 0) as sock:
        argv = [sys.executable, "-m", "headgate_router", "--data", str(tmp_path), "--port", str(sock.getsockname()[1])]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert ended.returncode == 1
    assert "error[listen]: cannot listen on 127.0.0.1:" in ended.stderr
    assert "fix: " in ended.stderr
    assert "Traceback" not in ended.stderr

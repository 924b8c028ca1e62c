"""Peers that are gone without a word, neither FIN nor RST: in a network namespace whose packets are dropped."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router import main
from headgate_router.dataplanes.builtin import guard
from headgate_router.main import BUILTIN, Settings, Worker

KEY = hashlib.sha256(b"k").hexdigest()
HEAD = b"POST /endpoints/e/score HTTP/1.1\r\nhost: h\r\nauthorization: Bearer k\r\n"
DEADLINE_S = 30.0
# RFC 2544: of no other network; and of no other process.
NEAR, FAR = (str(ipaddress.ip_address("198.18.0.0") + 4 * (os.getpid() % 2**15) + host) for host in (1, 2))
CALLS = """
import socket, sys
caller = socket.create_connection((sys.argv[1], int(sys.argv[2])))
caller.sendall(bytes.fromhex(sys.argv[3]))
print("said" if sys.argv[4] == "0" or caller.recv(1000) else "", flush=True)
sys.stdin.read()
"""
ANSWERS = """
import socket, sys
listening = socket.create_server((sys.argv[1], 0))
print(listening.getsockname()[1], flush=True)
model, _ = listening.accept()
while model.recv(1000).find(b"first") >= 0:
    model.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
sys.stdin.read()
"""

TOOLS = ("ip", "iptables", "unshare", "nsenter")


def may_drop_packets() -> bool:
    """A container's root often may not, whatever is installed."""
    if sys.platform != "linux" or not all(map(shutil.which, TOOLS)):
        return False
    tried = ["unshare", "--net", "iptables", "-I", "INPUT", "-j", "DROP"]
    return subprocess.run(tried, capture_output=True, check=False, timeout=DEADLINE_S).returncode == 0


pytestmark = pytest.mark.skipif(
    not may_drop_packets(),
    reason=f"makes a network namespace and drops its packets: run as root on Linux, with {', '.join(TOOLS)}",
)


class Away:
    """A machine of its own, as far as packets say. The namespace has no name: it ends with its first process."""

    def __init__(self, name: str) -> None:
        first = ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"]
        self.running = [subprocess.Popen(first, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)]
        assert self.running[0].stdout is not None
        assert self.running[0].stdout.readline() == "\n"
        pid = str(self.running[0].pid)
        self._inside = ("nsenter", "--net", "--target", pid)
        self._link = f"{name}a"
        self.do("ip", "link", "add", self._link, "type", "veth", "peer", "name", f"{name}b", "netns", pid)
        self.do("ip", "addr", "add", f"{NEAR}/30", "dev", self._link)
        self.do("ip", "link", "set", self._link, "up")
        self.do(*self._inside, "ip", "addr", "add", f"{FAR}/30", "dev", f"{name}b")
        self.do(*self._inside, "ip", "link", "set", f"{name}b", "up")

    def do(self, *argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True, timeout=DEADLINE_S)

    def start(self, code: str, *argv: str) -> subprocess.Popen[str]:
        whole = [*self._inside, sys.executable, "-c", code, *argv]
        started = subprocess.Popen(whole, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running.append(started)
        return started

    def vanish(self) -> None:
        for chain in ("INPUT", "OUTPUT"):
            self.do(*self._inside, "iptables", "-I", chain, "-j", "DROP")

    def end(self) -> None:
        self.do("ip", "link", "del", self._link)  # at once: the kernel takes its time with a namespace
        for process in self.running:
            process.kill()
            process.communicate()


@pytest.fixture
def away() -> Iterator[Away]:
    found = Away(f"hg{os.getpid()}")
    yield found
    found.end()


class System:
    def __init__(self, worker: Worker, port: int) -> None:
        self.worker = worker
        self.port = port

    def route(self, address: str, **more: Any) -> None:
        settings = {"max_concurrent_per_instance": 50, "request_timeout_ms": 20_000, **more}
        row = RouteRevision("blue-1", "blue", 1000, (address,), **settings)
        route = EndpointRoute("e", 1, "c" * 40, (row,), keys=(KEY,))
        self.worker.routes.swap(seal(RouteTable(1, "c" * 40, {"e": route})))

    async def ended(self) -> tuple[dict[str, int], dict[str, int]]:
        """Outcomes and statuses, once nothing is left of any request or connection."""
        await until(lambda: self.worker.book.in_flight == 0 and not self.worker._server.server_state.connections)
        (batch,) = self.worker.book.seal(1.0)
        live = batch.live.get("blue-1")
        return dict(live.outcomes) if live is not None else {}, dict(batch.statuses)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def router(tmp_path: Path) -> AsyncIterator[System]:
    sock = listen.bind(NEAR, 0)
    port = int(sock.getsockname()[1])
    worker = Worker(Settings(data=DataFolder(tmp_path), worker="router-0", dataplane=BUILTIN))
    serving = asyncio.create_task(worker.serve(sock))
    try:
        await until(lambda: worker._server.started)
        yield System(worker, port)
    finally:
        worker.end()
        await asyncio.wait_for(serving, DEADLINE_S)
        sock.close()


@asynccontextmanager
async def streaming(gone: asyncio.Event) -> AsyncIterator[str]:
    """A model that sends event after event, slowly enough that no buffer ever fills."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            left = asyncio.ensure_future(reader.read(1))
            while not left.done():
                writer.write(b"6\r\nx: y\n\n\r\n")
                await asyncio.wait((left,), timeout=0.02)
            await left
        gone.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * DEADLINE_S):
            await scenario

    asyncio.run(bounded())


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


def test_a_caller_who_vanished_from_a_stream_is_let_go(
    tmp_path: Path, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "STALL_S", 0.5)

    async def scenario() -> None:
        gone = asyncio.Event()
        async with router(tmp_path) as system, streaming(gone) as address:
            system.route(address)
            asked = (HEAD + b"content-length: 2\r\n\r\n{}").hex()
            caller = await asyncio.to_thread(away.start, CALLS, NEAR, str(system.port), asked, "1")
            assert await line(caller) == "said"
            away.vanish()
            await asyncio.wait_for(gone.wait(), DEADLINE_S)
            assert await system.ended() == ({"client_gone": 1}, {"499": 1})

    run(scenario())


def test_a_caller_who_vanished_in_the_middle_of_a_body_is_408(
    tmp_path: Path, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SWEEP_S", 0.05)

    async def scenario() -> None:
        async with router(tmp_path) as system:
            system.route("http://127.0.0.1:9")
            half = (HEAD + b"content-length: 100\r\n\r\nhalf").hex()
            caller = await asyncio.to_thread(away.start, CALLS, NEAR, str(system.port), half, "0")
            assert await line(caller) == "said"
            await until(lambda: system.worker.book.in_flight == 1)
            away.vanish()
            monkeypatch.setattr("headgate_router.dataplanes.builtin.ending.BODY_S", 0.3)
            assert await system.ended() == ({}, {"408": 1})

    run(scenario())


async def _asked(system: System, body: bytes) -> bytes:
    """The status line."""
    reader, writer = await asyncio.open_connection(NEAR, system.port)
    writer.write(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    said = await reader.read()
    writer.close()
    return said.partition(b"\r\n")[0]


def test_a_model_that_vanished_costs_a_request_its_time_and_no_more(tmp_path: Path, away: Away) -> None:
    """The first answer leaves a pooled connection, which still looks open when the model's machine is gone."""

    async def scenario() -> None:
        async with router(tmp_path) as system:
            model = await asyncio.to_thread(away.start, ANSWERS, FAR)
            system.route(f"http://{FAR}:{await line(model)}", request_timeout_ms=3_000)
            assert await _asked(system, b"first") == b"HTTP/1.1 200 OK"
            away.vanish()
            assert await _asked(system, b"again") == b"HTTP/1.1 408 Request Timeout"
            assert await system.ended() == ({"ok": 1, "timeout": 1}, {"200": 1, "408": 1})

    run(scenario())


def test_a_model_that_takes_no_connection_is_not_ready(
    tmp_path: Path, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headgate_router.upstream.CONNECT_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        away.vanish()
        async with router(tmp_path) as system:
            system.route(f"http://{FAR}:8080")
            assert await _asked(system, b"{}") == b"HTTP/1.1 503 Service Unavailable"
            assert await system.ended() == ({"refused": 1}, {"503": 1})

    run(scenario())


def test_connections_take_over_what_the_listening_socket_bounds() -> None:
    listening = listen.bind("127.0.0.1", 0)
    guard.bound(listening, 7.0)
    with socket.create_connection(listening.getsockname()[:2]) as caller:
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            assert caller.getpeername() == accepted.getsockname()
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
    listening.close()

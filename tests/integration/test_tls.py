"""TLS on real sockets: both data paths answer, certificates change under open connections, plain HTTP is told so.

On the event loop that routers run on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import certificates
from headgate.findings import FindingsError
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_kit import followed, listen
from headgate_kit.layout import DataFolder
from headgate_router import tls
from headgate_router.main import Settings, Worker, certificate_of, parse
from headgate_router.tls import Certificate

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
REQUEST = (
    b"POST /endpoints/e/score HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer key\r\ncontent-length: %d\r\n\r\n%b"
)
BOTH = pytest.mark.parametrize("dataplane", ["builtin", "asgi"])


async def model(reader: Reader, writer: Writer) -> None:
    """Answers with as many bytes as it was sent."""
    with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"chunked" in head:
                body = b""
                while size := int(await reader.readline(), 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                await reader.readline()
            else:
                body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()


class Router:
    def __init__(self, port: int, worker: Worker) -> None:
        self.port = port
        self.worker = worker

    async def connect(self, files: certificates.Files) -> tuple[Reader, Writer]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=files.trusting(), server_hostname="localhost")

    async def plain(self, said: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(said)
        answer = await reader.read()
        writer.close()
        return answer


async def ask(reader: Reader, writer: Writer, body: bytes = b"{}") -> tuple[bytes, bytes]:
    """The head and the body of an answer."""
    writer.write(REQUEST % (len(body), body))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


def serial(writer: Writer) -> int:
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


async def close(writer: Writer) -> None:
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@asynccontextmanager
async def router(folder: Path, files: certificates.Files, dataplane: str = "builtin") -> AsyncIterator[Router]:
    upstream = await asyncio.start_server(model, "127.0.0.1", 0, limit=1 << 20)
    address = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
    settings = Settings(
        DataFolder(folder / "data"),
        "router-0",
        certificate=Certificate(files.chain, files.key),
        dataplane=dataplane,
    )
    worker = Worker(settings)
    revision = RouteRevision("r1", "blue", 1000, (address,), max_concurrent_per_instance=50)
    route = EndpointRoute("e", 1, "c", (revision,), keys=(hashlib.sha256(b"key").hexdigest(),))
    worker.routes.swap(seal(RouteTable(1, "c", {"e": route})))
    sock = listen.bind("127.0.0.1", 0)
    serving = asyncio.create_task(worker.serve(sock))
    try:
        yield Router(sock.getsockname()[1], worker)
    finally:
        worker.end()
        await serving
        upstream.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@BOTH
def test_requests_are_answered_over_tls_one_after_the_other_short_and_long(tmp_path: Path, dataplane: str) -> None:
    async def scenario() -> None:
        files = certificates.write(tmp_path)
        async with router(tmp_path, files, dataplane) as system:
            reader, writer = await system.connect(files)
            for body in (b"{}", b"x" * 3_000_000, b"{}"):
                head, answer = await ask(reader, writer, body)
                assert head.startswith(b"HTTP/1.1 200")
                assert answer == body
            assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
            await close(writer)

    run(scenario())


@BOTH
def test_the_other_pages_are_served_over_tls_too(tmp_path: Path, dataplane: str) -> None:
    async def scenario() -> None:
        files = certificates.write(tmp_path)
        async with router(tmp_path, files, dataplane) as system:
            reader, writer = await system.connect(files)
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await close(writer)

    run(scenario())


@BOTH
def test_plain_http_is_told_so_and_shows_nothing_to_a_model(tmp_path: Path, dataplane: str) -> None:
    async def scenario() -> None:
        async with router(tmp_path, certificates.write(tmp_path), dataplane) as system:
            head, _, body = (await system.plain(REQUEST % (2, b"{}"))).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert json.loads(body)["error"]["code"] == "tls-needed"
            assert system.worker.book.empty

    run(scenario())


def test_a_new_certificate_is_taken_up_and_open_connections_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "LOOK_S", 0.01)

    async def scenario() -> None:
        files = certificates.write(tmp_path)
        async with router(tmp_path, files) as system:
            reader, writer = await system.connect(files)
            first = serial(writer)
            certificates.write(tmp_path)
            certificate = system.worker.settings.certificate
            assert certificate is not None
            while not certificate.renewed:
                await asyncio.sleep(0.005)
            assert (await ask(reader, writer))[0].startswith(b"HTTP/1.1 200")
            new_reader, new_writer = await system.connect(files)
            assert serial(new_writer) != first
            assert (await ask(new_reader, new_writer))[1] == b"{}"
            await close(writer)
            await close(new_writer)

    run(scenario())


AT_A_TERMINAL = """
import fcntl, pathlib, sys, termios
from headgate_router.tls import Certificate
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
Certificate(*map(pathlib.Path, sys.argv[1:]))
"""


def test_a_locked_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path: Path) -> None:
    files = certificates.write(tmp_path)
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    terminal, stdin = pty.openpty()
    words = [sys.executable, "-c", AT_A_TERMINAL, str(files.chain), str(files.key)]
    ended = subprocess.run(words, stdin=stdin, capture_output=True, text=True, start_new_session=True, timeout=60)
    os.close(stdin)
    os.close(terminal)
    assert "tls-files" in ended.stderr


def test_files_that_cannot_be_used_are_not_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = certificates.write(tmp_path)
    certificate = Certificate(files.chain, files.key)
    assert certificate.renew() is False, "nothing changed"
    other = certificates.write(tmp_path / "other")
    files.key.write_bytes(other.key.read_bytes())
    assert certificate.renew() is False, "the key is of another certificate"
    assert "the last certificate serves on" in caplog.text
    assert certificate.renew() is False, "said once"
    assert caplog.text.count("serves on") == 1
    files.chain.write_bytes(other.chain.read_bytes())
    assert certificate.renew()
    files.key.unlink()
    assert certificate.renew() is False
    assert certificate.renewed == 1


def test_who_never_greets_is_sent_away_and_others_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "FIRST_BYTE_S", 2.0)
    monkeypatch.setattr(tls, "HANDSHAKE_S", 2.0)

    async def scenario() -> None:
        files = certificates.write(tmp_path)
        async with router(tmp_path, files) as system:
            silent, silent_writer = await asyncio.open_connection("127.0.0.1", system.port)
            half, half_writer = await asyncio.open_connection("127.0.0.1", system.port)
            half_writer.write(b"\x16\x03\x01")
            reader, writer = await system.connect(files)
            assert (await ask(reader, writer))[0].startswith(b"HTTP/1.1 200")
            for left in (silent, half):
                with suppress(ConnectionError):
                    assert await left.read() == b""
            for one in (writer, silent_writer, half_writer):
                await close(one)

    run(scenario())


def test_a_worker_that_is_held_up_for_longer_than_a_caller_may_wait_greets_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "FIRST_BYTE_S", 0.01)

    async def hold_up() -> None:
        while True:
            time.sleep(0.05)  # the loop does nothing else meanwhile
            await asyncio.sleep(0)

    def greeted(port: int, files: certificates.Files) -> str | None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        with files.trusting().wrap_socket(plain, server_hostname="localhost") as made:
            return made.version()

    async def scenario() -> None:
        files = certificates.write(tmp_path)
        async with router(tmp_path, files) as system:
            slow = asyncio.create_task(hold_up())
            assert await asyncio.to_thread(greeted, system.port, files)
            slow.cancel()

    run(scenario())


@pytest.mark.parametrize("turns", range(5))
def test_a_door_that_closes_takes_no_connection_along_that_it_has_not_greeted(tmp_path: Path, turns: int) -> None:
    """Whatever the loop has got to with it by then: other workers have the same socket."""

    async def scenario() -> None:
        files = certificates.write(tmp_path)
        shared = listen.bind("127.0.0.1", 0)
        door = tls.Entrance(shared, Certificate(files.chain, files.key), asyncio.Protocol)
        await asyncio.sleep(0)
        with socket.create_connection(shared.getsockname()) as caller:
            for _ in range(turns):
                await asyncio.sleep(0)
            door.close()
            if door._greeting:
                caller.sendall(b"no TLS")
                assert (await asyncio.to_thread(caller.recv, 12)) == b"HTTP/1.1 400"
            else:
                shared.accept()[0].close()
        await door.wait_closed()
        shared.close()

    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(scenario(), 30))


def test_a_drain_ends_the_door_and_lets_an_answer_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        files = certificates.write(tmp_path)
        async with router(tmp_path, files) as system:
            reader, writer = await system.connect(files)
            assert (await ask(reader, writer))[0].startswith(b"HTTP/1.1 200")
            system.worker.end()
            port = system.port
        assert await reader.read() == b""
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        await close(writer)

    run(scenario())


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        pytest.param(["--host", "0.0.0.0"], "plain-http", id="plain-to-others"),
        pytest.param(["--tls-cert", "c.pem"], "tls-files", id="half"),
        pytest.param(["--tls-cert", "no.pem", "--tls-key", "no.key"], "tls-files", id="missing"),
        pytest.param(["--host", "0.0.0.0", "--insecure"], "", id="said-so"),
        pytest.param(["--host", "127.0.0.1"], "", id="this-machine"),
        pytest.param(["--fd", "3"], "", id="inherited"),
    ],
)
def test_plain_http_is_for_this_machine_unless_said_otherwise(argv: list[str], code: str) -> None:
    arguments = parse(["--data", "d", *argv])
    if not code:
        assert certificate_of(arguments) is None
        return
    with pytest.raises(FindingsError) as refused:
        certificate_of(arguments)
    assert [f.code for f in refused.value.findings] == [code]

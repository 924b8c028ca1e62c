"""One HTTP/1.1 connection against real sockets that answer byte by byte as they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

import ports
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.dial import connect
from headgate_router.dataplanes.builtin.failures import Broken, TimedOut, Unreachable

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(answer: Answer) -> AsyncIterator[Connection]:
    """A connection to a server that handles each of its connections with `answer`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    connection = await connect("127.0.0.1", server.sockets[0].getsockname()[1], 5, Connection)
    try:
        yield connection
    finally:
        connection.abort()
        server.close()


def saying(*parts: bytes, pause: float = 0.0, stay: bool = True) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause)
            if not stay:
                return

    async def until_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    return until_gone


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


async def whole(connection: Connection) -> bytes:
    await connection.head()
    return await body_of(connection)


async def body_of(connection: Connection) -> bytes:
    parts = []
    while chunk := await connection.read():
        parts.append(chunk)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nt: u\r\n\r\n",
            b"hello",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    ],
    ids=["length", "chunked with trailer", "no content", "empty", "continue first", "hints first"],
)
@pytest.mark.parametrize("cut", [False, True], ids=["in one piece", "byte by byte"])
def test_an_answer_is_read_whole_and_the_connection_used_again(answer: bytes, body: bytes, cut: bool) -> None:
    parts = [bytes([byte]) for byte in answer] if cut else [answer]

    async def scenario() -> None:
        async with peer(saying(*parts)) as connection:
            for _ in range(3):
                connection.start(REQUEST, b"", timeout_s=5)
                await connection.head()
                assert await body_of(connection) == body
                assert connection.reusable
                assert b"link" not in dict(connection.fields)
                connection.finish(0.0)

    run(scenario())


HEAD_OF_FIVE = b"HTTP/1.1 200 OK\r\nx: 1\r\ncontent-length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("later", "body", "fields"),
    [
        ((HEAD_OF_FIVE + b"other",), b"other", [(b"x", b"1"), (b"content-length", b"5")]),
        ((HEAD_OF_FIVE + b"ot", b"her"), b"other", [(b"x", b"1"), (b"content-length", b"5")]),
        ((HEAD_OF_FIVE[:20], HEAD_OF_FIVE[20:] + b"other"), b"other", [(b"x", b"1"), (b"content-length", b"5")]),
        ((HEAD_OF_FIVE.replace(b"1\r", b"2\r") + b"other",), b"other", [(b"x", b"2"), (b"content-length", b"5")]),
        ((HEAD_OF_FIVE.replace(b"5", b"2") + b"ok",), b"ok", [(b"x", b"1"), (b"content-length", b"2")]),
    ],
    ids=["in one piece", "body in two", "head in two", "another head", "another length"],
)
def test_a_head_said_before_is_read_as_the_first_time(
    later: tuple[bytes, ...], body: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    """The parser is left out for a head it has read; what comes between and after is read by it again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for parts in ((HEAD_OF_FIVE + b"first",), (HEAD_OF_FIVE + b"again",), later, (HEAD_OF_FIVE + b"fifth",)):
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.005)

    async def scenario() -> None:
        async with peer(answer) as connection:
            for said in (b"first", b"again", body, b"fifth"):
                connection.start(REQUEST, b"", timeout_s=5)
                assert await whole(connection) == said
                assert connection.status == 200
                if said == body:
                    assert connection.fields == fields
                assert connection.reusable
                connection.finish(0.0)

    run(scenario())


def test_more_than_a_known_head_declares_ends_the_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for body in (b"first", b"again and more"):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD_OF_FIVE + body)
            await writer.drain()

    async def scenario() -> None:
        async with peer(answer) as connection:
            connection.start(REQUEST, b"", timeout_s=5)
            assert await whole(connection) == b"first"
            connection.finish(0.0)
            connection.start(REQUEST, b"", timeout_s=5)
            with contextlib.suppress(Broken):
                assert await whole(connection) == b"again"
            assert not connection.reusable

    run(scenario())


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async def scenario() -> None:
        async with peer(saying(b"HTTP/1.1 200 OK\r\n\r\nall", b" of it", pause=0.01, stay=False)) as connection:
            connection.start(REQUEST, b"", timeout_s=5)
            await connection.head()
            assert await body_of(connection) == b"all of it"
            assert not connection.reusable

    run(scenario())


@pytest.mark.parametrize(
    ("answer", "answered"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\ncontent-le", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", True),
        (b"SSH-2.0-OpenSSH_9.9\r\n", True),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", True),
    ],
    ids=["nothing", "half a head", "half a body", "no last chunk", "not HTTP", "upgrade", "two lengths"],
)
def test_a_broken_answer_is_told_from_none(answer: bytes, answered: bool) -> None:
    async def scenario() -> None:
        async with peer(saying(answer, stay=False)) as connection:
            connection.start(REQUEST, b"", timeout_s=5)
            with pytest.raises(Broken):
                await whole(connection)
            assert connection.answered is answered
            assert not connection.reusable

    run(scenario())


def test_what_came_of_a_broken_body_is_read_before_it_breaks() -> None:
    async def scenario() -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"
        async with peer(saying(head, stay=False)) as connection:
            connection.start(REQUEST, b"", timeout_s=5)
            await connection.head()
            assert await connection.read() == b"short"
            with pytest.raises(Broken):
                await connection.read()

    run(scenario())


def test_a_model_that_says_close_is_not_asked_again() -> None:
    async def scenario() -> None:
        answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
        async with peer(saying(answer)) as connection:
            connection.start(REQUEST, b"", timeout_s=5)
            await connection.head()
            assert await body_of(connection) == b"ok"
            assert not connection.reusable

    run(scenario())


def test_bytes_nobody_asked_for_end_the_connection() -> None:
    async def scenario() -> None:
        twice = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" * 2
        async with peer(saying(twice)) as connection:
            connection.start(REQUEST, b"", timeout_s=5)
            await connection.head()
            assert await body_of(connection) == b"ok"
            assert not connection.reusable

    run(scenario())


def test_a_silent_model_times_out_before_and_within_its_answer() -> None:
    async def scenario() -> None:
        for said in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"):
            async with peer(saying(said)) as connection:
                connection.start(REQUEST, b"", timeout_s=0.05)
                with pytest.raises(TimedOut):
                    await whole(connection)

    run(scenario())


def test_the_wait_is_for_each_piece_not_for_the_whole_answer() -> None:
    async def scenario() -> None:
        parts = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 8, b"0\r\n\r\n"]
        async with peer(saying(*parts, pause=0.15)) as connection:
            connection.start(REQUEST, b"", timeout_s=1.0)
            await connection.head()
            assert await body_of(connection) == b"x" * 8

    run(scenario())


def test_a_head_request_has_no_body_whatever_its_length_says() -> None:
    async def scenario() -> None:
        async with peer(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")) as connection:
            connection.start(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"", timeout_s=5, head_only=True)
            await connection.head()
            assert await body_of(connection) == b""

    run(scenario())


def test_a_model_faster_than_its_reader_is_slowed_down() -> None:
    size = 32 * 1024 * 1024
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async def scenario() -> None:
        async with peer(pour) as connection:
            connection.start(REQUEST, b"", timeout_s=5)
            await connection.head()
            before = -1
            while before != sent:  # until it stands still
                before = sent
                await asyncio.sleep(0.1)
            assert sent < size / 2
            assert len(await body_of(connection)) == size
        assert sent == size

    run(scenario())


def test_nobody_listening_is_unreachable() -> None:
    async def scenario() -> None:
        with ports.held() as nobodys, pytest.raises(Unreachable):
            await connect("127.0.0.1", nobodys, 5, Connection)

    run(scenario())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("host", "port"),
    [
        pytest.param("a" * 64, 80, id="a label too long"),
        pytest.param("a..b", 80, id="an empty label"),
        pytest.param("a." * 200 + "a", 80, id="a name too long"),
        pytest.param("\udcff", 80, id="no text"),
        pytest.param("h\0", 80, id="a NUL"),
        pytest.param("127.0.0.1", 1 << 70, id="no port"),
    ],
)
def test_what_is_no_address_is_unreachable(loop: Callable[[], asyncio.AbstractEventLoop], host: str, port: int) -> None:
    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(Unreachable, match="no connection"):
        runner.run(connect(host, port, 5, Connection))


def test_starting_on_a_connection_that_closed_while_idle_breaks_unanswered() -> None:
    async def scenario() -> None:
        async with peer(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", stay=False)) as connection:
            connection.start(REQUEST, b"", timeout_s=5)
            await connection.head()
            await body_of(connection)
            connection.finish(0.0)
            while connection.open:
                await asyncio.sleep(0.01)
            connection.start(REQUEST, b"", timeout_s=5)
            with pytest.raises(Broken):
                await connection.head()
            assert not connection.answered
            assert connection.used == 2

    run(scenario())

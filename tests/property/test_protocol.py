"""Bytes of any kind, cut anywhere, in both directions of the data path: no crash, no hang, nothing of one caller in
another's answer. `make fuzz` runs the same for longer.

The parts are the real ones on a small event loop of their own: only sockets are played, so that a run is the same each
time and takes no port.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_router.copies import Mirrors
from headgate_router.count import Book
from headgate_router.dataplanes.builtin.client import Connection
from headgate_router.dataplanes.builtin.doors import Doors
from headgate_router.dataplanes.builtin.protocol import CallerConnection
from headgate_router.request import Desk
from headgate_router.routes import Routes

MORE = int(os.environ.get("HEADGATE_FUZZ", "1"))  # times as many examples
FUZZ = settings(
    max_examples=150 * MORE, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=MORE == 1
)


class Wire(asyncio.Transport):
    """One end of a connection: remembers what was written, closes when told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Any) -> None:
        super().__init__()
        self.loop = loop
        self.protocol = protocol
        self.said = bytearray()
        self.closed = False
        self.paused = False

    def write(self, data: Any) -> None:
        assert not self.closed, "written to after its end"
        self.said += data

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Unasked:
    """Stands where uvicorn's protocol does."""

    on_lost: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.got = b""

    def connection_made(self, transport: Any) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self.on_lost is not None:
            self.on_lost()

    def shutdown(self) -> None: ...


class System:
    """A router of one route, whose replicas are wires; no request needs a key that hashes to anything else."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkey: list[Wire]) -> None:
        self.loop = loop
        draws = Random(1)
        self.routes = Routes(draws)
        self.book = Book()
        desk = Desk(self.routes, self.book, Mirrors(self.book), draws, 2_000_000)
        self.doors = Doors(desk)
        self.state = ServerState()
        self.models = monkey
        revision = RouteRevision("r", "r", 1000, ("http://127.0.0.1:1",), max_concurrent_per_instance=8)
        key = hashlib.sha256(b"k").hexdigest()
        self.routes.swap(
            seal(RouteTable(1, "c" * 40, {"e": EndpointRoute("e", 1, "c" * 40, (revision,), keys=(key,))}))
        )
        live = self.routes.find("e")
        assert live is not None
        (self.replica,) = live.revisions["r"].replicas.every

    def caller(self) -> tuple[CallerConnection, Wire]:
        connection = CallerConnection(self.doors, self.state, Unasked)  # type: ignore[arg-type]
        wire = Wire(self.loop, connection)
        connection.connection_made(wire)
        return connection, wire

    def model(self) -> Wire:
        """A pooled connection to a model."""
        connection = Connection(self.loop)
        wire = Wire(self.loop, connection)
        connection.connection_made(wire)
        connection.used = 1
        connection.idle_since = float("inf")
        self.replica._idle.append(connection)
        self.models.append(wire)
        return wire


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    """`raw`, cut at these places."""
    places = sorted({cut % (len(raw) + 1) for cut in cuts} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(places)]


def request(name: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    every = b"".join([b"%b\r\n" % field for field in (b"host: h", b"authorization: Bearer k", *fields)])
    return b"POST /endpoints/e/%b HTTP/1.1\r\n%b\r\n%b" % (name, every, body)


WORDS = [
    b"GET /endpoints/e/a HTTP/1.1\r\n", b"POST /endpoints/e/score HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\n",
    b"host: h\r\n", b"authorization: Bearer k\r\n", b"content-length: 3\r\n", b"content-length: 99999999\r\n",
    b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"expect: 100-continue\r\n", b"azureml-model-deployment: r\r\n", b"x: y\r\n", b"\r\n", b"\n", b"\r", b"\x00",
    b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"ffffffff\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
    b";ext=1\r\n",
    request(b"w", b"content-length: 2", body=b"{}"),
    request(b"c", b"transfer-encoding: chunked", body=b"1\r\nz\r\n0\r\n\r\n"),
]  # fmt: skip
ANSWERS = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 Bad\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 None\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n",
    b"content-length: 2\r\n", b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n",
    b"x: y\r\n", b"\r\n", b"\n", b"\x00", b"ok", b"2\r\nok\r\n", b"0\r\n\r\n", b"zz\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
]  # fmt: skip
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


def spoken(words: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.one_of(st.sampled_from(words), st.binary(max_size=6)), max_size=14).map(b"".join)


def turn(loop: asyncio.AbstractEventLoop) -> None:
    """Everything that can happen now, happens."""
    for _ in range(6):
        loop.call_soon(loop.stop)
        loop.run_forever()


def deliver(wire: Wire, every: list[bytes]) -> None:
    """Pieces that arrive one after the other."""

    def arrive(piece: bytes) -> None:
        if not wire.closed:
            wire.protocol.data_received(piece)

    for piece in every:
        wire.loop.call_soon(arrive, piece)
    turn(wire.loop)


def settle(loop: asyncio.AbstractEventLoop, system: System, wires: list[Wire]) -> None:
    """Everybody hangs up: then nothing may be left."""
    for wire in [*wires, *system.models]:
        wire.close()
    turn(loop)
    system.routes.close()
    turn(loop)
    assert system.book.in_flight == 0
    assert system.replica.in_flight == 0
    assert not system.state.connections
    assert not system.doors.clients


@FUZZ
@given(raw=spoken(WORDS), cuts=CUTS, answer=spoken(ANSWERS), answer_cuts=CUTS, leaves=st.booleans())
def test_whatever_both_sides_say_the_books_are_closed(
    raw: bytes, cuts: list[int], answer: bytes, answer_cuts: list[int], leaves: bool
) -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        errors: list[Any] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        system = System(loop, [])
        models = [system.model() for _ in range(4)]
        _, wire = system.caller()
        deliver(wire, pieces(raw, cuts))
        if leaves:
            wire.close()
        for model in models:
            if model.said:
                deliver(model, pieces(answer, answer_cuts))
        settle(loop, system, [wire])
        assert errors == []


@pytest.mark.parametrize("turns", range(4))
def test_a_caller_who_leaves_while_a_connection_is_made_for_it_leaves_nothing_behind(turns: int) -> None:
    """The first turn is before the task that makes it has begun."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        system = System(loop, [])
        _, wire = system.caller()

        def leave_after(more: int) -> None:
            if more:
                loop.call_soon(leave_after, more - 1)
                return
            assert system.replica.in_flight == 1
            wire.closed = True
            wire.protocol.connection_lost(None)

        loop.call_soon(wire.protocol.data_received, request(b"score", b"content-length: 2", body=b"{}"))
        loop.call_soon(leave_after, turns)
        turn(loop)
        settle(loop, system, [])


@FUZZ
@given(data=st.data())
def test_every_caller_gets_its_own_answers_in_order(data: st.DataObject) -> None:
    """Callers who send several requests ahead, models that answer in pieces and in any order."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        system = System(loop, [])
        models = [system.model() for _ in range(6)]
        asked = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4), label="requests of each caller")
        wires = []
        for who, n in enumerate(asked):
            _, wire = system.caller()
            wires.append(wire)
            raw = b"".join(
                request(b"c%d-%d" % (who, i), b"content-length: 3", body=b"abc")
                if data.draw(st.booleans())
                else request(b"c%d-%d" % (who, i), b"transfer-encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
                for i in range(n)
            )
            deliver(wire, pieces(raw, data.draw(CUTS)))
        answered: dict[int, int] = {}
        for _ in range(sum(asked) * 2):
            busy = [m for m in models if m.said.count(b"POST ") > answered.get(id(m), 0)]
            if not busy:
                break
            model = data.draw(st.sampled_from(busy))
            answered[id(model)] = answered.get(id(model), 0) + 1
            name = re.findall(rb"POST /(c\d+-\d+) ", bytes(model.said))[-1]
            body = name if data.draw(st.booleans()) else b""
            raw = (
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(name), name)
                if body
                else b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(name), name)
            )
            deliver(model, pieces(raw, data.draw(CUTS)))
        for who, (n, wire) in enumerate(zip(asked, wires, strict=True)):
            told = re.findall(rb"(c\d+-\d+)", re.sub(rb"\r\n[0-9a-f]+\r\n", b"", bytes(wire.said)))
            assert told == [b"c%d-%d" % (who, i) for i in range(n)]
        settle(loop, system, wires)


BODIES = st.sampled_from([b"abc", b"POS", b"\r\n\r", request(b"w", b"content-length: 3", body=b"abc")])


@FUZZ
@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), BODIES, CUTS), min_size=2, max_size=6))
def test_a_head_said_before_asks_the_same_with_another_body(said: list[tuple[bytes, bytes, list[int]]]) -> None:
    """A head that is known is not parsed; whatever came between, the model gets what a new connection would bring."""

    def heard(requests: list[tuple[bytes, bytes, list[int]]]) -> bytes:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            system = System(loop, [])
            model = system.model()
            _, wire = system.caller()
            got = b""
            for name, body, cuts in requests:
                deliver(wire, pieces(request(name, b"content-length: %d" % len(body), body=body), cuts))
                got += re.sub(rb"x-ms-request-id: [0-9a-f]+", b"x-ms-request-id: 0", bytes(model.said))
                model.said.clear()
                deliver(model, [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"])
            assert wire.said.count(b"HTTP/1.1 200 OK") == len(requests)
            settle(loop, system, [wire])
            return got

    assert heard(said) == b"".join(heard([one]) for one in said)


class Read:
    """What a strict reader makes of an answer."""

    def __init__(self, raw: bytes) -> None:
        self.body = b""
        self.ended = False
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(raw)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended = True


SIZES = st.sampled_from(["%x", "%x", "%x", "%X", "0%x", "%x;a=b"])
CHUNKS = st.tuples(SIZES, st.sampled_from([b"a", b"\r\n", b"0\r\n\r\n", b"1\r\nq\r\n", b"y" * 30, b"z" * 300]))


@FUZZ
@given(st.lists(CHUNKS, max_size=8), st.lists(st.integers(0, 23), max_size=8), CUTS, st.booleans())
def test_an_answer_in_chunks_is_read_as_the_model_said_it(
    said: list[tuple[str, bytes]], at: list[int], cuts: list[int], whole: bool
) -> None:
    """Whole chunks are not parsed; wherever it is cut, between them or within, the caller reads the same."""
    raw = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    edges = [len(raw)]
    for size, body in said:
        for part in ((size % len(body)).encode() + b"\r\n", body, b"\r\n"):
            raw += part
            edges.append(len(raw))
    raw += b"0\r\nx: y\r\n\r\n" if whole else b""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        system = System(loop, [])
        model = system.model()
        _, wire = system.caller()
        deliver(wire, [request(b"a", b"content-length: 2", body=b"{}")])
        deliver(model, pieces(raw, [edges[n % len(edges)] for n in at] + cuts))
        if not whole:
            model.close()
            turn(loop)
        read = Read(bytes(wire.said))
        assert read.body == b"".join(body for _, body in said)
        assert read.ended is whole
        settle(loop, system, [wire])


@FUZZ
@given(body=spoken(ANSWERS), cuts=CUTS)
def test_what_is_not_for_scoring_is_handed_over_byte_for_byte(body: bytes, cuts: list[int]) -> None:
    raw = b"POST /metrics HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        system = System(loop, [])
        _, wire = system.caller()
        deliver(wire, pieces(raw, cuts))
        assert isinstance(wire.protocol, Unasked)
        assert wire.protocol.got == raw
        settle(loop, system, [wire])

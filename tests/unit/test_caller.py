"""The caller is the witness of the demo: it must see everything, and must not be fooled."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable

import pytest
import uvloop

from headgate import codec
from headgate_console.demo.caller import Answered, Caller, Load, matches

Behaviour = Callable[[int], tuple[int, bytes]]  # request number -> status, body


class Server:
    """A tiny HTTP server: answers by number of request, from revision `r1` in generation 7."""

    def __init__(self, behaviour: Behaviour, hang_at: int = -1) -> None:
        self.behaviour = behaviour
        self.hang_at = hang_at
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-l"))
                await reader.readexactly(length)
                number, self.asked = self.asked, self.asked + 1
                if number == self.hang_at:
                    await asyncio.sleep(30)
                status, body = self.behaviour(number)
                if status == 0:
                    return
                writer.write(
                    f"HTTP/1.1 {status} X\r\nHeadgate-Revision: r1\r\nheadgate-generation: 7\r\n"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def call(
    behaviour: Behaviour, *, tell: bool = True, requests: int = 20, timeout_s: float = 5.0, hang_at: int = -1
) -> list[Answered]:
    """Calls a tiny server until it was asked often enough; answers the log."""

    async def scenario() -> bytes:
        server = Server(behaviour, hang_at)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        log = io.BytesIO()
        load = Load(f"http://127.0.0.1:{port}/score", "k", 500.0, "", ('{"data":[]}', '{"data":[1]}'), timeout_s)
        caller = Caller(load, log)
        if tell:
            caller.tell("r1", [[1.0], [2.0, 3.0]])
        running = asyncio.create_task(caller.run())
        async with asyncio.timeout(60):
            while server.asked < requests:
                await asyncio.sleep(0.01)
            caller.end()
            await running
        listening.close()
        return log.getvalue()

    return [codec.decode(Answered, line) for line in uvloop.run(scenario()).splitlines()]


def right(number: int) -> tuple[int, bytes]:
    return 200, json.dumps({"predictions": [2.0, 3.0] if number % 2 else [1.0]}).encode()


def test_every_request_is_answered_checked_and_logged_once() -> None:
    lines = call(lambda n: (200, b'{"predictions": [1.0]}'))
    assert len(lines) >= 20
    assert {line.right for line in lines if line.request == 0} == {True}
    assert {line.right for line in lines if line.request == 1} == {False}
    assert {(line.revision, line.generation, line.status) for line in lines} == {("r1", 7, 200)}


def test_answers_of_a_revision_nobody_told_of_are_never_right() -> None:
    lines = call(right, tell=False)
    assert len(lines) >= 20
    assert {line.right for line in lines} == {None}


def test_an_error_is_logged_with_its_status_and_body() -> None:
    lines = call(lambda n: (424, b"no such patient") if n == 3 else right(n))
    assert [(line.status, line.note) for line in lines if line.status != 200] == [(424, "no such patient")]


def test_a_connection_that_breaks_off_is_a_failure_not_a_retry() -> None:
    lines = call(lambda n: (0, b"") if n == 5 else right(n))
    broken = [line for line in lines if line.status == 0]
    assert len(broken) == 1
    assert "closed by the server" in broken[0].note


def test_a_request_that_hangs_does_not_hold_the_others() -> None:
    lines = call(right, timeout_s=2.0, hang_at=4, requests=40)
    assert [line.note for line in lines if line.status == 0] == ["no answer in 2 s"]
    assert len(lines) >= 40


def test_nothing_listening_is_seen_by_every_request() -> None:
    async def scenario() -> bytes:
        log = io.BytesIO()
        caller = Caller(Load("http://127.0.0.1:9/score", "k", 200.0, "", ("{}",)), log)
        running = asyncio.create_task(caller.run())
        while log.tell() == 0:
            await asyncio.sleep(0.01)
        caller.end()
        await running
        return log.getvalue()

    lines = [codec.decode(Answered, line) for line in asyncio.run(scenario()).splitlines()]
    assert {line.status for line in lines} == {0}
    assert all("cannot connect" in line.note for line in lines)


def test_a_request_that_cannot_be_logged_breaks_the_caller() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError("no space left on device")

    caller = Caller(Load("http://127.0.0.1:9/score", "k", 200.0, "", ("{}",)), Full())
    with pytest.raises(OSError, match="no space left"):
        uvloop.run(asyncio.wait_for(caller.run(), 20))


@pytest.mark.parametrize(
    ("body", "expected", "same"),
    [
        pytest.param(b'{"predictions": [151.5]}', [151.5 + 1e-9], True, id="within the tolerance"),
        pytest.param(b'{"predictions": [151.5]}', [151.5 + 1e-6], False, id="beyond it"),
        pytest.param(b'{"predictions": [1.0]}', [1.0, 2.0], False, id="too short"),
        pytest.param(b'{"predictions": [NaN]}', [1.0], False, id="NaN"),
        pytest.param(b'{"predictions": ["1"]}', [1.0], False, id="text"),
        pytest.param(b'{"detail": 1}', [1.0], False, id="another shape"),
        pytest.param(b"[]", [1.0], False, id="a list"),
        pytest.param(b"oops", [1.0], False, id="not JSON"),
    ],
)
def test_only_the_expected_predictions_match(body: bytes, expected: list[float], same: bool) -> None:
    assert matches(body, expected) is same

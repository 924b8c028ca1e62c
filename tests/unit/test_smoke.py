"""The smoke request over real HTTP: what is kept of its answer, and that it gives the same verdict again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headgate.codec import canonical, decode
from headgate.evidence import Look, Result
from headgate.fault import Fault
from headgate.testing import deployment
from headgate_controllers import smoke

GREEN = deployment("green")


@dataclass
class Model:
    url: str = ""
    status: int = 200
    body: bytes = b'{"value": 1}'
    endless: bool = False  # it says so, and goes on


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(made.status)
            self.send_header("content-type", "application/json")
            if not made.endless:
                self.send_header("content-length", str(len(made.body)))
            self.end_headers()
            self.wfile.write(made.body)
            while made.endless:
                try:
                    self.wfile.write(made.body)
                except OSError:
                    return

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [(200, b'{"value": 1}', Result.PASS), (500, b"Traceback", Result.FAIL), (200, b"{", Result.FAIL)],
    ids=["fine", "error", "no JSON"],
)
def test_an_answer_is_kept_and_gives_the_same_verdict_again(
    model: Model, status: int, body: bytes, result: Result
) -> None:
    model.status, model.body = status, body
    verdict, look = smoke.ask(model.url, GREEN, b"{}")
    assert verdict.result is result
    assert look is not None
    assert len(verdict.evidence) == 64
    assert verdict.parameters == {"revision": GREEN.revision}
    stored = decode(Look, canonical(look))
    assert canonical(smoke.again(stored)) == canonical(verdict)


def test_what_is_redacted_or_long_is_judged_and_not_kept(model: Model) -> None:
    model.body = b'"Ada" and more'
    verdict, look = smoke.ask(model.url, GREEN, b"{}", quoted=False)
    assert (verdict.result, look, verdict.evidence) == (Result.FAIL, None, "")
    assert "Ada" not in verdict.explanation
    model.body = b'"' + b"x" * smoke.KEPT + b'"'
    verdict, look = smoke.ask(model.url, GREEN, b"{}")
    assert (verdict.result, look) == (Result.PASS, None)


@pytest.mark.parametrize("seconds", [0.0, 3_600.0], ids=["too long by the clock", "too long in bytes"])
def test_a_stream_without_an_end_does_not_hold_the_smoke_test(
    model: Model, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "READ_S", seconds)
    model.endless, model.body = True, b"x" * 10_000
    verdict, look = smoke.ask(model.url, GREEN, b"{}")
    assert (verdict.result, look) == (Result.PASS, None)
    assert "too long an answer to look into" in verdict.explanation
    model.status = 500
    assert smoke.ask(model.url, GREEN, b"{}")[0].result is Result.FAIL


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"], ids=["nothing", "half a head"])
def test_a_model_that_breaks_off_fails(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_break_off, args=(listener, answer))
        thread.start()
        verdict, look = smoke.ask(f"http://127.0.0.1:{listener.getsockname()[1]}", GREEN, b"{}")
        thread.join()
    assert (verdict.result, look) == (Result.FAIL, None)
    assert "the sample request broke off" in verdict.explanation


def _break_off(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(answer)


def test_who_gets_no_connection_has_asked_nothing_and_no_request_is_a_pass() -> None:
    with pytest.raises(smoke.NotAsked, match="no connection to a replica that is ready") as met:
        smoke.ask("http://127.0.0.1:9", GREEN, b"{}")
    assert met.value.held.fault is Fault.UNREACHABLE
    verdict, look = smoke.ask("http://127.0.0.1:9", GREEN, None)
    assert (verdict.result, look) == (Result.PASS, None)

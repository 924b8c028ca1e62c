"""A metric source over real HTTP: the query API of Prometheus, and a web hook, with answers that a test sets."""

from __future__ import annotations

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class MetricServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []  # of each question: query, and what a hook is sent
        self.tokens: list[str] = []
        self.value: float | None = 1.0
        self.by_revision: dict[str, float | None] = {}  # wins over `value` when the query names the revision
        self.raw: tuple[int, bytes] | None = None  # answered instead
        self.drip_s = 0.0  # between two bytes of an answer
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> MetricServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def found(self, query: str) -> float | None:
        return next((v for revision, v in self.by_revision.items() if revision in query), self.value)


class _Handler(BaseHTTPRequestHandler):
    server: MetricServer

    def do_GET(self) -> None:
        asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        value = self.server.found(asked.get("query", ""))
        series = [] if value is None else [{"metric": {}, "value": [float(asked["time"]), _written(value)]}]
        self._answer(asked, {"status": "success", "data": {"resultType": "vector", "result": series}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(asked, {"value": self.server.found(asked["query"])})

    def _answer(self, asked: dict[str, Any], reply: Any) -> None:
        self.server.asked.append(asked)
        self.server.tokens.append(self.headers.get("Authorization", ""))
        status, body = self.server.raw or (200, json.dumps(reply).encode())
        self.send_response(status)
        if status in (301, 302):
            self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self._send(body)
        except OSError:
            self.close_connection = True  # the one who asked has given up: what these tests are about

    def _send(self, body: bytes) -> None:
        if not self.server.drip_s:
            self.wfile.write(body)
            return
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            self.wfile.flush()
            if self.server.stopped.wait(self.server.drip_s):
                return

    def log_message(self, *_: object) -> None:
        """Nothing on the test's output."""


def _written(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)


def within(seconds: float, holds: Any) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not become true in time"
        threading.Event().wait(0.01)

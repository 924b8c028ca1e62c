"""The load: wrk at saturation, an open loop at a fixed rate, event streams. On the core the routers do not have."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import uvloop
from bench.control.measure import quantile
from bench.router.job import BODY, CONNECTIONS, HEADERS, RATE, STREAMS, request
from bench.router.places import REST
from bench.router.upstream import EVENTS, EVERY_S

T = TypeVar("T")
LATE_S = 10.0  # an answer that takes longer has failed
SCRIPT = """\
wrk.method = "POST"
wrk.body = {body}
{headers}
done = function(summary, latency, requests)
  io.write(string.format('{{"requests": %d, "us": %d, "failed": %d, "p50_us": %d, "p99_us": %d}}\\n',
    summary.requests, summary.duration, summary.errors.status + summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass
class Seen:
    """What a load saw."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    late_ms: list[float] = field(default_factory=list)

    def p(self, q: float) -> float:
        return round(quantile(self.late_ms, q), 3) if self.late_ms else 0.0


def on_rest() -> None:
    os.sched_setaffinity(0, REST)


def run(load: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(load)


def saturate(wrk: str, port: int, path: str, seconds: float, folder: Path) -> Seen:
    """As fast as the router answers, on 32 connections."""
    script = folder / "wrk.lua"
    headers = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in HEADERS.items())
    script.write_text(SCRIPT.format(body=json.dumps(BODY.decode()), headers=headers))
    url = f"http://127.0.0.1:{port}{path}"
    argv = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, preexec_fn=on_rest).stdout
    told = json.loads(said.strip().splitlines()[-1])
    seen = Seen(told["requests"], told["failed"], told["us"] / 1e6)
    seen.late_ms = [told["p50_us"] / 1000, told["p99_us"] / 1000]  # in place of each: quantiles 0.5 and 0.99
    return seen


class Caller(asyncio.Protocol):
    """One kept-alive connection, one request at a time. `answered` is told the whole answer, or None: it broke."""

    def __init__(self, answered: Callable[[Caller, bytes | None], None]) -> None:
        self._answered = answered
        self._seen = b""
        self.began = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, message: bytes, due: float) -> None:
        self.began, self.busy, self._seen = due, True, b""
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or -1) if end else -1
        chunked = length < 0 and body.endswith(b"0\r\n\r\n")
        if end and (chunked or 0 <= length <= len(body)):
            self.busy = False
            self._answered(self, self._seen)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self._answered(self, None)


async def paced(port: int, path: str, seconds: float, rate: float = RATE) -> Seen:
    """An open loop: a request is due when it is due, whatever became of those before. Late starts count as latency."""
    loop = asyncio.get_running_loop()
    seen, idle, late = Seen(), list[Caller](), list[float]()
    message = request(path, port)

    def answered(caller: Caller, answer: bytes | None) -> None:
        if answer is None or not answer.startswith(b"HTTP/1.1 200"):
            seen.failed += 1
            if answer is None:
                return
        else:
            seen.late_ms.append((time.perf_counter() - caller.began) * 1000)
        if late:
            caller.ask(message, late.pop(0))
        else:
            idle.append(caller)

    for _ in range(CONNECTIONS):
        _, caller = await loop.create_connection(lambda: Caller(answered), "127.0.0.1", port)
        idle.append(caller)
    started = time.perf_counter()
    for number in range(round(seconds * rate)):
        due = started + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        seen.requests += 1
        if idle:
            idle.pop().ask(message, due)
        else:
            late.append(due)
    ends = time.perf_counter() + LATE_S
    while len(seen.late_ms) + seen.failed < seen.requests and time.perf_counter() < ends:
        await asyncio.sleep(0.01)
    seen.failed += seen.requests - len(seen.late_ms) - seen.failed
    seen.seconds = time.perf_counter() - started
    return seen


class Listening(asyncio.Protocol):
    """Reads one stream of stamped events, with as little of its own time as can be."""

    def __init__(self, seen: Seen, ended: asyncio.Future[None]) -> None:
        self._seen = seen
        self._ended = ended
        self._tail = b""
        self._left = EVENTS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        *whole, self._tail = (self._tail + data).split(b"\n\n")
        for one in whole:
            self._seen.requests += 1
            self._seen.late_ms.append((now - int(one.rpartition(b"data: ")[2])) / 1e6)
        self._left -= len(whole)
        if self._left <= 0:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._seen.failed += self._left > 0
        self._ended.set_result(None)


async def streams(port: int, path: str, count: int = STREAMS) -> Seen:
    """Event streams side by side, begun one after the other over the time between two events, as callers come; how
    late each event came, against the stamp its sender put in it.
    """
    loop = asyncio.get_running_loop()
    seen = Seen()
    started = time.perf_counter()
    ends = []
    for number in range(count):
        await asyncio.sleep(max(0.0, started + number * EVERY_S / count - time.perf_counter()))
        ended = loop.create_future()
        _, listening = await loop.create_connection(partial(Listening, seen, ended), "127.0.0.1", port)
        listening.transport.write(request(path, port))
        ends.append(ended)
    await asyncio.wait(ends, timeout=LATE_S + EVENTS * EVERY_S)
    seen.failed += sum(not ended.done() for ended in ends)
    seen.seconds = time.perf_counter() - started
    return seen

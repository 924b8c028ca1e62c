"""A caller: constant arrivals, open loop, every answer checked. A process of its own, so that nothing slows it down.

Requests go out on a fixed schedule whatever the answers do, and latency counts from the moment a request was due, so
that a stall is seen by every request it delayed (no coordinated omission).
Spoken to on standard input, one JSON object per line: first a `Load`, then `{"revision": ..., "answers": [...]}` for
each revision that may answer. The end of the input ends it; so it never outlives who started it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO
from urllib.parse import urlsplit

from headgate import codec
from headgate_console.demo.wire import Pool, Reply, post

TOLERANCE = 1e-9  # relative above 1, absolute below
MOST_OPEN = 4_000  # requests without an answer; more would only find the end of this process's file descriptors
FLUSH_S = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    url: str
    key: str
    rate: float  # requests per second
    log: str  # path
    bodies: tuple[str, ...]  # sent in turn
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Answered:
    """One line of the log. Times are seconds since the epoch."""

    sent: float
    answered: float
    late_ms: float  # from the moment it was due to its answer
    status: int  # 0: none came
    revision: str
    generation: int
    request: int  # index of the body
    right: bool | None  # None: the revision's answers were never told
    note: str = ""


class Caller:
    def __init__(self, load: Load, log: IO[bytes]) -> None:
        place = urlsplit(load.url)
        self._load = load
        self._log = log
        self._host, self._port = place.hostname or "127.0.0.1", place.port or 80
        headers = {"Authorization": f"Bearer {load.key}", "Content-Type": "application/json"}
        self._requests = [post(place.netloc, place.path, headers, body.encode()) for body in load.bodies]
        self._expected: dict[str, list[list[float]]] = {}
        self._untold: list[tuple[Answered, bytes]] = []  # answered by revisions we have not been told of yet
        self._open: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None  # a request that was never logged: then nothing is proved
        self._ended = False

    def tell(self, revision: str, answers: list[list[float]]) -> None:
        """What a revision must answer to each body."""
        self._expected[revision] = answers
        untold, self._untold = self._untold, []
        for line, body in untold:
            self._check(line, body)

    def end(self) -> None:
        self._ended = True

    async def run(self) -> None:
        """Calls until `end`, then waits for the answers still out. Raises what kept a request from being logged."""
        loop = asyncio.get_running_loop()
        pool = Pool(self._host, self._port)
        start, number, flushed = loop.time(), 0, 0.0
        while not self._ended and self._broken is None:
            now = loop.time()
            while (due := start + number / self._load.rate) <= now:
                self._send(pool, number % len(self._requests), due)
                number += 1
            if now - flushed > FLUSH_S:
                self._log.flush()
                flushed = now
            await asyncio.sleep(max(0.0, due - loop.time()))
        if self._open:
            await asyncio.wait(self._open)
        for line, _ in self._untold:
            self._write(line)
        pool.close()
        self._log.flush()
        if self._broken is not None:
            raise self._broken

    def _send(self, pool: Pool, index: int, due: float) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(pool, index, due))
        self._open.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._broken = self._broken or task.exception()

    async def _ask(self, pool: Pool, index: int, due: float) -> None:
        loop = asyncio.get_running_loop()
        sent = time.time()
        if len(self._open) > MOST_OPEN:
            reply = Reply(note=f"not sent: {MOST_OPEN} requests are waiting for their answers")
        else:
            reply = await pool.ask(self._requests[index], self._load.timeout_s)
        line = Answered(
            sent=round(sent, 6),
            answered=round(time.time(), 6),
            late_ms=round((loop.time() - due) * 1e3, 3),
            status=reply.status,
            revision=reply.headers.get("headgate-revision", ""),
            generation=_number(reply.headers.get("headgate-generation", "")),
            request=index,
            right=None,
            note=reply.note or (reply.body[:300].decode("utf-8", "replace") if reply.status != 200 else ""),
        )
        self._check(line, reply.body)

    def _check(self, line: Answered, body: bytes) -> None:
        if line.status != 200:
            self._write(line)
        elif (answers := self._expected.get(line.revision)) is None:
            self._untold.append((line, body))
        else:
            self._write(line, matches(body, answers[line.request]))

    def _write(self, line: Answered, right: bool | None = None) -> None:
        self._log.write(codec.canonical({**codec.to_data(line), "right": right}) + b"\n")


def matches(body: bytes, expected: Sequence[float]) -> bool:
    """Whether an answer's body is the expected predictions, to 1e-9."""
    try:
        got = json.loads(body)["predictions"]
        pairs = list(zip(got, expected, strict=True))
        return all(abs(value - right) <= TOLERANCE * max(1.0, abs(right)) for value, right in pairs)
    except (ValueError, TypeError, KeyError):
        return False  # not JSON, another shape, another length: not what was expected


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


async def _listen(caller: Caller, lines: asyncio.StreamReader) -> None:
    while line := await lines.readline():
        told = json.loads(line)
        caller.tell(told["revision"], told["answers"])
    caller.end()


async def _main() -> None:
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    load = codec.decode(Load, await lines.readline())
    with open(load.log, "ab") as log:
        caller = Caller(load, log)
        async with asyncio.TaskGroup() as both:
            both.create_task(_listen(caller, lines))
            both.create_task(caller.run())


if __name__ == "__main__":
    import signal

    import uvloop

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the story, which ends this by closing its input
    uvloop.run(_main())

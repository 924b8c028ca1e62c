"""The access log: one JSON object per line for a sample of the requests. Off unless a place is named.

Lines are made and written by a thread of their own; what it cannot keep up with is dropped and counted. Refuses to
hold bodies, queries and credentials: nothing of a request is written but what is named in `Line`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import IO

log = logging.getLogger("headgate.router")

MOST = 10_000  # lines that wait for the writer
CLOSE_S = 2.0
STDOUT = "-"
MAX_PATH = 200  # bytes of a path that are written


@dataclass(frozen=True, slots=True)
class Line:
    """One request that ended. Milliseconds; None: it did not get that far."""

    method: bytes
    endpoint: str
    path: bytes  # below the endpoint, without the query
    status: int  # 499: the caller left
    outcome: str  # as counted; empty: no revision was asked
    deployment: str
    revision: str
    generation: int | None
    first_ms: float | None  # from the question to the model until its answer's head
    whole_ms: float | None
    request_id: bytes
    client_id: bytes


class AccessLog:
    """Not thread-safe: one event loop offers lines. `share`: of the requests, 0 to 1."""

    def __init__(
        self, place: str, worker: str, share: float, random: Random, clock: Callable[[], float] = time.time
    ) -> None:
        self._place = place
        self._worker = worker
        self._share = share
        self._random = random
        self._clock = clock
        self._queue: SimpleQueue[tuple[float, Line] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self.dropped = 0
        self._failed = False

    def start(self) -> None:
        self._thread.start()

    def wants(self) -> bool:
        """Draws whether this request is one of the sample, and whether there is room for it."""
        if self._share < 1.0 and self._random.random() >= self._share:
            return False
        if self._queue.qsize() >= MOST:
            self.dropped += 1
            return False
        return True

    def add(self, line: Line) -> None:
        self._queue.put((self._clock(), line))

    def close(self) -> None:
        """Writes what waits, for two seconds at most."""
        self._queue.put(None)
        self._thread.join(CLOSE_S)

    # The writer's thread.

    def _run(self) -> None:
        out: IO[bytes] | None = None
        while True:
            batch, ends = self._batch()
            if batch:
                try:
                    out = self._opened(out)
                    out.write(b"".join(self._text(at, line) for at, line in batch))
                    out.flush()
                    self._failed = False
                except OSError as error:  # requests are answered all the same
                    self.dropped += len(batch)
                    if not self._failed:
                        log.error("the access log cannot be written: %s", error.strerror or error)
                    self._failed = True
            if ends:
                if out is not None and self._place != STDOUT:
                    out.close()
                return

    def _batch(self) -> tuple[list[tuple[float, Line]], bool]:
        """All that waits, at least one line; and whether it was the last."""
        first = self._queue.get()
        batch: list[tuple[float, Line]] = []
        while first is not None:
            batch.append(first)
            if self._queue.empty():
                return batch, False
            first = self._queue.get()
        return batch, True

    def _opened(self, out: IO[bytes] | None) -> IO[bytes]:
        """The place to write to; opened anew when the file was moved away to be kept."""
        if self._place == STDOUT:
            return sys.stdout.buffer
        path = Path(self._place)
        if out is not None:
            try:
                here, there = os.fstat(out.fileno()), path.stat()
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return out
            except FileNotFoundError:
                pass
            out.close()
        return open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640), "ab")

    def _text(self, at: float, line: Line) -> bytes:
        said = {
            "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "worker": self._worker,
            "method": line.method.decode("latin-1"),
            "endpoint": line.endpoint[:MAX_PATH],
            "path": line.path[:MAX_PATH].decode("latin-1"),
            "status": line.status,
            "outcome": line.outcome or None,
            "deployment": line.deployment or None,
            "revision": line.revision or None,
            "generation": line.generation,
            "first_ms": None if line.first_ms is None else round(line.first_ms, 3),
            "ms": None if line.whole_ms is None else round(line.whole_ms, 3),
            "request_id": line.request_id.decode("latin-1"),
            "client_request_id": line.client_id.decode("latin-1") or None,
        }
        return json.dumps({key: value for key, value in said.items() if value is not None}).encode() + b"\n"

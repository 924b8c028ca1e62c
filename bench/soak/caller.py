"""Callers that ask again as soon as they are answered: `python -m bench.soak.caller ROOT PORT CONNECTIONS`.

Every answer is held against what it says of itself and against what all workers had acked before it was asked for.
They stop on SIGTERM, when what is on its way is answered, and print one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import cast

import uvloop

REQUEST = b"POST /endpoints/e/score HTTP/1.1\r\nhost: h\r\nauthorization: Bearer k\r\ncontent-length: 2\r\n\r\n{}"
AGAIN_S = 0.005  # after a connection that ended


class Callers:
    def __init__(self, root: Path, port: int) -> None:
        with (root / "acked").open("r+b") as file:
            self.acked = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
        self._told = (root / f"told-{port}-{id(self):x}").open("wb", buffering=0)
        self._port = port
        self.statuses: Counter[int] = Counter()
        self.revisions: Counter[str] = Counter()
        self.late: list[tuple[int, int]] = []  # the generation that answered, the one all had acked before
        self.foreign = 0  # an answer that is not of the revision it names
        self.lost: list[float] = []  # wall clock: requests without an answer
        self.refused: list[float] = []  # connects
        self.over = False
        self.open = 0

    async def connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: Caller(self), "127.0.0.1", self._port)
        except OSError:
            self.refused.append(time.time())
            self.again()

    def again(self) -> None:
        if not self.over:
            loop = asyncio.get_running_loop()
            loop.call_later(AGAIN_S, lambda: loop.create_task(self.connect()))

    def count(self) -> None:
        """How many were answered so far, for whoever waits for a number."""
        self._told.seek(0)
        self._told.write(b"%020d" % self.statuses.total())


class Caller(asyncio.Protocol):
    def __init__(self, shared: Callers) -> None:
        self._shared = shared
        self._seen = b""
        self._acked = 0
        self._waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._shared.open += 1
        self._ask()

    def _ask(self) -> None:
        if self._shared.over or self._transport.is_closing():
            self._transport.close()
            return
        self._waits = True
        self._acked = int.from_bytes(self._shared.acked[:8], "little")
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        seen = self._seen + data
        head, end, body = seen.partition(b"\r\n\r\n")
        if not end or len(body) < int(_field(head, b"content-length")):
            self._seen = seen
            return
        self._seen = b""
        self._waits = False
        self._judge(head, body)
        if b"\r\nconnection: close" in head:
            self._transport.close()
        else:
            self._ask()

    def _judge(self, head: bytes, body: bytes) -> None:
        shared = self._shared
        shared.statuses[int(head[9:12])] += 1
        if head[9:12] != b"200":
            return
        generation = int(_field(head, b"headgate-generation"))
        if generation < self._acked:
            shared.late.append((generation, self._acked))
        revision = _field(head, b"headgate-revision")
        shared.revisions[revision.decode()] += 1
        shared.foreign += body != revision or b"candidate" in body

    def connection_lost(self, exc: Exception | None) -> None:
        shared = self._shared
        shared.open -= 1
        if self._waits:
            shared.lost.append(time.time())
        shared.again()


def _field(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n%b: " % name)[2].partition(b"\r\n")[0]


async def main(root: Path, port: int, connections: int) -> None:
    callers = Callers(root, port)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    for _ in range(connections):
        await callers.connect()
    while not stop.is_set():
        callers.count()
        await asyncio.wait((asyncio.ensure_future(stop.wait()),), timeout=0.1)
    callers.over = True
    deadline = time.monotonic() + 30.0
    while callers.open and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    found = {
        "statuses": callers.statuses, "revisions": callers.revisions, "late": callers.late, "foreign": callers.foreign,
        "lost": callers.lost, "refused": callers.refused, "hung": callers.open,
    }  # fmt: skip
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))

"""The models behind the routers, as cheap as can be: `python -m bench.router.upstream PORT KIND`.

score answers 207 bytes, or 100 KB on /big; events sends 100 stamped events, one every 20 ms, on any path; hung, slow
(1 s) and closing are what may become of a mirror's target.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import uvloop

SMALL = b'{"y": "' + b"x" * 198 + b'"}'
BIG = b"x" * 100_000
EVENTS, EVERY_S = 100, 0.02
SLOW_S = 1.0


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Model(asyncio.Protocol):
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.kind == "closing":
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.seen += data
        while True:
            head, end, rest = self.seen.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if not end or len(rest) < length:
                return
            self.seen = rest[length:]
            self.answer(head)

    def answer(self, head: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self.kind == "events":
            self.streaming = loop.create_task(self.stream())
        elif self.kind == "slow":
            loop.call_later(SLOW_S, self.transport.write, whole(SMALL))
        elif self.kind == "score":
            self.transport.write(whole(BIG if b"/big" in head.partition(b"\r\n")[0] else SMALL))

    async def stream(self) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(EVENTS):
            event = b"data: %d\n\n" % time.monotonic_ns()
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(EVERY_S)
        self.transport.write(b"0\r\n\r\n")


async def serve(port: int, kind: str) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Model(kind), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), sys.argv[2]))

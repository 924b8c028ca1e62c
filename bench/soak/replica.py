"""A replica of one revision, as cheap as can be: `python -m bench.soak.replica PORT REVISION`. It answers its name."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Model(asyncio.Protocol):
    def __init__(self, name: bytes) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(name), name)
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *whole, self._seen = (self._seen + data).split(b"\r\n\r\n{}")
        if whole:
            self._transport.write(self._answer * len(whole))


async def serve(port: int, name: bytes) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Model(name), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), sys.argv[2].encode()))

"""What each of Envoy's threads serves by, asked of the threads themselves.

The probe's door gives every thread as many connections as any other, so that a connection to each is found; a
connection stays with its thread. The answer comes from the very routes that callers are matched with.
"""

from __future__ import annotations

import asyncio
import re

POLL_S = 0.002
ANSWER_S = 1.0
MOST = 8  # connections tried for each thread
_QUESTION = b"GET / HTTP/1.1\r\nhost: probe.headgate\r\n\r\n"
_THREAD = re.compile(rb"headgate-thread: (.*?)\r\n")

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Unanswered(Exception):
    """A thread did not say what it serves by."""


class Probes:
    """One connection to each of `threads` threads, through the Unix socket at `path`."""

    def __init__(self, path: str, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._lines: dict[bytes, Line] = {}  # thread -> connection

    async def all_at(self, version: str) -> None:
        """Until every thread serves by this version."""
        while True:
            try:
                await self._connect()
                said = [await _ask(line) for line in self._lines.values()]
            except (Unanswered, OSError):
                self.close()
                await asyncio.sleep(ANSWER_S / 10)
                continue
            if all(found == version.encode() for _, found in said):
                return
            await asyncio.sleep(POLL_S)

    async def _connect(self) -> None:
        """Raises OSError, Unanswered: not every thread was found."""
        spare: list[Line] = []
        try:
            while len(self._lines) < self._threads:
                if len(spare) > MOST * self._threads:
                    raise Unanswered("not every thread was found")
                line = await asyncio.open_unix_connection(self._path)
                spare.append(line)
                thread, _ = await _ask(line)
                if thread not in self._lines:
                    self._lines[thread] = spare.pop()
        finally:
            for _, writer in spare:
                writer.transport.abort()

    def close(self) -> None:
        for _, writer in self._lines.values():
            writer.transport.abort()
        self._lines = {}


async def _ask(line: Line) -> tuple[bytes, bytes]:
    """The thread, and the version that it serves by. Raises Unanswered."""
    reader, writer = line
    try:
        async with asyncio.timeout(ANSWER_S):
            writer.write(_QUESTION)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError) as error:
        raise Unanswered(type(error).__name__) from error
    thread = _THREAD.search(head)
    if thread is None:
        raise Unanswered("the probe's answer names no thread")
    return thread[1], body

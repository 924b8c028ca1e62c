"""The worker processes of one replica, seen from the front: started, asked one request at a time, noticed when gone.

Refuses to start a worker again: a worker that ended took the model with it, and the platform restarts the replica as
a whole, with a reason.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate_serving import worker as protocol

WORKER_FILE = Path(protocol.__file__)
END_S = 2.0  # after the end of its socket a worker that does not end is killed
BIG = 65_536  # bytes from which a frame's sending is waited for


class WorkerLost(Exception):
    """The worker's end of the socket closed; the text says how its process ended, as far as known."""


class CrewGone(Exception):
    """A worker process ended; the replica ends with it, and who waited in line must go elsewhere."""


class InitFailed(Exception):
    """The script did not import, or init() raised. The text is the reason with its place."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Sequence[tuple[bytes, bytes]]
    run_ms: str  # how long run() took, as Azure's header has it
    body: bytes | None  # None: chunks follow


class Worker:
    """One socket to one worker process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._streams = False  # chunks of an answer are still to come

    async def ready(self) -> Mapping[str, Any]:
        kind, meta, _ = await self._receive()
        if kind == protocol.FAILED:
            raise InitFailed(meta["reason"])
        return dict(meta)

    async def ask(self, meta: Mapping[str, Any], body: bytes) -> Reply:
        await self._send(protocol.REQUEST, meta, body)
        kind, head, content = await self._receive()
        self._streams = kind == protocol.HEAD
        headers = [(k.encode("latin-1", "replace"), v.encode("latin-1", "replace")) for k, v in head["headers"]]
        return Reply(head["status"], headers, head["ms"], None if kind == protocol.HEAD else content)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The rest of a streamed answer. Raises StreamBroken when run() failed on the way."""
        while True:
            kind, meta, content = await self._receive()
            if kind == protocol.END:
                self._streams = False
                if meta["error"]:
                    raise StreamBroken(meta["error"])
                return
            yield content

    async def cancel(self) -> None:
        """Ends a streamed answer early, unless it has ended, and waits until the worker is free again."""
        if not self._streams:
            return
        await self._send(protocol.CANCEL)
        while (await self._receive())[0] != protocol.END:
            pass
        self._streams = False

    def close(self) -> None:
        self._writer.close()

    async def _send(self, kind: int, meta: Any = None, body: bytes = b"") -> None:
        head = json.dumps(meta).encode() if meta is not None else b""
        try:
            self._writer.write(protocol.FRAME.pack(kind, len(head), len(body)) + head + body)
            if len(body) > BIG:
                await self._writer.drain()
        except ConnectionError as error:
            raise WorkerLost("the worker process ended") from error

    async def _receive(self) -> tuple[int, Any, bytes]:
        try:
            frame = await self._reader.readexactly(protocol.FRAME.size)
            kind, meta, body = protocol.FRAME.unpack(frame)
            head = json.loads(await self._reader.readexactly(meta)) if meta else None
            return kind, head, await self._reader.readexactly(body) if body else b""
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise WorkerLost("the worker process ended") from error


class StreamBroken(Exception):
    """run() raised in the middle of a stream."""


class Crew:
    """All workers of the replica. A request takes an idle one and gives it back; who comes too early waits in line."""

    def __init__(self, interpreter: str, env: Mapping[str, str], cwd: Path, count: int, preload: bool) -> None:
        self._argv = (interpreter, str(WORKER_FILE))
        self._env = env
        self._cwd = cwd
        self._count = count
        self._preload = preload
        self._processes: list[asyncio.subprocess.Process] = []
        self._workers: list[Worker] = []
        self._idle: deque[Worker] = deque()
        self._line: deque[asyncio.Future[Worker]] = deque()
        self.ready = False
        self._why = ""  # why we killed them; empty: we did not
        self.lost = ""  # how a worker's process ended; empty: all live

    async def start(self) -> None:
        """Returns when init() is done everywhere. Raises InitFailed, WorkerLost, OSError."""
        groups = [self._count] if self._preload else [1] * self._count
        found = [await self._start_process(group) for group in groups]
        self._workers = [w for group in found for w in group]
        await asyncio.gather(*(w.ready() for w in self._workers))
        self._idle.extend(self._workers)
        self.ready = True

    async def _start_process(self, sockets: int) -> list[Worker]:
        pairs = [socket.socketpair() for _ in range(sockets)]
        theirs = [pair[1] for pair in pairs]
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            ",".join(str(s.fileno()) for s in theirs),
            env=dict(self._env),
            cwd=self._cwd,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[s.fileno() for s in theirs],
        )
        for end in theirs:
            end.close()
        self._processes.append(process)
        return [Worker(*await asyncio.open_connection(sock=pair[0])) for pair in pairs]

    def take_now(self) -> Worker | None:
        return self._idle.popleft() if self._idle else None

    def take(self) -> asyncio.Future[Worker]:
        """The next one that gets idle; cancel it to leave the line. Its exception is CrewGone."""
        place = asyncio.get_running_loop().create_future()
        if self.lost:
            place.set_exception(CrewGone(self.lost))
        else:
            self._line.append(place)
        return place

    def give(self, worker: Worker) -> None:
        while self._line:
            place = self._line.popleft()
            if not place.done():
                return place.set_result(worker)
        return self._idle.append(worker)

    def kill(self, why: str) -> None:
        """Ends the workers because of what one of them does; `wait_lost` says why."""
        self._why = why
        for process in self._processes:
            if process.returncode is None:
                process.kill()

    async def wait_lost(self) -> str:
        """Until any worker process ends; says how."""
        waits = [asyncio.ensure_future(p.wait()) for p in self._processes]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        code = done.pop().result()
        self.ready = False
        self.lost = self._why or (f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")
        for place in self._line:
            if not place.done():
                place.set_exception(CrewGone(self.lost))
        return self.lost

    async def close(self) -> None:
        """The end of its socket is the worker's sign to end."""
        self.ready = False
        for worker in self._workers:
            worker.close()
        waits = [asyncio.ensure_future(p.wait()) for p in self._processes]
        if waits:
            await asyncio.wait(waits, timeout=END_S)
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()

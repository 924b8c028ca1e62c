"""How long a change of weights takes: from the controller's answer to the first request it decides, and to four acks.

The controller is a stand-in that speaks the exchange; workers, socket, table and requests are real.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from bench.control.measure import quantile
from bench.router.job import request
from bench.router.load import Caller, run
from bench.router.peers import Upstreams, table
from bench.router.places import CORES, UP_S, running
from bench.standin import Standin

from headgate.table import RouteTable
from headgate_kit import listen

WORKERS = 4
CHANGES = 30


class Controller(Standin):
    def __init__(self, first: RouteTable) -> None:
        super().__init__()
        self.table = first
        self.acked: dict[str, tuple[int, float]] = {}  # worker -> generation, when it said so

    def current(self) -> RouteTable:
        return self.table

    def heard(self, worker: str, generation: int) -> None:
        if self.acked.get(worker, (-1, 0.0))[0] != generation:
            self.acked[worker] = (generation, time.perf_counter())

    def publish(self, table: RouteTable) -> float:
        """When."""
        self.table = table
        self.tell()
        return time.perf_counter()


def measure(folder: Path, upstreams: Upstreams) -> dict[str, float]:
    return run(_measure(folder, upstreams))


async def _measure(folder: Path, upstreams: Upstreams) -> dict[str, float]:
    data = folder / "change"
    data.mkdir(parents=True, exist_ok=True)
    sock = listen.bind("127.0.0.1", 0)
    port = int(sock.getsockname()[1])
    controller = Controller(table(upstreams, 0.0, 0))
    server = await asyncio.start_server(controller.serve, "127.0.0.1", 0, limit=1 << 24)
    (data / "control.json").write_text(
        json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "pid": 1})
    )
    (data / "control.token").write_text("bench")
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for index in range(WORKERS):
            argv = [sys.executable, "-m", "headgate_router", "--data", str(data), "--worker", f"router-{index}"]
            argv += ["--fd", str(sock.fileno()), "--dataplane", "builtin"]
            started = running(argv, port, set(CORES), data / "log", fds=(sock.fileno(),))
            await loop.run_in_executor(None, stack.enter_context, started)
        await _acked(controller, 1)
        result = await _changes(controller, upstreams, port)
        await loop.run_in_executor(None, stack.close)
    server.close()
    sock.close()
    return result


async def _acked(controller: Controller, generation: int) -> float:
    """When the last worker said so."""
    async with asyncio.timeout(UP_S):
        while sum(acked >= generation for acked, _ in controller.acked.values()) < WORKERS:
            await asyncio.sleep(0.0005)
    return max(at for _, at in controller.acked.values())


async def _changes(controller: Controller, upstreams: Upstreams, port: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    honoured: list[float] = []
    acked: list[float] = []
    answers: asyncio.Queue[bytes | None] = asyncio.Queue()
    caller = Caller(lambda _, said: answers.put_nowait(said))
    await loop.create_connection(lambda: caller, "127.0.0.1", port)
    message = request("/endpoints/e/score", port)
    for change in range(CHANGES):
        generation = change + 2
        wanted = (b"revision: green", b"revision: blue")[change % 2]
        began = controller.publish(table(upstreams, 0.0, 1000 if change % 2 == 0 else 0, generation))
        while True:
            caller.ask(message, time.perf_counter())
            if wanted in (await answers.get() or b""):
                honoured.append((time.perf_counter() - began) * 1000)
                break
        acked.append((await _acked(controller, generation) - began) * 1000)
        await asyncio.sleep(0.02)
    return {
        "weight_change_ms": round(quantile(honoured, 0.5), 2),
        "weight_change_ms_max": round(max(honoured), 2),
        "acked_by_4_ms": round(quantile(acked, 0.5), 2),
        "acked_by_4_ms_max": round(max(acked), 2),
    }

"""The controller's half of the exchange, alone; argv: ROOT PORT WORKERS, then PORT,PORT of each revision.

Record, generations and table are the real ones, and so survive a `kill -9`; what moves the shares is a loop instead of
rollouts: a change is made when every worker has acked the one before. The generation that all have acked stands in the
first 8 bytes of ROOT/acked, for callers to hold answers against.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import mmap
import sys
import time
from pathlib import Path

import uvloop
from bench.standin import Standin

from headgate.evidence import PairKind
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.routes import Routes
from headgate_kit.layout import DataFolder

REVISIONS = ("blue", "green", "red")
CANDIDATE = "candidate"  # gets copies only
LEAST_S = 0.05  # between two changes


class Controller(Standin):
    def __init__(self, root: Path, workers: int, ports: list[list[int]]) -> None:
        super().__init__()
        self._routes = Routes(SqliteRecord(root / "record.db"), time.time)
        self._workers = workers
        self._ports = ports
        self._acked: dict[str, int] = {}
        self._all = asyncio.Event()
        with (root / "acked").open("r+b") as file:
            self._shown = mmap.mmap(file.fileno(), 8)

    def current(self) -> RouteTable:
        return self._routes.table

    async def change(self) -> None:
        """For ever."""
        while True:
            generation = self._routes.table.generation
            if generation:
                await self._all.wait()
            self._all.clear()
            self._routes.publish({"e": self._route(generation + 1)}, "c" * 40)
            self.tell()
            await asyncio.sleep(LEAST_S)

    def _route(self, change: int) -> EndpointRoute:
        """Shares of three revisions, others each time; now and then one of them has none."""
        first = change * 37 % 1001
        second = (1000 - first) * (change % 7) // 6
        shares = (first, second, 1000 - first - second)
        rows = [
            self._row(index, name, share) for index, (name, share) in enumerate(zip(REVISIONS, shares, strict=True))
        ]
        mirrors = (Mirror(CANDIDATE, 50), Mirror("blue", 20, PairKind.ECHO))
        rows.append(self._row(len(REVISIONS), CANDIDATE, 0))
        key = hashlib.sha256(b"k").hexdigest()
        return EndpointRoute("e", 0, "c" * 40, tuple(rows), mirrors, keys=(key,))

    def _row(self, index: int, name: str, share: int) -> RouteRevision:
        upstreams = tuple(f"http://127.0.0.1:{port}" for port in self._ports[index])
        return RouteRevision(name, name, share, upstreams, max_concurrent_per_instance=1000, request_timeout_ms=30_000)

    def heard(self, worker: str, generation: int) -> None:
        self._acked[worker] = generation
        if len(self._acked) == self._workers:
            least = min(self._acked.values())
            if least > int.from_bytes(self._shown[:], "little"):
                self._shown[:] = least.to_bytes(8, "little")
            if least == self._routes.table.generation:
                self._all.set()


async def main(root: Path, port: int, workers: int, ports: list[list[int]]) -> None:
    controller = Controller(root, workers, ports)
    server = await asyncio.start_server(controller.serve, "127.0.0.1", port, limit=1 << 24)
    data = DataFolder(root / "data")
    data.control.write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "pid": 1}))
    print("ready", flush=True)
    await controller.change()
    server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        listed = [[int(port) for port in group.split(",")] for group in sys.argv[4:]]
        runner.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), listed))

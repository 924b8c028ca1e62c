"""What sampling pairs of answers costs a router that mirrors 10 %: itself beside itself without, in turn.

Many short turns, compared two by two: what else a machine does changes from turn to turn by more than what is looked
for. The middle half of the comparisons is `pair_sampling_cpu_share_spread`; a share below it says no more than "less".
Both deliver to a stand-in controller, as pairs are made only where somebody takes them.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.router.change import Controller
from bench.router.job import MIRROR
from bench.router.load import run, saturate
from bench.router.peers import Upstreams, table
from bench.router.places import ROUTER, answers, cpu_s, free_ports, running, until

ROUNDS = 24
TURN = 1 / 3  # of the seconds that a load of the other parts takes


def measure(folder: Path, upstreams: Upstreams, wrk: str, seconds: float) -> dict[str, float]:
    return run(_measure(folder / "pairs", upstreams, wrk, seconds))


async def _measure(folder: Path, upstreams: Upstreams, wrk: str, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    controller = Controller(table(upstreams, MIRROR))
    server = await asyncio.start_server(controller.serve, "127.0.0.1", 0, limit=1 << 26)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with ExitStack() as stack:
        found = await loop.run_in_executor(None, _compared, stack, folder, url, wrk, seconds)
        await loop.run_in_executor(None, stack.close)
    server.close()
    return found


def _compared(stack: ExitStack, folder: Path, url: str, wrk: str, seconds: float) -> dict[str, float]:
    serving = [_serving(stack, folder / module, url, module) for module in ("headgate_router", "bench.router.unpaired")]
    for _, port in serving:
        saturate(wrk, port, "/endpoints/e/score", 1, folder)  # warm
    costs: list[list[float]] = [[], []]
    for number in range(ROUNDS):
        for which in (0, 1) if number % 2 else (1, 0):
            pid, port = serving[which]
            used = cpu_s(pid)
            seen = saturate(wrk, port, "/endpoints/e/score", seconds * TURN, folder)
            costs[which].append((cpu_s(pid) - used) / max(1, seen.requests))
    shares = [paired / unpaired - 1 for paired, unpaired in zip(*costs, strict=True)]
    low, middle, high = statistics.quantiles(shares, n=4)
    return {"pair_sampling_cpu_share": round(middle, 4), "pair_sampling_cpu_share_spread": round(high - low, 4)}


def _serving(stack: ExitStack, folder: Path, url: str, module: str) -> tuple[int, int]:
    (folder / "data").mkdir(parents=True)
    (folder / "data/control.json").write_text(json.dumps({"url": url, "pid": 1}))
    (folder / "data/control.token").write_text("bench")
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", module, "--data", str(folder / "data"), "--port", str(port)]
    process = stack.enter_context(running(argv, port, ROUTER, folder / "log"))
    until(lambda: answers(port), f"{module} does not answer")
    return process.pid, port

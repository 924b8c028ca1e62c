"""Memory of one router worker: with few endpoints, with 10,000 in its table, with 10,000 idle connections."""

from __future__ import annotations

import asyncio
import resource
import sys
from dataclasses import replace
from pathlib import Path

from bench.router.load import run
from bench.router.peers import PEERS, Upstreams, table
from bench.router.places import ROUTER, answers, free_ports, memory_mb, running, until

from headgate import codec
from headgate.table import seal

MANY = 10_000


def measure(folder: Path, upstreams: Upstreams) -> dict[str, float]:
    found: dict[str, float] = {}
    with PEERS[0].serving(folder / "size", upstreams) as router:
        found["memory_mb"] = memory_mb(router.pid)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        idle = min(MANY, hard - 100)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MANY + 100), hard))
        found["memory_idle_mb"] = run(_idle(router.pid, router.port, idle))
        found["idle_connections"] = float(idle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found["memory_10k_endpoints_mb"] = _many(folder / "many", upstreams)
    return found


async def _idle(pid: int, port: int, count: int) -> float:
    loop = asyncio.get_running_loop()
    open_now: list[asyncio.Transport] = []
    for _ in range(count):
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        open_now.append(transport)
    await asyncio.sleep(1)
    used = memory_mb(pid)
    for transport in open_now:
        transport.close()
    await asyncio.sleep(0.1)
    return used


def _many(folder: Path, upstreams: Upstreams) -> float:
    one = table(upstreams)
    routes = {f"e{number}": replace(one.endpoints["e"], name=f"e{number}") for number in range(MANY)}
    tables = folder / "data/tables"
    tables.mkdir(parents=True, exist_ok=True)
    (tables / "router-0.json").write_bytes(codec.canonical(seal(replace(one, endpoints=routes))))
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "headgate_router", "--data", str(folder / "data"), "--port", str(port)]
    with running([*argv, "--dataplane", "builtin"], port, ROUTER, folder / "log") as process:
        until(lambda: answers(port), "the router with many endpoints does not answer")
        return memory_mb(process.pid)

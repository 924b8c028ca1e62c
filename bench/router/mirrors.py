"""What callers notice of a mirror's target that hangs, is slow, is dead or refuses: nothing, it is claimed.

For each ill target two routers, one that copies to it and one that copies nothing, asked in turn at 500 requests a
second: what else the machine does falls on both, so a turn is compared with the one beside it.
"""

from __future__ import annotations

import socket
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.router.load import Seen, paced, run
from bench.router.peers import Peer, Running, Upstreams, headgate
from bench.router.places import REST, free_ports, memory_mb, running

SHARE = 0.5  # of requests copied: as many as Azure allows
ILLS = ("well", "hung", "slow", "dead", "refusing", "closing")
PAIRS = 8
TURN = 1 / 4  # of the seconds that a load of the other parts takes


def measure(
    folder: Path, upstreams: Upstreams, upstream_argv: list[str], seconds: float
) -> dict[str, dict[str, float]]:
    found = {}
    for ill in ILLS:
        with ExitStack() as stack:
            port = stack.enter_context(_target(ill, folder, upstream_argv, upstreams.shadow))
            up = replace(upstreams, shadow=port)
            copies, alone = (
                stack.enter_context(Peer(f"mirror-{ill}-{share}", "", headgate("builtin", share)).serving(folder, up))
                for share in (SHARE, 0.0)
            )
            found[ill] = compared(copies, alone, seconds * TURN)
    return found


def compared(copies: Running, alone: Running, seconds: float) -> dict[str, float]:
    """Latencies of all turns, and the difference between the two of a pair: its median, and its middle half."""
    turns: dict[int, list[Seen]] = {copies.port: [], alone.port: []}
    for port in turns:
        run(paced(port, "/endpoints/e/score", seconds))  # warm
    before = memory_mb(copies.pid)
    for number in range(PAIRS):
        for port in turns if number % 2 else reversed(turns):
            turns[port].append(run(paced(port, "/endpoints/e/score", seconds)))
    grown = memory_mb(copies.pid) - before
    ill, none = turns[copies.port], turns[alone.port]
    low, middle, high = statistics.quantiles([a.p(0.99) - b.p(0.99) for a, b in zip(ill, none, strict=True)], n=4)
    return {
        "p50_ms": _all(ill).p(0.5),
        "p99_ms": _all(ill).p(0.99),
        "none_p50_ms": _all(none).p(0.5),
        "none_p99_ms": _all(none).p(0.99),
        "added_p99_ms": round(middle, 3),
        "added_p99_ms_spread": round(high - low, 3),
        "failed": float(_all(ill).failed),
        "grown_mb": round(grown, 1),
    }


def _all(turns: list[Seen]) -> Seen:
    return Seen(failed=sum(seen.failed for seen in turns), late_ms=[ms for seen in turns for ms in seen.late_ms])


@contextmanager
def _target(ill: str, folder: Path, upstream_argv: list[str], well: int) -> Iterator[int]:
    with ExitStack() as stack:
        (port,) = free_ports(1)
        if ill in ("hung", "slow", "closing"):
            stack.enter_context(running([*upstream_argv, str(port), ill], port, REST, folder / "log"))
        elif ill == "dead":  # its backlog is full: connects are not answered
            listening = stack.enter_context(socket.socket())
            listening.bind(("127.0.0.1", port))
            listening.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
        yield well if ill == "well" else port  # refusing: nobody listens on the port

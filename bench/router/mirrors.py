"""What callers notice of a mirror's target that hangs, is slow, is dead or refuses: nothing, it is claimed.

Each ill target in a router of its own, beside one with a well target and one without a mirror; 500 requests a second.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.router.load import paced, run
from bench.router.peers import Peer, Upstreams, headgate
from bench.router.places import REST, free_ports, memory_mb, running

SHARE = 0.5  # of requests copied: as many as Azure allows
ILLS = ("none", "well", "hung", "slow", "dead", "refusing", "closing")


def measure(
    folder: Path, upstreams: Upstreams, upstream_argv: list[str], seconds: float
) -> dict[str, dict[str, float]]:
    found = {}
    for ill in ILLS:
        with _target(ill, folder, upstream_argv, upstreams.shadow) as port:
            peer = Peer(f"mirror-{ill}", "", headgate("builtin", 0.0 if ill == "none" else SHARE))
            with peer.serving(folder, replace(upstreams, shadow=port)) as router:
                before = memory_mb(router.pid)
                seen = run(paced(router.port, "/endpoints/e/score", seconds))
                grown = round(memory_mb(router.pid) - before, 1)
                found[ill] = {
                    "p50_ms": seen.p(0.5), "p99_ms": seen.p(0.99), "failed": float(seen.failed), "grown_mb": grown,
                }  # fmt: skip
    return found


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
        yield well if ill in ("none", "well") else port  # refusing: nobody listens on the port

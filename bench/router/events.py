"""Event streams: what they cost a router, and what it adds to the delay of an event.

The delay of an event that comes straight from the model, read by the same load at the same rate in the turn before, is
the load's and the model's; only what is more than that is the router's.
"""

from __future__ import annotations

from bench.router.load import run, streams
from bench.router.peers import Running
from bench.router.places import cpu_s


def measure(router: Running, model: int) -> tuple[dict[str, float], int]:
    """Figures, and how many streams failed. `model`: its port."""
    direct = run(streams(model, "/events"))
    used = cpu_s(router.pid)
    seen = run(streams(router.port, "/endpoints/s/events"))
    used = cpu_s(router.pid) - used
    figures = {
        "events_cpu_s_per_10k": round(used / max(1, seen.requests) * 10_000, 4),
        "event_p50_ms": seen.p(0.5),
        "event_p99_ms": seen.p(0.99),
        "event_direct_p99_ms": direct.p(0.99),
        "event_added_p50_ms": round(seen.p(0.5) - direct.p(0.5), 3),
        "event_added_p99_ms": round(seen.p(0.99) - direct.p(0.99), 3),
    }
    return figures, seen.failed + direct.failed

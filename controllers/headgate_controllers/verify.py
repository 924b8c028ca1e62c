"""The proof that git, record, route table and counters agree, or where they do not. Compares; changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from headgate.traffic import WHOLE

SIGMAS = 5.0  # a share this far off is chance once in two million looks
ROUNDING = 10  # requests a split that is exact per period may be off, over all workers
PER_MILLE_SHOWN = 10.0


def drift(
    *,
    endpoint: str,
    asked: Mapping[str, int] | None,
    decided: Mapping[str, int],
    routed: Mapping[str, int],
    generation: int,
    acked: int,
    observed: Mapping[str, int],
) -> tuple[str, ...]:
    """One line for each pair that disagrees; empty: one truth from commit to counters.

    Args:
        asked: git's traffic, revision -> per-mille; None: not comparable now (a rollout runs, the commit is refused).
        decided: the record's traffic.
        routed: the published table's, without revisions that get none.
        generation: of the table in which this endpoint's route last changed; 0: it is in none.
        acked: the newest table every router worker serves; 0: there is none, or they were not given the time yet.
        observed: requests that the split sent to each revision since this route went live; empty: none, or unknown.
    """
    lines = []
    if asked is not None and not same(asked, decided):
        lines.append(f"git asks for {shown(asked)}, the record has {shown(decided)}")
    if not same(decided, routed):
        lines.append(f"the record has {shown(decided)}, the route table {shown(routed)}")
    if generation and acked and acked < generation:
        lines.append(f"the route is in generation {generation}, routers serve {acked}")
    lines += _miscounted(routed, observed)
    return tuple(f"{endpoint}: {line}" for line in lines)


def _miscounted(routed: Mapping[str, int], observed: Mapping[str, int]) -> list[str]:
    total = sum(observed.values())
    lines = []
    for revision in sorted({*routed, *observed} if total else ()):
        share, count = routed.get(revision, 0) / WHOLE, observed.get(revision, 0)
        if abs(count - total * share) > tolerance(total, share):
            lines.append(f"{revision} was sent {count:,} of {total:,} requests, the route says {share:.1%}")
    return lines


def tolerance(total: int, share: float) -> float:
    """Requests a count may be off by chance: the normal bound of a binomial, and what rounding adds.

    A revision that gets nothing may not be off at all.
    """
    return SIGMAS * math.sqrt(total * share * (1 - share)) + (ROUNDING if 0 < share < 1 else 0)


def same(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Equal shares; a revision with none of the traffic is as if it were not listed."""
    return {k: v for k, v in one.items() if v} == {k: v for k, v in other.items() if v}


def shown(traffic: Mapping[str, int]) -> str:
    parts = [f"{revision} {share / PER_MILLE_SHOWN:g} %" for revision, share in sorted(traffic.items()) if share]
    return ", ".join(parts) or "no traffic"

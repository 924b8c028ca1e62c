"""Shares of live traffic: vectors over revisions, in whole per-mille, that always add up to the whole.

A vector is a mapping revision -> per-mille that adds up to 1,000, or the empty mapping: drained.
Zero entries are dropped, so that equal traffic is equal data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

WHOLE = 1000

Vector = Mapping[str, int]
DRAINED: Vector = {}


def per_mille(weights: Mapping[str, float]) -> dict[str, int]:
    """Rounds weights to whole per-mille that add up to exactly 1,000.

    Args:
        weights: name -> share; finite, >= 0, any scale.
    Returns:
        name -> per-mille, 1 to 1,000, sorted by name; a share too small for 1 per-mille is dropped.
        Empty when every weight is zero (drained). Equal remainders go by name.
    Raises:
        ValueError: a weight is negative or not finite.
    Source: largest remainder method, as used for seats in parliaments.
    """
    bad = {name: weight for name, weight in weights.items() if not math.isfinite(weight) or weight < 0}
    if bad:
        raise ValueError(f"not a share of traffic: {bad}")
    total = sum(weights.values())
    if not total:
        return {}
    exact = {name: weight * WHOLE / total for name, weight in sorted(weights.items())}
    whole = {name: math.floor(share) for name, share in exact.items()}
    # The rounding guards a share like 332.99999999999994, which is 333 computed in floating point.
    by_remainder = sorted(exact, key=lambda name: (-round(exact[name] - whole[name], 9), name))
    for name in by_remainder[: WHOLE - sum(whole.values())]:
        whole[name] += 1
    return {name: share for name, share in whole.items() if share}


def between(start: Vector, end: Vector, percent: float) -> dict[str, int]:
    """The vector `percent` of the way from `start` to `end`: `start + a (end - start)`.

    From drained or to drained there is no way in between: any percent above 0 is the end.
    Raises:
        ValueError: percent is outside 0..100.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent {percent} is outside 0..100")
    if percent == 0:
        return dict(start)
    if not start or not end or percent == 100:
        return dict(end)
    share = percent / 100
    names = {*start, *end}
    return per_mille({n: start.get(n, 0) * (1 - share) + end.get(n, 0) * share for n in names})


def grown(start: Vector, end: Vector) -> tuple[str, ...]:
    """The revisions that have more traffic at the end than at the start, by name."""
    return tuple(sorted(name for name in end if end[name] > start.get(name, 0)))

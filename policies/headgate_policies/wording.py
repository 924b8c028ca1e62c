"""How gates put numbers into sentences: the same words for the same things, in every verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping

MANY = 1_000_000  # beyond this a forecast of requests says only "more than a million"


def percent(share: float) -> str:
    """A share of 1 as a person writes it: `0.5 %`, `12.3 %`, `0.042 %`."""
    value = share * 100
    if not math.isfinite(value):
        return "unknown"
    digits = 0 if value in (0, 100) else max(1, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 10 else 1
    return f"{value:,.{min(digits, 6)}f}".rstrip("0").rstrip(".") + " %" if digits else f"{value:.0f} %"


def part(count: int, total: int) -> str:
    """`12 of 1,500 (0.8 %)`."""
    return f"{count:,} of {total:,} ({percent(count / total)})" if total else "0 of 0"


def milliseconds(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def classes(counts: Mapping[str, int]) -> str:
    """`12 model_error, 1 timeout`, the most frequent first."""
    found = sorted(((n, name) for name, n in counts.items() if n), key=lambda item: (-item[0], item[1]))
    return ", ".join(f"{n:,} {name}" for n, name in found)


def more(count: int | None, what: str = "candidate requests") -> str:
    """What is still missing; None: what was seen so far lies too near the limit to say."""
    if count is None:
        return f"more {what}: what was seen lies too near what is tolerated to say how many"
    if count > MANY:
        return f"more than a million more {what}: what was seen lies very near what is tolerated"
    return f"about {rounded(count):,} more {what}"


def duration(seconds: float) -> str:
    """`40 s`, `11 min`, `3 h`: one unit, rounded up."""
    if seconds > 86_400:
        return "more than a day"
    for unit, size in (("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{math.ceil(seconds / size)} {unit}"
    return f"{math.ceil(seconds)} s"


def rounded(count: int) -> int:
    """Two digits: a forecast that pretends to more would be a lie."""
    scale = int(10 ** max(0, len(str(count)) - 2))
    return math.ceil(count / scale) * scale

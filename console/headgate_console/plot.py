"""Evidence over looks as a small plot of text. Pure.

Evidence is drawn as a share of what decides, so that every gate has the same scale: at the top line it has decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headgate.control import Point
from headgate.evidence import Result

HEIGHT = 8  # lines between nothing and enough
WORSE, FINE, BOTH = "x", "o", "*"
STRIP = {Result.PASS: "P", Result.FAIL: "F", Result.INCONCLUSIVE: ".", Result.ERROR: "E"}


def evidence(course: Sequence[Point]) -> list[str]:
    """Lines: the plot, where the gate says what it found and what it needs, and what it said at each point."""
    if not course:
        return []
    against = [share(point.figures, "worse", max) for point in course]
    fine = [share(point.figures, "fine", min) for point in course]
    lines = []
    if any(value is not None for value in (*against, *fine)):
        lines += ["evidence, in % of what decides", *grid(against, fine)]
        lines.append(f"      {WORSE} against the candidate: fails at 100    {FINE} for it: may pass at 100")
    strip = "".join(STRIP.get(Result(point.result), "?") for point in course)
    lines.append(
        f"said |{strip}|  P pass, F fail, . inconclusive, E error; looks {course[0].looks} to {course[-1].looks}"
    )
    return lines


def share(figures: Mapping[str, float], side: str, combined: object) -> float | None:
    """Evidence of one side against what is needed, 0 to 1, over the tests of a gate. None: the gate says none.

    One test is enough to fail (`max`), all are needed to pass (`min`).
    """
    found = []
    for name, value in figures.items():
        needed = figures.get(f"needed_{side}_{name.removeprefix(f'evidence_{side}_')}")
        if name.startswith(f"evidence_{side}_") and needed:
            found.append(min(1.0, max(0.0, value / needed)))
    if not found:
        return None
    return max(found) if combined is max else min(found)


def grid(against: Sequence[float | None], fine: Sequence[float | None]) -> list[str]:
    cells = [[" "] * len(against) for _ in range(HEIGHT + 1)]
    for column, (worse, good) in enumerate(zip(against, fine, strict=True)):
        for value, mark in ((good, FINE), (worse, WORSE)):
            if value is not None:
                row = HEIGHT - round(value * HEIGHT)
                cells[row][column] = mark if cells[row][column] == " " else BOTH
    labels = {0: " 100", HEIGHT // 2: "  50", HEIGHT: "   0"}
    return [f"{labels.get(row, '    ')} |{''.join(line)}|" for row, line in enumerate(cells)]

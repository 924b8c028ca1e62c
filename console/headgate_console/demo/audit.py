"""What the caller's log proves: pure questions over answered requests, the splits that were published, and the phases.

An answer is allowed when it is right for the revision it names and that revision had live traffic in the generation of
the route it names. Nothing else is: not "nearly", not "a moment ago".
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headgate_console.demo.caller import Answered

SHOWN = 5  # examples of each kind of trouble


@dataclass(frozen=True, slots=True)
class Split:
    """One route that was published."""

    generation: int
    at: float
    revisions: Mapping[str, int]  # -> per-mille


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the story; a route belongs to the phase in which it was published."""

    label: str
    started: float


@dataclass(frozen=True, slots=True)
class Share:
    phase: str
    requests: int
    asked: Mapping[str, tuple[int, ...]]  # revision -> each per-mille asked for in this phase, in order
    observed: Mapping[str, int]  # revision -> requests


@dataclass(frozen=True, slots=True)
class Audit:
    requests: int
    seconds: float
    failures: int  # requests that got anything but 200
    strangers: int  # answers that match no revision then allowed
    p50_ms: float
    p99_ms: float
    longest_ms: float
    shares: tuple[Share, ...]
    examples: tuple[str, ...] = ()
    statuses: Mapping[int, int] = field(default_factory=dict)


def audit(lines: Sequence[Answered], splits: Sequence[Split], phases: Sequence[Phase]) -> Audit:
    """Judges every answer. No line is left out."""
    routes = {split.generation: split for split in splits}
    failed = [line for line in lines if line.status != 200]
    strange = [line for line in lines if line.status == 200 and why_not(line, routes)]
    late = sorted(line.late_ms for line in lines)
    examples = [f"{line.status} after {line.late_ms:.0f} ms: {line.note}" for line in failed[:SHOWN]]
    examples += [why_not(line, routes) for line in strange[:SHOWN]]
    return Audit(
        requests=len(lines),
        seconds=round(max(x.sent for x in lines) - min(x.sent for x in lines), 3) if lines else 0.0,
        failures=len(failed),
        strangers=len(strange),
        p50_ms=quantile(late, 0.5),
        p99_ms=quantile(late, 0.99),
        longest_ms=late[-1] if late else 0.0,
        shares=tuple(_shares(lines, routes, phases)),
        examples=tuple(examples),
        statuses=dict(Counter(line.status for line in lines)),
    )


def why_not(line: Answered, routes: Mapping[int, Split]) -> str:
    """Why an answer is not one that was allowed; empty: it is."""
    who = f"request {line.request} answered by {line.revision[:12] or 'nobody'} in generation {line.generation}"
    if line.right is None:
        return f"{who}: nobody knows what that revision must answer"
    if not line.right:
        return f"{who}: not what that revision predicts"
    split = routes.get(line.generation)
    if split is None:
        return f"{who}: that route was never published"
    if split.revisions.get(line.revision, 0) <= 0:
        return f"{who}: it had no live traffic there"
    return ""


def _shares(lines: Sequence[Answered], routes: Mapping[int, Split], phases: Sequence[Phase]) -> list[Share]:
    ordered = sorted(phases, key=lambda phase: phase.started)
    starts = [phase.started for phase in ordered]

    def label(at: float) -> str:
        index = bisect_right(starts, at) - 1
        return ordered[index].label if index >= 0 else "before"

    counted: dict[str, Counter[str]] = {phase.label: Counter() for phase in ordered}
    asked: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    labels = {split.generation: label(split.at) for split in routes.values()}
    for split in sorted(routes.values(), key=lambda split: split.generation):
        for revision, per_mille in split.revisions.items():
            known = asked[labels[split.generation]][revision]
            if per_mille and per_mille not in known:
                known.append(per_mille)
    for line in lines:
        if line.status == 200:
            counted.setdefault(labels.get(line.generation, "before"), Counter())[line.revision] += 1
    return [
        Share(name, seen.total(), {r: tuple(p) for r, p in asked[name].items() if p}, dict(seen))
        for name, seen in counted.items()
        if seen
    ]


def quantile(ordered: Sequence[float], q: float) -> float:
    """Of values in ascending order; 0 without any."""
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


def last_answered_by(lines: Sequence[Answered], revision: str) -> tuple[float, float]:
    """When the last request that this revision answered was sent, and when the last such answer was here.

    A router read it in between, so the second is the careful figure.
    """
    its = [line for line in lines if line.revision == revision]
    return (max(x.sent for x in its), max(x.answered for x in its)) if its else (0.0, 0.0)

"""A verdict said again from its evidence, and how it came about. Pure, and the same code that judges live.

A `Trace` is everything the verdicts of one op depend on: looks, process, the op's place in the rollout. It does not
know where it came from: the record, a file, a simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headgate.codec import canonical, decode
from headgate.control import Point
from headgate.evidence import Look, Verdict
from headgate.process import Process
from headgate_policies.judge import Analysis

POINTS = 60  # of a course: what fits a line of a terminal


@dataclass(frozen=True, slots=True)
class Trace:
    process: Process
    phase: str  # the op's name, e.g. step-5
    kind: str  # mirror | step | bake
    phases_total: int  # judged phases of the whole rollout: false_abort is shared among them
    looks: tuple[Look, ...] = ()

    def first(self, looks: int) -> Trace:
        return replace(self, looks=self.looks[:looks])

    def analysis(self, gates: Mapping[str, Any], only: str | None = None) -> Analysis:
        return Analysis(
            self.process, phase=self.phase, kind=self.kind, gates=gates, phases_total=self.phases_total, only=only
        )


def again(trace: Trace, recorded: Verdict, gates: Mapping[str, Any]) -> Verdict | None:
    """The verdict of the same gate over as many looks. None: the gate does not judge in this phase."""
    heard = trace.analysis(gates, recorded.gate).hear(trace.looks[: recorded.looks])
    return next((verdict for verdict in heard.verdicts() if verdict.gate == recorded.gate), None)


def course(trace: Trace, gates: Mapping[str, Any], points: int = POINTS) -> Iterator[tuple[int, tuple[Verdict, ...]]]:
    """What all gates of a trace say as looks come in: (looks so far, verdicts), at most `points` times."""
    analysis, heard = trace.analysis(gates), 0
    for until in _stops(len(trace.looks), points):
        analysis.hear(trace.looks[heard:until])
        heard = until
        yield until, analysis.verdicts()


def course_of(trace: Trace, gate: str, gates: Mapping[str, Any], points: int = POINTS) -> tuple[Point, ...]:
    """One gate's figures as looks come in."""
    analysis, heard = trace.analysis(gates, gate), 0
    found = []
    for until in _stops(len(trace.looks), points):
        analysis.hear(trace.looks[heard:until])
        heard = until
        found += [
            Point(until, trace.looks[until - 1].at, str(verdict.result), verdict.figures)
            for verdict in analysis.verdicts()
        ]
    return tuple(found)


def differences(recorded: Verdict, recomputed: Verdict) -> tuple[str, ...]:
    """Every field in which two verdicts are not the same, by path."""
    before, after = dict(_flat("", _plain(recorded))), dict(_flat("", _plain(recomputed)))
    return tuple(
        f"{path}: {_said(before.get(path))} was recorded, now {_said(after.get(path))}"
        for path in sorted({*before, *after})
        if path not in before or path not in after or before[path] != after[path]
    )


def _plain(verdict: Verdict) -> Any:
    """As the record holds it: a list is a list, whatever it was made of."""
    return decode(dict, canonical(verdict))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list | tuple) and value:
        for index, item in enumerate(value):
            yield from _flat(f"{path}[{index}]", item)
    else:
        yield path, value


def _said(value: Any) -> str:
    return "nothing" if value is None or value in ("", [], {}) else str(value)


def _stops(looks: int, points: int) -> Iterator[int]:
    """Evenly spread counts of looks; the last one is all of them."""
    every = max(1, math.ceil(looks / points))
    yield from range(every, looks, every)
    if looks:
        yield looks

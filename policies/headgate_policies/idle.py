"""Gates that a rollout names and never asks: a warning, because whoever wrote them counts on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headgate.findings import Finding, Severity, in_order
from headgate.gateblocks import place_of
from headgate.params import parse
from headgate.ports import Tree
from headgate.process import Process
from headgate.reading import Reading
from headgate_policies.judge import resolve


def kinds(process: Process) -> tuple[str, ...]:
    """The kinds of phase in which a rollout by this process is judged."""
    mirror = ("mirror",) if process.mirror.percent > 0 else ()
    return (*mirror, *(("step",) if any(step < 100 for step in process.steps) else ()), "bake")


def idle(process: Process, gates: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each gate that judges in none of them, with the phases it would judge in."""
    there = kinds(process)
    for name, data in sorted(process.gates.items()):
        resolved = resolve(name, gates)
        params = parse(resolved[0].params, {**resolved[1], **data})[0] if resolved else None
        if resolved is not None and params is not None:
            wanted = tuple(dict.fromkeys(phase for need in resolved[0].needs(params) for phase in need.phases))
            if not set(wanted) & set(there):
                yield name, wanted


def check(reading: Reading, tree: Tree, gates: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Warnings, for the gates that somebody wrote down; those of the built-in default are nobody's word.

    Args:
        gates: the gates there are, by entry point.
    """
    if reading.target is None:
        return ()
    found = []
    for name, wanted in idle(reading.target.process, gates):
        place = place_of(sorted(reading.files), tree, name)
        if place.line:
            message = f"gate `{name}` is never asked: this rollout has no phase {' or '.join(wanted)}"
            why, fix = "it would stop nothing", "give the rollout that phase, or take the gate out"
            found.append(Finding("gate-idle", message, why, fix, place, Severity.WARNING))
    return in_order(found)

"""Gates that a rollout names and never asks: a warning, because whoever wrote them counts on them. And gates that a
swap would ask in vain: an error, because it could only end by `max_soak`, with callers unanswered on both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headgate.findings import Finding, Place, Severity, in_order
from headgate.gateblocks import SETTINGS, place_of, place_of_key
from headgate.params import parse
from headgate.ports import Tree
from headgate.process import Process
from headgate.reading import Reading, read_settings
from headgate.surge import SWAP
from headgate_policies.judge import resolve

LIMITS = ("max_rate", "max_ms")  # parameters that need nothing to compare with
ENVOY = "envoy"  # the data path that keeps no answers and times no events
NO_TUNNELS = "asgi"  # the data path that refuses every WebSocket
NOT_OF_ENVOY = ("pairs", "echo", "events")  # kinds of needs


def kinds(process: Process) -> tuple[str, ...]:
    """The kinds of phase in which a rollout by this process is judged."""
    if process.capacity == SWAP:
        return ("bake",)
    mirror = ("mirror",) if process.mirror.percent > 0 else ()
    return (*mirror, *(("step",) if any(step < 100 for step in process.steps) else ()), "bake")


def idle(process: Process, gates: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each gate that judges in none of them, with the phases it would judge in."""
    there = kinds(process)
    for name, gate, params in _readable(process, gates):
        wanted = tuple(dict.fromkeys(phase for need in gate.needs(params) for phase in need.phases))
        if not set(wanted) & set(there):
            yield name, wanted


def blind(process: Process, gates: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each gate that has nothing to hold a swapped candidate against, with the parameter that would do."""
    for name, _, params in _readable(process, gates) if process.capacity == SWAP else ():
        limit = next((field for field in LIMITS if hasattr(params, field)), None)
        if limit is not None and getattr(params, limit) is None:
            yield name, limit


def starved(process: Process, gates: Mapping[str, Any]) -> Iterator[str]:
    """Each gate that could only hold its step until `max_soak`, for Envoy gives it nothing to judge."""
    for name, gate, params in _readable(process, gates):
        if any(need.kind in NOT_OF_ENVOY for need in gate.needs(params)):
            yield name


def _readable(process: Process, gates: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, gate and parameters of those that are known and read well; the others have findings of their own."""
    for name, data in sorted(process.gates.items()):
        resolved = resolve(name, gates)
        params = parse(resolved[0].params, {**resolved[1], **data})[0] if resolved else None
        if resolved is not None and params is not None:
            yield name, resolved[0], params


def check(reading: Reading, tree: Tree, gates: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Warnings, for the gates that somebody wrote down; those of the built-in default are nobody's word.

    Args:
        gates: the gates there are, by entry point.
    """
    if reading.target is None:
        return ()
    found = [_blind(reading, tree, name, limit) for name, limit in blind(reading.target.process, gates)]
    for name, wanted in idle(reading.target.process, gates):
        place = place_of(sorted(reading.files), tree, name)
        if place.line:
            message = f"gate `{name}` is never asked: this rollout has no phase {' or '.join(wanted)}"
            why, fix = "it would stop nothing", "give the rollout that phase, or take the gate out"
            found.append(Finding("gate-idle", message, why, fix, place, Severity.WARNING))
    dataplane = _dataplane(tree)
    if dataplane == NO_TUNNELS and reading.target.process.websocket:
        found.append(_untunnelled(dataplane, place_of_key(sorted(reading.files), tree, "websocket")))
    if dataplane == ENVOY:
        found += [_starved(reading, tree, name) for name in starved(reading.target.process, gates)]
    return in_order(found)


def _dataplane(tree: Tree) -> str:
    """As headgate.yml says; one that cannot be read has its own findings."""
    return read_settings(tree)[0].dataplane if tree.object_id(SETTINGS) is not None else ""


def _untunnelled(dataplane: str, place: Place) -> Finding:
    return Finding(
        "dataplane-lacks",
        f"`websocket` has no effect with `dataplane: {dataplane}`: every WebSocket is refused",
        "only `builtin` and `envoy` tunnel them",
        "start the routers with `--dataplane builtin` or `envoy`, or leave `websocket` out",
        place,
        Severity.WARNING,
    )


def _starved(reading: Reading, tree: Tree, name: str) -> Finding:
    return Finding(
        "dataplane-lacks",
        f"gate `{name}` gets nothing to judge from routers with `dataplane: envoy`",
        "they keep no answers and time no events: the gate would hold its step until `max_soak`, then fail",
        "name the `gates:` without it, or start the routers with `--dataplane builtin`",
        place_of(sorted(reading.files), tree, name),
        Severity.WARNING,
    )


def _blind(reading: Reading, tree: Tree, name: str, limit: str) -> Finding:
    return Finding(
        "swap-blind",
        f"gate `{name}` has nothing to compare with when `capacity` is `swap`",
        "what serves ends before the candidate is asked anything, so only an absolute limit can be judged",
        f"give it `{limit}`",
        place_of(sorted(reading.files), tree, name),
    )

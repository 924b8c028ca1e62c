"""Entry point to adapter. A plugin that is broken, incomplete, too old or doubled is a finding, never a crash.

Our own adapters come in by the same door as foreign ones: one line in pyproject.toml, group `headgate.<port>`.
An adapter is what the entry point names, as it is; nothing is instantiated here. It may say which version of its port
it was written for (`port_version`, an integer; 1 when it says nothing).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headgate import ports
from headgate.findings import Finding, Place

OURS = "headgate"  # our own distribution: its adapters win over foreign ones of the same name
PORT_VERSIONS = {"headgate.gate": (1, 1)}  # group -> oldest and newest version of the port we can drive
PORTS: Mapping[str, type] = {"headgate.gate": ports.Gate}  # group -> what an adapter must have


@dataclass(frozen=True, slots=True)
class Loaded:
    adapters: Mapping[str, Any]  # by the entry point's name
    findings: tuple[Finding, ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict)  # entry point's name -> distribution; empty: unnamed


def load(group: str, points: Iterable[EntryPoint] | None = None) -> Loaded:
    """Loads every adapter of a group.

    Args:
        points: the entry points; None: those of all installed distributions.
    Returns:
        What could be loaded, and a finding for each that could not.
    """
    adapters: dict[str, Any] = {}
    findings: list[Finding] = []
    owners: dict[str, str] = {}
    for point in sorted(entry_points(group=group) if points is None else points, key=_rank):
        if point.name in adapters:
            findings.append(_doubled(point))
            continue
        adapter, finding = _load(point)
        if finding is None:
            adapters[point.name] = adapter
            owners[point.name] = _distribution(point)
        else:
            findings.append(finding)
    return Loaded(adapters, tuple(findings), owners)


def _rank(point: EntryPoint) -> tuple[bool, str, str]:
    return _distribution(point) != OURS, _distribution(point), point.name


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else ""


def _load(point: EntryPoint) -> tuple[Any, Finding | None]:
    try:
        adapter = point.load()
    except Exception as error:  # noqa: BLE001  whatever a foreign module raises while it is imported
        return None, _finding(
            point,
            "plugin-broken",
            f"`{point.value}` cannot be loaded: {type(error).__name__}: {error}",
            "importing it failed, so nothing it offers is there",
            "reinstall or remove the distribution",
        )
    return adapter, _too_old(point, adapter) or _incomplete(point, adapter)


def _too_old(point: EntryPoint, adapter: Any) -> Finding | None:
    oldest, newest = PORT_VERSIONS.get(point.group, (1, 1))
    version = getattr(adapter, "port_version", 1)
    if isinstance(version, int) and oldest <= version <= newest:
        return None
    old = isinstance(version, int) and version < oldest
    return _finding(
        point,
        "plugin-too-old" if old else "plugin-too-new",
        f"`{point.name}` was written for version {version} of {point.group}; this is {newest}",
        f"it would be called in a way it does not know; versions {oldest} to {newest} are",
        "install a newer release of it" if old else "upgrade headgate, or install an older release of it",
    )


def _incomplete(point: EntryPoint, adapter: Any) -> Finding | None:
    port = PORTS.get(point.group)
    missing = [name for name in _members(port) if not hasattr(adapter, name)] if port else []
    if not missing:
        return None
    return _finding(
        point,
        "plugin-incomplete",
        f"`{point.name}` lacks {', '.join(missing)}",
        f"every adapter of {point.group} needs them: headgate.ports.{port.__name__ if port else ''}",
        "add them, or point the entry point at an instance that has them",
    )


def _members(port: type) -> list[str]:
    names = {*vars(port), *vars(port).get("__annotations__", {})}
    return sorted(name for name in names if not name.startswith("_"))


def _doubled(point: EntryPoint) -> Finding:
    return _finding(
        point,
        "plugin-doubled",
        f"`{point.name}` is offered twice; this one is not used",
        "which of two adapters runs must not depend on what was installed last",
        "remove one of the distributions, or rename its entry point",
    )


def _finding(point: EntryPoint, code: str, message: str, why: str, fix: str) -> Finding:
    place = Place(f"entry point {point.group}:{point.name} of {_distribution(point) or 'an unnamed distribution'}")
    return Finding(code, message, why, fix, place)

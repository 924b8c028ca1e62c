"""A gate's block in rollout.yml: the files it names, what its gate says of it, and where in the text that is.

A parameter written `{file: PATH}` is the document (YAML or JSON) of that file, relative to rollout.yml; in
headgate.yml, to the repository's root. Refuses what any path refuses: to leave the repository, to follow a link.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headgate import params
from headgate.check import closest
from headgate.findings import Finding, Place, SpecError, in_order
from headgate.paths import Paths, Spot, read_text
from headgate.ports import Tree
from headgate.process import Process
from headgate.yamltext import Document, parse

SETTINGS = "headgate.yml"


def with_files(process: Process, paths: Paths, base: str, document: Document | None) -> tuple[Process, list[Finding]]:
    """The process with every `{file: PATH}` of a gate replaced by what is in that file.

    Args:
        base: the folder paths are relative to.
        document: rollout.yml when the gates are written there; None: they are headgate.yml's.
    """
    found: list[Finding] = []
    gates: dict[str, Mapping[str, Any]] = {}
    for name, block in process.gates.items():
        gates[name] = dict(block)
        for key, value in block.items():
            if isinstance(value, dict) and set(value) == {"file"} and isinstance(value["file"], str):
                spot = _spot(paths.tree, document, name, key)
                try:
                    gates[name] = {**gates[name], key: _file(paths, value["file"], base, spot)}
                except SpecError as error:
                    found += error.findings
    return replace(process, gates=gates), found


def _spot(tree: Tree, document: Document | None, name: str, key: str) -> Spot:
    if document is not None:
        return Spot(document, ("gates", name, key))
    data = read_text(tree, SETTINGS)
    settings = parse(data, SETTINGS).document if isinstance(data, bytes) else None
    return Spot(settings or Document(SETTINGS, None, b"{}"), ("rollout", "gates", name, key))


def _file(paths: Paths, written: str, base: str, spot: Spot) -> Any:
    path = paths.resolve(written, base, spot, "file").path
    data = read_text(paths.tree, path)
    if isinstance(data, Finding):
        raise SpecError(data)
    parsed = parse(data, path)
    if parsed.document is None:
        raise SpecError(*parsed.findings)
    return parsed.document.value


def check(process: Process, files: Sequence[str], tree: Tree, known: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The gates a process names, against those installed: their names and parameters.

    Args:
        files: every path the endpoint depends on.
        known: gate name -> the dataclass of its parameters.
    """
    found = []
    for name, asked in process.gates.items():
        resolved = params.resolve_name(name, known)
        if resolved is None:
            near = closest(name, known)
            fix = f"did you mean `{near}`?" if near else f"use one of {', '.join(sorted(known))}, or install it"
            place = place_of(files, tree, name)
            found.append(Finding("gate-unknown", f"there is no gate `{name}`", "no plugin has it", fix, place))
            continue
        gate, implied = resolved
        value, faults = params.parse(known[gate], {**implied, **asked})
        if value is not None:
            faults = (*getattr(value, "faults", tuple)(), *_unknown_sources(value, tree))
        for fault in faults:
            place = place_of(files, tree, name, fault.key, fault.line, fault.column)
            why = f"parameters of the gate `{gate}`"
            fix = fault.fix or "correct or delete it"
            found.append(Finding(fault.code, f"gate `{name}`: {fault.message}", why, fix, place))
    return in_order(found)


def _unknown_sources(value: Any, tree: Tree) -> list[params.Fault]:
    named = params.sources(value)
    if not named:
        return []
    data = read_text(tree, SETTINGS) if tree.object_id(SETTINGS) is not None else b"{}"
    document = parse(data, SETTINGS).document if isinstance(data, bytes) else None
    known = (document.value.get("metrics") or {}) if document and isinstance(document.value, dict) else {}
    return [
        params.Fault(
            key,
            f"headgate.yml has no metric source `{name}`",
            fix=f"add it below `metrics:`, or use one of {', '.join(sorted(known))}"
            if known
            else "add it below `metrics:`",
            code="metric-source",
        )
        for key, name in named.items()
        if name not in known
    ]


def place_of(files: Sequence[str], tree: Tree, name: str, key: str = "", line: int = 0, column: int = 0) -> Place:
    """Where a gate, or one of its parameters, is written: in rollout.yml, else in headgate.yml.

    Args:
        line: of the parameter's text, from 1, and `column` in it: the place inside; 0: the place of its key.
    """
    for document, under, block in _blocks(files, tree):
        gates: Any = block.get("gates") or {}
        if name in gates:
            here = (*under, "gates", name)
            if key and isinstance(gates[name], dict) and key in gates[name]:
                here = (*here, key)
                gates = gates[name]
            value = gates[here[-1]]
            if line and isinstance(value, str):
                return inside(document, here, value, line, column)
            return document.key_place(here)
    return Place(SETTINGS)


def place_of_key(files: Sequence[str], tree: Tree, key: str) -> Place:
    """The same of a key beside `gates`."""
    for document, under, block in _blocks(files, tree):
        if key in block:
            return document.key_place((*under, key))
    return Place(SETTINGS)


def _blocks(files: Sequence[str], tree: Tree) -> Iterator[tuple[Document, tuple[str, ...], Any]]:
    """What says how a rollout goes, with where that is in its file: rollout.yml, then `rollout:` of headgate.yml."""
    for path in sorted(files, key=lambda p: p == SETTINGS):
        if path != SETTINGS and not path.rsplit("/", 1)[-1].startswith("rollout."):
            continue
        data = read_text(tree, path)
        document = parse(data, path).document if isinstance(data, bytes) else None
        if document is not None:
            under = ("rollout",) if path == SETTINGS else ()
            yield document, under, (document.value.get("rollout") or {}) if under else document.value


def inside(document: Document, path: tuple[str | int, ...], text: str, line: int, column: int) -> Place:
    """A place inside a text, in the file. Where its line is not written as it is (escapes, folds): the text's start."""
    start = document.place(path)
    lines = document.data.decode(errors="replace").splitlines()
    wanted = (text.splitlines() or [""])[min(line, len(text.splitlines()) or 1) - 1]
    for number in range(start.line, min(len(lines), start.line + 200) + 1):
        first = start.column - 1 if number == start.line else 0
        found = lines[number - 1].find(wanted, first)
        if wanted and found >= 0:
            return Place(start.file, number, found + column)
    return start

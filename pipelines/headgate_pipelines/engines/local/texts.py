"""`{{references}}` in the texts of a workflow: replaced where the value is known, kept as a `Ref` where it is not yet.

Expression tags (`{{=...}}`) and everything that only a cluster knows mean nothing here, and are told so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headgate_pipelines.engines.local.spec import Ref, Source, Text

TAG = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
INPUT = "inputs.parameters."
OUTPUT = re.compile(r"(tasks|steps)\.([\w-]+)\.outputs\.parameters\.([\w.-]+)")
EXIT = {"workflow.status": Source.STATUS, "workflow.failures": Source.FAILURES}


@dataclass
class Scope:
    """What references mean inside one template."""

    where: str
    inputs: dict[str, Text] = field(default_factory=dict)
    outputs: dict[str, dict[str, Text]] = field(default_factory=dict)  # sibling -> its output parameters
    before: frozenset[str] = frozenset()  # siblings that have ended when it is read
    kind: str = ""  # tasks | steps
    exiting: bool = False


def read_text(value: str, scope: Scope, known: Mapping[str, str]) -> tuple[Text, list[str]]:
    """The value as a text, and the references in it that mean nothing.

    Args:
        known: references that mean the same everywhere, e.g. `workflow.name`.
    """
    parts: list[str | Ref] = []
    unknown: list[str] = []
    at = 0
    for tag in TAG.finditer(value):
        name = tag.group(1).strip()
        found = _reference(name, scope, known)
        if found is None:
            unknown.append(name)
        parts += [value[at : tag.start()], *(found or ())]
        at = tag.end()
    return _joined([*parts, value[at:]]), unknown


def _reference(name: str, scope: Scope, known: Mapping[str, str]) -> Text | None:
    if name in known:
        return (known[name],)
    if name.startswith(INPUT):
        return scope.inputs.get(name.removeprefix(INPUT))
    if name in EXIT:
        return (Ref(EXIT[name]),) if scope.exiting else None
    output = OUTPUT.fullmatch(name)
    if output and output[1] == scope.kind and output[2] in scope.before:
        return scope.outputs.get(output[2], {}).get(output[3])
    return None


def _joined(parts: Sequence[str | Ref]) -> Text:
    """Neighbouring strings as one; no empty ones."""
    found: list[str | Ref] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        elif part != "":
            found.append(part)
    return tuple(found)

"""Blanks parts of a JSON answer by path, before a copy of it leaves the router.

Paths: `$.a.b[0].c`, `$.a[*].c`; no filters, no recursion. A body that is not JSON, while something is to be blanked,
is not passed on at all: what cannot be found cannot be blanked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

BLANK = "(redacted)"
_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\*|\d{1,9})\]|\['([^']{1,200})'\]")

Step = str | int | None  # a key, an index, or None: every element
Path = tuple[Step, ...]


def path(text: str) -> Path:
    """Raises ValueError: not a path."""
    rest = text.removeprefix("$")
    steps: list[Step] = []
    position = 0
    if rest and rest[0] not in ".[":
        rest = "." + rest
    while position < len(rest):
        step = _STEP.match(rest, position)
        if step is None:
            raise ValueError(f"not a JSON path: {text!r}")
        key, index, quoted = step.groups()
        steps.append((None if index == "*" else int(index)) if index else (key or quoted))
        position = step.end()
    return tuple(steps)


def blank(body: str, paths: Sequence[Path]) -> str | None:
    """The body with what the paths name replaced; None: it cannot be told what is where."""
    if not paths:
        return body
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for steps in paths:
        value = _without(value, steps)
    return json.dumps(value)


def _without(value: Any, steps: Path) -> Any:
    if not steps:
        return BLANK
    step, rest = steps[0], steps[1:]
    if isinstance(value, list):
        return [_without(item, rest) if step is None or step == i else item for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _without(item, rest) if step is None or step == key else item for key, item in value.items()}
    return value

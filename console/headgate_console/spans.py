"""Sets one mapping of names to whole numbers in a YAML text by replacing spans: every other byte stays as it is.

Refuses (ValueError) what it cannot edit so that the result reads as asked: the result is parsed and compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Values = Mapping[str, int]


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    text: str


def with_map(text: str, key: str, value: Values) -> str:
    """The text with `key` set to `value`; an empty value removes the key.

    Raises: ValueError, when the document is written in a way that this cannot edit.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise ValueError("the document is no block mapping")
    expected = {**yaml.safe_load(text), key: dict(value)}
    if not value:
        del expected[key]
    result = apply(text, spans(text, root, key, value))
    if yaml.safe_load(result) != expected:
        raise ValueError(f"{key} is written in a way that cannot be edited, e.g. with anchors")
    return result


def spans(text: str, root: Any, key: str, value: Values) -> list[Span]:
    pair = next(((k, v) for k, v in root.value if k.value == key), None)
    if pair is None:
        return appended(text, key, value)
    name, node = pair
    if not value:
        return [Span(line_start(text, name.start_mark.index), line_end(text, last_index(text, name, node)), "")]
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return entries(text, node, value)
    written = "{" + ", ".join(f"{n}: {v}" for n, v in value.items()) + "}"
    return [Span(name.end_mark.index + 1, node.end_mark.index, " " + written)]


def appended(text: str, key: str, value: Values) -> list[Span]:
    if not value:
        return []
    gap = "" if not text or text.endswith("\n") else "\n"
    lines = "".join(f"  {name}: {share}\n" for name, share in value.items())
    return [Span(len(text), len(text), f"{gap}{key}:\n{lines}")]


def entries(text: str, node: Any, value: Values) -> list[Span]:
    """Changed numbers in place, entries no longer asked for with their line, new ones after the last line."""
    there = {k.value: (k, v) for k, v in node.value}
    found = []
    for name, (k, v) in there.items():
        if name not in value:
            found.append(Span(line_start(text, k.start_mark.index), line_end(text, v.end_mark.index), ""))
        elif str(v.value) != str(value[name]):
            found.append(Span(v.start_mark.index, v.end_mark.index, str(value[name])))
    last_key, last_value = node.value[-1]
    at = line_end(text, last_value.end_mark.index)
    indent = " " * int(last_key.start_mark.column)
    fresh = "".join(f"{indent}{name}: {share}\n" for name, share in value.items() if name not in there)
    gap = "\n" if fresh and not text[:at].endswith("\n") else ""
    return [*found, Span(at, at, gap + fresh)] if fresh else found


def apply(text: str, edits: list[Span]) -> str:
    """From the back, so that earlier positions stay true; of two at one place the insertion comes first."""
    for span in sorted(edits, key=lambda s: (s.start, s.end), reverse=True):
        text = text[: span.start] + span.text + text[span.end :]
    return text


def last_index(text: str, key: Any, node: Any) -> int:
    """The last character of a value; a block mapping's own end mark lies behind the blank lines that follow it."""
    while isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        key, node = node.value[-1]
    return int(max(key.end_mark.index, node.end_mark.index))


def line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def line_end(text: str, index: int) -> int:
    """Behind the line break of the line that holds this position."""
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1

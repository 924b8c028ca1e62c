"""Two answers to the same request: how they differ, by JSON path. Deterministic, and bounded whatever is sent.

Numbers are compared with tolerances when they are declared; without, only shape, types, emptiness and NaN are: a
better model answers differently, so equal values cannot be asked of it. Arrays are compared by index and reported
without it (`$.scores[*]`). What is cut, too long, too deep or too many nodes is *not comparable*, with the reason:
never equal, never different.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headgate.evidence import Answer
from headgate_policies.rules import Rule, overlap, set_distance, text_distance

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 64
MAX_PATH = 1_000  # characters
MAX_NODES = 20_000  # of one answer: about 10 ms of work
EXAMPLE = 80  # characters of a value shown to a person
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two numbers may be apart; both None: values are not judged at all."""

    rel: float | None = None  # of the stable's number
    abs: float | None = None
    ignore: tuple[str, ...] = ()  # paths, with everything below them
    rules: Mapping[str, Rule] = field(default_factory=dict)  # generalised path -> how that place is compared

    @property
    def declared(self) -> bool:
        return self.rel is not None or self.abs is not None

    def accepts(self, stable: float, candidate: float) -> bool:
        return _near(stable, candidate, self.rel, self.abs)

    def ignores(self, path: str) -> bool:
        return any(path == root or path.startswith((root + ".", root + "[")) for root in self.ignore)


def _near(stable: float, candidate: float, rel: float | None, abs_: float | None) -> bool:
    return abs(candidate - stable) <= max(abs_ or 0.0, (rel or 0.0) * abs(stable))


@dataclass(slots=True)
class Found:
    """All places of one path and kind in one pair; the first is the example."""

    path: str
    kind: str  # number | type | missing | extra | length | text | value | nan | empty | media-type | invalid-json |
    #   set | ranking | bytes
    stable: str
    candidate: str
    numbers: list[tuple[float, float]] = field(default_factory=list)  # stable, candidate
    distances: list[float] = field(default_factory=list)  # set, ranking, text with a rule: 0 equal, 1 nothing in common


@dataclass(frozen=True, slots=True)
class Comparison:
    why_not: str = ""  # not comparable, because
    found: tuple[Found, ...] = ()
    numbers: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)  # path -> stable, candidate

    @property
    def comparable(self) -> bool:
        return not self.why_not


class TooMuch(ValueError):
    """Past a bound; the text says which."""


def generalised(path: str) -> str:
    """A path as a person may write it, as they are reported: `$.a[3]` is `$.a[*]`, `a.b` is `$.a.b`."""
    path = path if path.startswith("$") else f"$.{path}"
    return _INDEX.sub("[*]", path)


def compare(stable: Answer, candidate: Answer, tolerance: Tolerance) -> Comparison:
    """Differences in path order. Statuses are not looked at: that is the error rate's."""
    if stable.digest or candidate.digest:
        return _bytes(stable, candidate, tolerance)
    for name, answer in (("stable", stable), ("candidate", candidate)):
        if answer.cut:
            return Comparison(why_not=f"the {name}'s answer was cut or is not UTF-8")
        if len(answer.body) > MAX_CHARACTERS:
            return Comparison(why_not=f"the {name}'s answer is longer than {MAX_CHARACTERS:,} characters")
    ours, theirs = media_type(stable.media_type), media_type(candidate.media_type)
    if ours != theirs and not tolerance.ignores("$"):
        return Comparison(found=(Found("$", "media-type", ours or "none", theirs or "none"),))
    try:
        return _json(stable.body, candidate.body, tolerance) if "json" in ours else _text(stable, candidate, tolerance)
    except TooMuch as reason:
        return Comparison(why_not=str(reason))


def _bytes(stable: Answer, candidate: Answer, tolerance: Tolerance) -> Comparison:
    """At least one of the two is no text. Judged only where values are, and then exactly."""
    for name, answer in (("stable", stable), ("candidate", candidate)):
        if answer.cut and not answer.digest:
            return Comparison(why_not=f"the {name}'s answer was cut or is not UTF-8")
    if tolerance.ignores("$") or stable.digest == candidate.digest:
        return Comparison()
    kinds = tuple("bytes" if answer.digest else "text" for answer in (stable, candidate))
    if not tolerance.declared and kinds[0] == kinds[1]:
        return Comparison()
    left, right = (f"sha256 {a.digest[:12]}" if a.digest else cut(a.body) for a in (stable, candidate))
    return Comparison(found=(Found("$", "bytes", left, right),))


def media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def read_json(body: str) -> Any:
    """Decoded JSON, NaN and infinities included.

    Raises:
        json.JSONDecodeError: it is not JSON. TooMuch: nested too deep, or a number of thousands of digits.
    """
    try:
        return json.loads(body)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        raise TooMuch("an answer nests too deep, or holds a number too long to read") from error


def _json(stable: str, candidate: str, tolerance: Tolerance) -> Comparison:
    try:
        left = read_json(stable)
    except json.JSONDecodeError:
        return Comparison(why_not="the stable's answer is not the JSON it says it is")
    try:
        right = read_json(candidate)
    except json.JSONDecodeError:
        return Comparison(found=(Found("$", "invalid-json", example(left), cut(candidate)),))
    walk = _Walk(tolerance)
    walk.visit("$", left, right, 0)
    return Comparison(found=walk.in_order(), numbers=walk.numbers)


def _text(stable: Answer, candidate: Answer, tolerance: Tolerance) -> Comparison:
    rule = tolerance.rules.get("$")
    if rule is not None and rule.mode == "text" and not tolerance.ignores("$"):
        walk = _Walk(tolerance)
        walk.visit("$", stable.body, candidate.body, 0)
        return Comparison(found=walk.in_order())
    kind = ""
    if tolerance.declared and stable.body != candidate.body:
        kind = "text"
    elif bool(stable.body) != bool(candidate.body):
        kind = "empty"
    if not kind or tolerance.ignores("$"):
        return Comparison()
    return Comparison(found=(Found("$", kind, cut(stable.body), cut(candidate.body)),))


def key_path(path: str, key: str) -> str:
    """The path of a field: `$.a`, or `$["a b"]`."""
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]"


class _Walk:
    """Goes through two JSON values side by side, within bounds."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._found: dict[tuple[str, str], Found] = {}
        self._nodes = 0
        self.numbers: dict[str, list[tuple[float, float]]] = {}

    def in_order(self) -> tuple[Found, ...]:
        return tuple(self._found[key] for key in sorted(self._found))

    def visit(self, path: str, stable: Any, candidate: Any, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise TooMuch(f"an answer holds more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH or len(path) > MAX_PATH:
            raise TooMuch(f"an answer nests deeper than {MAX_DEPTH} or has names too long")
        if self._tolerance.ignores(path):
            return
        kinds = type_name(stable), type_name(candidate)
        if kinds[0] != kinds[1]:
            self._differs(path, "type", stable, candidate)
        elif path in self._tolerance.rules and self._by_rule(path, kinds[0], stable, candidate):
            pass
        elif kinds[0] == "object":
            self._objects(path, stable, candidate, depth)
        elif kinds[0] == "array":
            self._arrays(path, stable, candidate, depth)
        elif kinds[0] == "number":
            self._numbers(path, stable, candidate)
        elif self._tolerance.declared and stable != candidate:
            self._differs(path, "text" if kinds[0] == "text" else "value", stable, candidate)

    def _by_rule(self, path: str, kind: str, stable: Any, candidate: Any) -> bool:
        """Whether the rule of this path is about values of this type; then it was compared."""
        rule = self._tolerance.rules[path]
        if kind == "array" and rule.mode in ("set", "ranking"):
            self._count(stable)
            self._count(candidate)
            if rule.mode == "set":
                self._apart(path, "set", set_distance(stable, candidate, rule.by), rule.most, stable, candidate)
            else:
                apart = 1 - overlap(stable, candidate, rule.by, rule.top)
                self._apart(path, "ranking", apart, 1 - rule.least, stable, candidate)
            return True
        if kind == "text" and rule.mode == "text":
            distance = text_distance(stable, candidate)
            if distance is None:
                raise TooMuch("a text is too long to count its edits")
            self._apart(path, "text", distance, rule.most, stable, candidate)
            return True
        if kind == "number" and rule.mode == "number":
            self._numbers(path, stable, candidate)
            return True
        return False

    def _apart(self, path: str, kind: str, distance: float, most: float, stable: Any, candidate: Any) -> None:
        if distance > most + 1e-9:
            self._differs(path, kind, stable, candidate).distances.append(distance)

    def _count(self, value: Any) -> None:
        """Items of an array that is compared as a whole are within the same bounds."""
        waiting = [(value, 0)]
        while waiting:
            item, depth = waiting.pop()
            self._nodes += 1
            if self._nodes > MAX_NODES or depth > MAX_DEPTH:
                raise TooMuch(f"an answer holds more than {MAX_NODES:,} values, or nests deeper than {MAX_DEPTH}")
            if isinstance(item, dict | list):
                waiting += [(below, depth + 1) for below in (item.values() if isinstance(item, dict) else item)]

    def _objects(self, path: str, stable: Mapping[str, Any], candidate: Mapping[str, Any], depth: int) -> None:
        for key in sorted({*stable, *candidate}):
            here = key_path(path, key)
            if key in stable and key in candidate:
                self.visit(here, stable[key], candidate[key], depth + 1)
            elif not self._tolerance.ignores(here):
                kind = "missing" if key in stable else "extra"
                self._differs(here, kind, stable.get(key, _ABSENT), candidate.get(key, _ABSENT))

    def _arrays(self, path: str, stable: Sequence[Any], candidate: Sequence[Any], depth: int) -> None:
        if len(stable) != len(candidate):
            self._differs(path, "length", stable, candidate)
        for left, right in zip(stable, candidate, strict=False):
            self.visit(f"{path}[*]", left, right, depth + 1)

    def _numbers(self, path: str, stable: float, candidate: float) -> None:
        left, right = real(stable), real(candidate)
        if not (math.isfinite(left) and math.isfinite(right)):
            if repr(stable) != repr(candidate):
                self._differs(path, "nan", stable, candidate)
            return
        self.numbers.setdefault(path, []).append((left, right))
        rule = self._tolerance.rules.get(path)
        judged = rule is not None and rule.mode == "number"
        rel, abs_ = (rule.rel, rule.abs) if rule and judged else (self._tolerance.rel, self._tolerance.abs)
        if (judged or self._tolerance.declared) and not _near(left, right, rel, abs_):
            self._differs(path, "number", stable, candidate).numbers.append((left, right))

    def _differs(self, path: str, kind: str, stable: Any, candidate: Any) -> Found:
        found = self._found.get((path, kind))
        if found is None:
            found = self._found[(path, kind)] = Found(path, kind, example(stable), example(candidate))
        return found


_ABSENT = object()


def type_name(value: Any) -> str:
    """The JSON type of a decoded value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def real(value: float) -> float:
    """The number as a float; an integer beyond its range is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def example(value: Any) -> str:
    """A value as a person sees it in a verdict: short."""
    if value is _ABSENT:
        return "absent"
    if isinstance(value, dict):
        return f"object of {len(value)} fields"
    if isinstance(value, list):
        return f"array of {len(value)}"
    return cut(json.dumps(value, ensure_ascii=False))


def cut(text: str) -> str:
    text = text[:1000].encode(errors="replace").decode()  # half a surrogate pair cannot be stored
    return text if len(text) <= EXAMPLE else text[: EXAMPLE - 1] + "…"


def not_numbers(value: Any, path: str = "$", depth: int = 0) -> Iterator[str]:
    """Paths of NaN and infinities in decoded JSON, down to the bound."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    if depth < MAX_DEPTH and isinstance(value, dict):
        for key in sorted(value):
            yield from not_numbers(value[key], f"{path}.{key}", depth + 1)
    if depth < MAX_DEPTH and isinstance(value, list):
        for item in value:
            yield from not_numbers(item, f"{path}[*]", depth + 1)

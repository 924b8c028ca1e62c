"""The shape of JSON answers: which fields there are, and of which types. Learnt from answers, or declared as a schema.

A learnt shape is the union of what was seen: a field that comes and goes is optional, one that was in every object is
required, a value may be of any type it ever had. Arrays have one shape for all their items. Values are never judged.
A declared shape is a JSON Schema, read by `jsonschema` within bounds: what could run for ever on a hostile answer
(regular expressions, references that unfold without end, references to other documents) is refused or cut short.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headgate_policies.compare import MAX_DEPTH, MAX_NODES, MAX_PATH, TooMuch, example, key_path, type_name

MAX_KEYS = 200  # of one object: beyond, its keys are data (ids, words), not fields
MAX_SHAPES = 5_000  # places remembered
MAX_REFERENCES = 5_000  # followed in one answer
MAX_FAULTS = 100  # reported of one answer
_ENDLESS = ("pattern", "patternProperties", "propertyNames", "$dynamicRef", "$recursiveRef")


@dataclass(frozen=True, slots=True)
class Deviation:
    """One way in which an answer has another shape."""

    path: str  # as a person reads it: `$.items[*].id`
    kind: str  # extra | missing | type, or the schema's keyword
    group: str  # what is told apart as noise: all unknown fields of one object are one group
    expected: str
    found: str


@dataclass(slots=True)
class _Place:
    """One place of the shape."""

    types: set[str] = field(default_factory=set)
    objects: int = 0  # of them seen here
    keys: dict[str, int] = field(default_factory=dict)  # field -> objects that had it
    open: bool = False  # too many keys: any key goes, and their values share one shape


class Shape:
    """A shape learnt from answers."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self.answers = 0

    def learn(self, value: Any) -> None:
        """One more answer. Raises TooMuch past a bound; what was seen until there is kept."""
        self.answers += 1
        for path, item in _walk(value, self._is_open):
            place = self._places.get(path)
            if place is None:
                if len(self._places) >= MAX_SHAPES:
                    raise TooMuch(f"answers hold more than {MAX_SHAPES:,} different fields")
                place = self._places[path] = _Place()
            place.types.add(type_name(item))
            if isinstance(item, dict) and not place.open:
                self._learn_keys(path, place, item)

    def _learn_keys(self, path: str, place: _Place, item: Mapping[str, Any]) -> None:
        place.objects += 1
        for key in item:
            place.keys[key] = place.keys.get(key, 0) + 1
        if len(place.keys) > MAX_KEYS:
            place.open, place.keys = True, {}
            for known in [k for k in self._places if k.startswith((f"{path}.", f"{path}["))]:
                del self._places[known]

    def _is_open(self, path: str) -> bool:
        place = self._places.get(path)
        return place is not None and place.open

    def deviations(self, value: Any) -> list[Deviation]:
        """How this answer differs from what was learnt, in path order. Raises TooMuch past a bound."""
        found: dict[tuple[str, str], Deviation] = {}
        for path, item in _walk(value, self._is_open, self._knows):
            for deviation in self._at(path, item):
                found.setdefault((deviation.path, deviation.kind), deviation)
            if len(found) >= MAX_FAULTS:
                break
        return [found[key] for key in sorted(found)]

    def _knows(self, path: str) -> bool:
        return path in self._places

    def _at(self, path: str, item: Any) -> Iterator[Deviation]:
        place = self._places.get(path)
        if place is None:
            return  # below a field that is itself reported, or in an array that was empty until now
        found = type_name(item)
        if found not in place.types:
            kinds = " or ".join(sorted(place.types))
            yield Deviation(path, "type", f"{path} type", kinds, f"{found}: {example(item)}")
        if isinstance(item, dict) and place.objects and not place.open:
            for key in sorted(item.keys() - place.keys.keys()):
                yield Deviation(key_path(path, key), "extra", f"{path} extra", "absent", example(item[key]))
            for key in sorted(place.keys.keys() - item.keys()):
                if place.keys[key] == place.objects:
                    here = key_path(path, key)
                    kinds = " or ".join(sorted(self._places[here].types)) if here in self._places else "present"
                    yield Deviation(here, "missing", f"{here} missing", kinds, "absent")


def _walk(value: Any, is_open: Any, goes_into: Any = None) -> Iterator[tuple[str, Any]]:
    """Every value with its path, objects before their fields. `goes_into`: paths below which to go on; None: all."""
    waiting: list[tuple[str, Any, int]] = [("$", value, 0)]
    nodes = 0
    while waiting:
        path, item, depth = waiting.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise TooMuch(f"an answer holds more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH or len(path) > MAX_PATH:
            raise TooMuch(f"an answer nests deeper than {MAX_DEPTH} or has names too long")
        yield path, item
        if goes_into is not None and not goes_into(path):
            continue
        if isinstance(item, dict):
            share_one = is_open(path)
            below = [(f"{path}.*" if share_one else key_path(path, key), item[key], depth + 1) for key in sorted(item)]
            waiting.extend(reversed(below))
        elif isinstance(item, list):
            waiting.extend((f"{path}[*]", each, depth + 1) for each in reversed(item))


class Schema:
    """A declared shape: a JSON Schema (draft 2020-12, or the one its `$schema` names)."""

    def __init__(self, document: Any) -> None:
        """Raises ValueError, for a person: it is no schema, or uses what is not taken."""
        if not isinstance(document, dict | bool):
            raise ValueError("`schema` is a JSON Schema, or `{file: PATH}` of one")
        for place, keyword, value in _keywords(document):
            if keyword in _ENDLESS:
                raise ValueError(f"`schema` uses `{keyword}` at {place}: it could run for ever on an answer")
            if keyword == "$ref" and not (isinstance(value, str) and value.startswith("#")):
                raise ValueError(f"`schema` refers to {value!r} at {place}: only references inside it (`#/...`)")
        from jsonschema import SchemaError

        self._type = _bounded(str(document.get("$schema", "")) if isinstance(document, dict) else "")
        try:
            self._type.check_schema(document)
        except SchemaError as error:
            where = "".join(f"[{part!r}]" for part in error.absolute_path)
            raise ValueError(f"`schema` is no JSON Schema: {where} {error.message}".replace("  ", " ")) from error
        self._document = document

    def deviations(self, value: Any) -> list[Deviation]:
        """How this answer breaks the schema, in path order. Raises TooMuch past a bound."""
        from referencing import Registry
        from referencing.exceptions import Unresolvable

        for _ in _walk(value, lambda _: False):
            pass  # only its bounds: size and depth
        validator = self._type(self._document, registry=Registry())
        validator.followed[0] = 0
        found: dict[tuple[str, str], Deviation] = {}
        try:
            for error in validator.iter_errors(value):
                for deviation in _of_error(error):
                    found.setdefault((deviation.path, deviation.kind), deviation)
                if len(found) >= MAX_FAULTS:
                    break
        except (RecursionError, Unresolvable) as error:
            raise TooMuch(f"the schema cannot be followed: {type(error).__name__}") from error
        return [found[key] for key in sorted(found)]


def _of_error(error: Any) -> Iterator[Deviation]:
    path = "$"
    for part in error.absolute_path:
        path = f"{path}[*]" if isinstance(part, int) else key_path(path, str(part))
    keyword, instance = str(error.validator), error.instance
    if keyword == "required" and isinstance(instance, dict):
        for key in [key for key in error.validator_value if key not in instance]:
            here = key_path(path, key)
            yield Deviation(here, "missing", f"{here} missing", "present", "absent")
    elif keyword == "additionalProperties" and isinstance(instance, dict):
        known = error.schema.get("properties", {})
        for key in sorted(instance.keys() - known.keys()):
            yield Deviation(key_path(path, key), "extra", f"{path} extra", "absent", example(instance[key]))
    else:
        expected = error.validator_value
        said = expected if isinstance(expected, str) else example(expected)
        if isinstance(expected, list) and keyword in ("type", "enum"):
            said = " or ".join(str(each) for each in expected[:5])
        yield Deviation(path, keyword, f"{path} {keyword}", said, f"{type_name(instance)}: {example(instance)}")


def _keywords(schema: Any, place: str = "$", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """(place, keyword, value) of every mapping's entries that can be keywords: not of the names below `properties`."""
    if depth > MAX_DEPTH:
        raise ValueError(f"`schema` nests deeper than {MAX_DEPTH}")
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from _keywords(item, f"{place}[{index}]", depth + 1)
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        yield place, key, value
        if key in ("properties", "$defs", "definitions", "dependentSchemas") and isinstance(value, dict):
            for name, inner in value.items():
                yield from _keywords(inner, f"{place}.{key}.{name}", depth + 2)
        elif key not in ("enum", "const", "default", "examples"):
            yield from _keywords(value, f"{place}.{key}", depth + 1)


@functools.cache
def _bounded(draft: str) -> Any:
    """The draft's validator that follows only so many references, which alone can make a small schema endless."""
    from jsonschema import Draft202012Validator, validators

    base = validators.validator_for({"$schema": draft}, Draft202012Validator) if draft else Draft202012Validator
    follow = base.VALIDATORS["$ref"]
    followed = [0]

    def bounded(validator: Any, ref: str, instance: Any, schema: Any) -> Iterator[Any]:
        followed[0] += 1
        if followed[0] > MAX_REFERENCES:
            raise TooMuch(f"the schema follows more than {MAX_REFERENCES:,} references in one answer")
        yield from follow(validator, ref, instance, schema) or ()

    made = validators.extend(base, {"$ref": bounded})
    made.followed = followed
    return made


def read_schema(text: str) -> Any:
    """A schema's file. Raises ValueError, for a person."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error

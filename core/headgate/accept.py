"""Says yes quickly: a JSON Schema compiled to closures.

It accepts only what the schema accepts, and may say no to some of that (`1.0` as an integer): whoever gets a no asks
`jsonschema`, which also explains. It knows the keywords our schemas use; another one refuses to compile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Test = Callable[[Any], bool]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_SAID = {"$schema", "$id", "title", "description", "default"}  # say nothing about a value
_BRANCH = {"then", "else"}  # read with `if`
_OBJECT = {"properties", "additionalProperties", "required"}


def compile_schema(schema: Any) -> Test:
    """A predicate on decoded YAML. Raises ValueError for a keyword it does not know."""
    if schema is True or schema is False:
        return lambda value: schema
    unknown = set(schema) - _SAID - _BRANCH - _OBJECT - set(_COMPILERS)
    if unknown:
        raise ValueError(f"unknown keywords: {sorted(unknown)}")
    tests = [make(schema) for key, make in _COMPILERS.items() if key in schema]
    if _OBJECT & set(schema):
        tests.append(_object(schema))
    if not tests:
        return lambda value: True
    return tests[0] if len(tests) == 1 else _every(tests)


def _every(tests: list[Test]) -> Test:
    def test(value: Any) -> bool:
        for part in tests:  # noqa: SIM110 - `all` with a generator takes twice as long
            if not part(value):
                return False
        return True

    return test


def _type(schema: Any) -> Test:
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if names == ["integer", "string"]:  # a number in quotes goes the slow way, where its range is checked too
        names = ["integer"]
    classes = frozenset(c for name in names for c in _TYPES[name])
    return lambda value: value.__class__ in classes  # exact classes: a bool is no integer


def _pattern(schema: Any) -> Test:
    search = re.compile(schema["pattern"]).search
    return lambda value: value.__class__ is not str or search(value) is not None


def _bounds(schema: Any) -> Test:
    low, high = schema.get("minimum"), schema.get("maximum")

    def test(value: Any) -> bool:
        if value.__class__ is not int and value.__class__ is not float:
            return True
        return (low is None or value >= low) and (high is None or value <= high)

    return test


def _length(schema: Any) -> Test:
    low, high = schema.get("minLength", 0), schema.get("maxLength", float("inf"))
    return lambda value: value.__class__ is not str or low <= len(value) <= high


def _any_of(schema: Any) -> Test:
    options = [compile_schema(option) for option in schema["anyOf"]]
    return lambda value: any(option(value) for option in options)


def _if(schema: Any) -> Test:
    test = compile_schema(schema["if"])
    then, other = compile_schema(schema.get("then", True)), compile_schema(schema.get("else", True))
    return lambda value: then(value) if test(value) else other(value)


def _not(schema: Any) -> Test:
    if schema["not"] != {}:  # the opposite of a test that may say no too often would say yes too often
        raise ValueError("only `not: {}` is known")
    return lambda value: False


def _enum(schema: Any) -> Test:
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    allowed = frozenset((value.__class__, value) for value in values)
    return lambda value: value.__class__ in (str, int) and (value.__class__, value) in allowed


def _items(schema: Any) -> Test:
    test = compile_schema(schema["items"])
    return lambda value: value.__class__ is not list or all(test(item) for item in value)


def _max_items(schema: Any) -> Test:
    most = schema["maxItems"]
    return lambda value: value.__class__ is not list or len(value) <= most


def _object(schema: Any) -> Test:
    known = {name: compile_schema(part) for name, part in schema.get("properties", {}).items()}
    other = compile_schema(schema.get("additionalProperties", True))
    required = frozenset(schema.get("required", ()))

    def test(value: Any) -> bool:
        if value.__class__ is not dict:
            return True
        for key, item in value.items():
            if not known.get(key, other)(item):
                return False
        return required <= value.keys()

    return test


_COMPILERS: Mapping[str, Callable[[Any], Test]] = {
    "type": _type,
    "enum": _enum,
    "const": _enum,
    "pattern": _pattern,
    "minimum": _bounds,
    "maximum": _bounds,
    "minLength": _length,
    "maxLength": _length,
    "anyOf": _any_of,
    "if": _if,
    "not": _not,
    "items": _items,
    "maxItems": _max_items,
}

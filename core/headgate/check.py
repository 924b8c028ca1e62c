"""A document against the rows of its kind: every finding at once, each at its line and column.

A file that is fine passes the compiled schema and pays for nothing else. For one that is not, `jsonschema` says where
and which keyword, and the row says what was expected.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from headgate import fields, schemas
from headgate.accept import Test, compile_schema
from headgate.fields import Field
from headgate.findings import Finding, Place, cut
from headgate.yamltext import Document, Path, placeholder

MOST = 100  # findings per file: a page of them is read, a thousand are not
FREE = ("description", "tags", "properties", "environment_variables")  # text nobody but the model reads
EXPECTED = {
    "text": "text",
    "int": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "map": "a mapping",
    "list": "a list",
    "null": "nothing",
    "duration": "a time with its unit, e.g. 10m, 5s or 500ms",
    "percent": "a percent, e.g. 5 or 5%",
    "share": "a share, e.g. 1% or 0.01",
    "words": "one of the words",
    "any": "a value",
}


def check(document: Document, kind: str) -> tuple[Finding, ...]:
    """Findings of a document; `kind` is a key of `fields.KINDS`. Empty: the schema accepts it."""
    found = [placeholder(name, document.place(at)) for at, name in document.placeholders if at[:1][0] not in FREE]
    if not quickly(kind)(document.value):
        filled = {at for at, _ in document.placeholders}
        found += [f for path, f in _explain(document, kind) if path not in filled]
        found += [] if found else _quoted_numbers(document, kind, document.value, ())
    if len(found) > MOST:
        more = f"and {len(found) - MOST} more findings in this file"
        found = [*found[:MOST], Finding("too-many", more, "", "fix the first ones", Place(document.file))]
    return tuple(found)


@cache
def quickly(kind: str) -> Test:
    return compile_schema(schemas.schema(kind))


@cache
def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator  # 50 ms, and only for files that have something wrong

    return Draft202012Validator(schemas.schema(kind))


def _explain(document: Document, kind: str) -> Iterator[tuple[Path, Finding]]:
    seen: set[tuple[Path, str]] = set()
    for error in _validator(kind).iter_errors(document.value):
        for path, finding in _of_error(document, kind, error):
            if (path, finding.code) not in seen:
                seen.add((path, finding.code))
                yield path, finding


def _quoted_numbers(document: Document, kind: str, value: Any, path: Path) -> list[Finding]:
    """Numbers in quotes whose range the schema cannot see."""
    if isinstance(value, dict):
        return [f for key, item in value.items() for f in _quoted_numbers(document, kind, item, (*path, key))]
    if value.__class__ is not str or not value[-1:].isdigit():
        return []
    row = fields.row_at(kind, path)
    if row is None or row.type != "int":
        return []
    number = int(value)
    fits = (row.low is None or number >= row.low) and (row.high is None or number <= row.high)
    return [] if fits else [wrong(document, path, row, number)]


def _of_error(document: Document, kind: str, error: Any) -> Iterator[tuple[Path, Finding]]:
    path: Path = tuple(error.absolute_path)
    row = fields.row_at(kind, path)
    if error.validator == "additionalProperties":
        for key in error.instance.keys() - error.schema.get("properties", {}).keys():
            yield (*path, key), unknown(document, kind, (*path, key))
    elif error.validator == "required":
        for key in [key for key in error.validator_value if key not in error.instance]:
            yield (*path, key), _missing(document, kind, (*path, key))
    elif error.validator == "not":  # a field of the other platform
        yield path, _other_platform(document, path, row)
    elif error.validator == "anyOf" and isinstance(error.instance, dict) and row and "map" in row.type:
        for inner in error.context:
            if not (inner.validator == "type" and tuple(inner.absolute_path) == path):
                yield from _of_error(document, kind, inner)
    elif row is not None:
        yield path, wrong(document, path, row, error.instance)
    elif not path:
        found = _shown(error.instance)
        yield path, Finding("bad-value", f"{found} where fields were expected", "", "write `name: value` lines",
                            document.place())  # fmt: skip


def unknown(document: Document, kind: str, path: Path) -> Finding:
    parent = fields.row_at(kind, path[:-1])
    known = [name for name in fields.children(kind, parent.tokens if parent else ()) if name != "*"]
    here = f" in `{_dotted(path[:-1])}`" if path[:-1] else ""
    name = str(path[-1])
    return Finding(
        "unknown-field",
        f"`{cut(name)}` is not a field{here}",
        "a misspelt field would be silently without effect",
        fields.REPLACED.get(_dotted(path)) or _suggest(name, known, "one of") + _elsewhere(kind, name, path),
        document.key_place(path),
    )


def _elsewhere(kind: str, name: str, path: Path) -> str:
    """Where a field of that name does belong."""
    homes = [row.path for row in fields.KINDS[kind] if row.tokens[-1] == name and row.tokens != path]
    return f"; it belongs at `{homes[0]}`" if homes else ""


def _missing(document: Document, kind: str, path: Path) -> Finding:
    row = fields.row_at(kind, path)
    why = row.doc if row else ""
    where = f" in `{_dotted(path[:-1])}`" if path[:-1] else ""
    place = document.key_place(path[:-1]) if path[:-1] else Place(document.file, 1, 1)
    return Finding("missing-field", f"`{path[-1]}` is missing{where}", why, f"add `{path[-1]}:`", place)


def _other_platform(document: Document, path: Path, row: Field | None) -> Finding:
    only = row.only if row else "managed"
    other = "kubernetes" if only == "managed" else "managed"
    fix = "delete it" if only == "managed" else "delete it, or set `type: kubernetes`"
    why = f"Azure refuses it on a {other} one"
    return Finding("wrong-platform", f"`{_dotted(path)}` is for {only} ones only", why, fix, document.key_place(path))


def wrong(document: Document, path: Path, row: Field, value: Any) -> Finding:
    """A value its row does not allow."""
    message, fix = _wrong(path, row, value)
    fix = fields.REPLACED.get(row.path, fix)
    allowed = schemas.rule(row)
    why = f"`{path[-1]}` {row.rule}" if row.rule else row.doc + (f" Allowed: {allowed}." if allowed else "")
    return Finding("bad-value", message, why, fix, document.place(path))


def _wrong(path: Path, row: Field, value: Any) -> tuple[str, str]:
    name, found, kinds = _dotted(path), _shown(value), row.type.split("|")
    if row.one_of and isinstance(value, str):
        return f"`{name}` is {found}", _suggest(value, row.one_of, "write")
    if row.one_of:
        words = " or ".join(row.one_of)
        return f"`{name}` is {found}, expected the text {words}", f'write "{words.split(" or ")[0]}" in quotes'
    if row.type == "list" and isinstance(value, list):
        return f"`{name}` has {len(value)} items, at most {row.high:g} can be used", "keep one"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and row.low is not None and value < row.low:
        return f"`{name}` is {found}, less than {row.low:g}", f"write {row.low:g} or more"
    if number and row.high is not None and value > row.high:
        return f"`{name}` is {found}, more than {row.high:g}", f"write {row.high:g} or less"
    if isinstance(value, str) and row.length and not row.length[0] <= len(value) <= row.length[1]:
        return f"`{name}` has {len(value)} characters", f"use {row.length[0]} to {row.length[1]}"
    if isinstance(value, str) and "text" in kinds and row.pattern:
        return f"`{name}` is {found}", _legal(value, row)
    expected = " or ".join(EXPECTED[kind] for kind in kinds)
    if kinds == ["map"] and (parts := fields.parts_of(row)):
        return f"`{name}` is {found}, expected {expected}", f"write a mapping with {', '.join(f'`{p}`' for p in parts)}"
    quoted = "text" in kinds and not isinstance(value, dict | list) and value is not None
    return f"`{name}` is {found}, expected {expected}", f'quote it: "{value}"' if quoted else f"write {expected}"


def _legal(value: str, row: Field) -> str:
    if row.pattern == fields.NAME and "_" in value:
        return f"write `{cut(value.replace('_', '-').strip('-'))}`"
    if row.pattern == fields.ASSET and "map" in row.type:
        return f"write `{{path: {cut(value)}}}`, or `azureml:NAME:VERSION`"
    return f"write a value that {row.rule}" if row.rule else "correct it"


def _suggest(name: str, known: Iterable[str], verb: str) -> str:
    known = list(known)
    near = closest(name, known)
    if near:
        return f"did you mean `{near}`?"
    more = ", ..." if len(known) > 12 else ""
    return f"{verb} {', '.join(sorted(known)[:12])}{more}" if known else "delete it"


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant; empty: none is near."""
    if len(name) > 64:
        return ""
    folded = {word.lower().replace("-", "_"): word for word in known}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), folded, 1, 0.6)
    return folded[near[0]] if near else ""


def _dotted(path: Path) -> str:
    return cut("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip("."))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "empty"
    return f"`{cut(str(value).lower() if isinstance(value, bool) else str(value))}`"

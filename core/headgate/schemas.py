"""The rows of `fields.py` as JSON Schema 2020-12, and as the documentation's tables.

The schemas are what editors use (`# yaml-language-server: $schema=...`) and what a file is judged by. Patterns are
written so that Python and ECMAScript read them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from headgate import fields
from headgate.fields import Field

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLES = {
    "endpoint": "Azure ML CLI v2 online endpoint, as Headgate serves it",
    "deployment": "Azure ML CLI v2 online deployment, as Headgate serves it",
    "rollout": "rollout.yml: how carefully a new target is reached",
    "headgate": "headgate.yml: the ground the endpoints run on",
    "policy": "policies/NAME.yml: what a commit may ask",
}
NUMBER = r"[0-9]+(\.[0-9]+)?"
WHOLE_NUMBER = r"[-+]?[0-9]{1,18}"
DURATION = rf"{NUMBER}(ms|s|m|h|d)"
NEVER: dict[str, Any] = {"not": {}}
KUBERNETES = "[kK][uU][bB][eE][rR][nN][eE][tT][eE][sS]"

Schema = dict[str, Any]


def all_schemas() -> dict[str, Schema]:
    """File name -> schema: what `repo-template/schemas/` holds."""
    return {f"{kind}.schema.json": schema(kind) for kind in fields.KINDS}


@cache
def schema(kind: str) -> Schema:
    root = _map(kind, ())
    head = {"$schema": DIALECT, "$id": f"https://headgate.dev/schemas/{kind}.schema.json", "title": TITLES[kind]}
    return {**head, **root, **_platforms(kind)}


def _platforms(kind: str) -> Schema:
    """What only one of Azure's two platforms takes."""
    rows = fields.KINDS[kind]
    if not any(row.only for row in rows):
        return {}
    test: Schema = {"required": ["compute"]}
    if kind == "deployment":
        test = {"required": ["type"], "properties": {"type": {"pattern": whole(KUBERNETES)}}}
    on_kubernetes = {"properties": {row.path: NEVER for row in rows if row.only == "managed"}}
    managed: Schema = {"properties": {row.path: NEVER for row in rows if row.only == "kubernetes"}}
    needed = [row.path for row in rows if row.required == "managed"]
    return {"if": test, "then": on_kubernetes, "else": {**managed, "required": needed} if needed else managed}


def _map(kind: str, tokens: tuple[str, ...]) -> Schema:
    below = fields.children(kind, tokens)
    built: Schema = {"type": "object"}
    if not below:
        return built
    named = {name: row for name, row in below.items() if name != "*"}
    if named:
        built["properties"] = {name: _value(kind, row) for name, row in named.items()}
    built["additionalProperties"] = _value(kind, below["*"]) if "*" in below else False
    required = [name for name, row in named.items() if row.required == "always"]
    return {**built, "required": required} if required else built


def _value(kind: str, row: Field) -> Schema:
    options = [_option(kind, row, name) for name in row.type.split("|")]
    built = options[0] if len(options) == 1 else {"anyOf": options}
    said = {"description": row.doc} | ({"default": row.default} if row.default is not None else {})
    return {**said, **built}


def _option(kind: str, row: Field, name: str) -> Schema:
    if name == "map":
        return _map(kind, row.tokens)
    if name == "list":
        item = fields.children(kind, row.tokens).get("[]")
        most = {"maxItems": int(row.high)} if row.high is not None else {}
        return {"type": "array", **({"items": _value(kind, item)} if item else {}), **most}
    return _SCALARS[name](row)


def _text(row: Field) -> Schema:
    built: Schema = {"type": "string"}
    if row.pattern:
        built["pattern"] = whole(row.pattern)
    if row.length:
        built["minLength"], built["maxLength"] = row.length
    return built


def _bounds(row: Field) -> Schema:
    limits = {"minimum": row.low, "maximum": row.high}
    return {key: int(v) if v == int(v) else v for key, v in limits.items() if v is not None}


def _int(row: Field) -> Schema:
    # Azure takes numbers in quotes; their range is checked when they are read.
    return {"type": ["integer", "string"], "pattern": whole(WHOLE_NUMBER), **_bounds(row)}


def _words(row: Field) -> Schema:
    spellings = "|".join(any_case(word) for word in row.one_of)
    return {"type": "string", "anyOf": [{"enum": list(row.one_of)}, {"pattern": whole(spellings)}]}


def _flag(row: Field) -> Schema:
    # `yes` and `on` are text in YAML 1.2, and booleans to those who write them.
    words = "|".join(any_case(word) for word in ("true", "false", "yes", "no", "on", "off"))
    return {"type": ["boolean", "string"], "pattern": whole(words)}


_SCALARS: Mapping[str, Callable[[Field], Schema]] = {
    "text": _text,
    "int": _int,
    "number": lambda row: {"type": "number", **_bounds(row)},
    "flag": _flag,
    "words": _words,
    "any": lambda row: {},
    "null": lambda row: {"type": "null"},
    # A bare number has no unit; only nothing is the same in all of them.
    "duration": lambda row: {"anyOf": [{"const": 0}, {"type": "string", "pattern": whole(DURATION)}]},
    "percent": lambda row: {"type": ["number", "string"], "pattern": whole(f"{NUMBER}%"), **_bounds(row)},
    "share": lambda row: {"type": ["number", "string"], "pattern": whole(f"{NUMBER}%"), **_bounds(row)},
}


def whole(pattern: str) -> str:
    """Anchored. Python's `$` also matches before a last newline, hence the look-ahead; ECMAScript's does not."""
    return f"^(?:{pattern})$(?!\\n)"


def any_case(word: str) -> str:
    """A pattern for any case, and for camelCase where the word has `_`: Azure takes `AMLToken` for `aml_token`."""
    return "".join("_?" if c == "_" else f"[{c}{c.upper()}]" if c.isalpha() else f"\\{c}" for c in word)


# The documentation's tables


def table(kind: str) -> str:
    """Markdown: one line per field."""
    lines = ["| field | type | rule | default | changes | status | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in fields.KINDS[kind]]
    return "\n".join(lines) + "\n"


def _cells(row: Field) -> tuple[str, ...]:
    status = row.status + (f": {row.why}" if row.why else "")
    default = "" if row.default is None else f"`{_shown(row.default)}`"
    cells = (f"`{row.path}`", row.type, rule(row), default, row.part, status, row.doc)
    return tuple(cell.replace("|", "\\|") for cell in cells)


def rule(row: Field) -> str:
    """What a value must be, in words; empty: its type says it all."""
    said = [f"required{' when managed' if row.required == 'managed' else ''}"] if row.required else []
    said += [" or ".join(f"`{word}`" for word in row.one_of)] if row.one_of else []
    said += [row.rule] if row.rule else []
    said += [f"{row.length[0]} to {row.length[1]} characters"] if row.length else []
    said += [_range(row)] if row.low is not None or row.high is not None else []
    said += [f"{row.only} only"] if row.only else []
    return "; ".join(said)


def _range(row: Field) -> str:
    if row.type == "list":
        return f"at most {row.high:g}"
    if row.high is None:
        return f"at least {row.low:g}"
    return f"at most {row.high:g}" if row.low is None else f"{row.low:g} to {row.high:g}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "{}" if isinstance(value, Mapping) else str(value)

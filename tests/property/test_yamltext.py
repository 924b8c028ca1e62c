from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from headgate import fields, schemas, yamltext
from headgate.check import check, quickly
from headgate.yamltext import Document, parse

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT.filter(lambda k: k != "<<"), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_document_or_findings(data: bytes) -> None:
    parsed = parse(data, "f.yml")
    assert (parsed.document is None) == bool(parsed.findings)
    assert all(f.is_error and f.place.file == "f.yml" for f in parsed.findings)


@given(DATA)
def test_json_reads_as_itself_with_a_place_for_every_value(data: Any) -> None:
    text = json.dumps(data, ensure_ascii=False)
    document = parse(text.encode(), "f.yml").document
    assert document
    assert document.value == data
    for path in _paths(data):
        assert document.place(path).line >= 1


@given(st.text(st.sampled_from("ab:{}[]-,&*\"'|>#? \n\t01"), max_size=60))
def test_libyaml_and_python_agree(text: str) -> None:
    data = text.encode()
    native = parse(data, "f.yml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yamltext, "LOADER", yamltext.PureLoader)
        yamltext._compose.cache_clear()
        pure = parse(data, "f.yml")
    yamltext._compose.cache_clear()
    if native.document is not None and pure.document is not None:  # each takes a few texts the other refuses
        assert native.document.value == pure.document.value


def _paths(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    steps = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(p for step, item in steps for p in _paths(item, (*path, step)))]


# The quick check


LEAVES: list[Any] = [0, 1, 5, 50, 51, 101, -1, 1.0, 0.5, True, None, [], {}, "", "a b", "blue", "blue\n", "1", "99"]
LEAVES += ["1%", "5m", "key", "AMLToken", "kubernetes", "Kubernetes", "managed", "default", "azureml:m:1"]


def values(kind: str, tokens: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """Documents near the schema: right and wrong values for known fields, and some unknown ones."""
    rows = fields.children(kind, tokens)
    leaf = st.sampled_from(LEAVES)
    keys = [name for name in rows if name not in ("*", "[]")]
    if not keys:
        return leaf
    known = {key: leaf | values(kind, (*tokens, key)) for key in keys}
    picked = st.lists(st.sampled_from(keys), max_size=6, unique=True)
    return picked.flatmap(lambda names: st.fixed_dictionaries({n: known[n] for n in names}, optional={"zzz": leaf}))


NEAR = st.sampled_from(sorted(fields.KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), values(kind)))
GOOD = {
    "deployment": {"name": "blue", "instance_type": "x"},
    "endpoint": {"name": "fraud"},
    "rollout": {},
    "headgate": {},
    "policy": {"rules": [{"name": "few", "must": "true", "message": "no"}]},
}


@settings(max_examples=300)
@given(NEAR, st.booleans())
def test_what_is_accepted_quickly_is_accepted_by_the_schema(near: tuple[str, Any], completed: bool) -> None:
    kind, value = near
    value = {**GOOD[kind], **value} if completed and isinstance(value, dict) else value
    quick = quickly(kind)(value)
    full = Draft202012Validator(schemas.schema(kind)).is_valid(value)
    assert full or not quick


@settings(max_examples=100)
@given(NEAR)
def test_what_the_schema_refuses_is_said_with_a_place(near: tuple[str, Any]) -> None:
    kind, value = near
    text = yaml.safe_dump(value, default_flow_style=None).encode()
    document = parse(text, "f.yml").document
    if document is None:
        return
    refused = not Draft202012Validator(schemas.schema(kind)).is_valid(document.value)
    found = check(Document("f.yml", document.value, text), kind)
    assert bool(found) or not refused
    assert all(f.place.line >= 1 and f.message and f.fix for f in found)

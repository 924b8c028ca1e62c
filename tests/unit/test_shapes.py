from __future__ import annotations

from typing import Any

import pytest

from headgate_policies.compare import TooMuch
from headgate_policies.shapes import MAX_KEYS, Schema, Shape

RECORD = {"id": "a", "score": 0.5, "tags": [{"name": "x"}], "note": None}
DECLARED = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "$defs": {"item": {"type": "object", "properties": {"n": {"type": ["number", "null"]}}}},
}


def learnt(*values: Any) -> Shape:
    shape = Shape()
    for value in values:
        shape.learn(value)
    return shape


def told(found: Any) -> list[tuple[str, str]]:
    return [(each.path, each.kind) for each in found]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RECORD, []),
        ({**RECORD, "score": 7}, []),
        ({**RECORD, "tags": []}, []),
        ({**RECORD, "more": {"deep": [1]}}, [("$.more", "extra")]),
        ({**RECORD, "a b": 1}, [('$["a b"]', "extra")]),
        ({k: v for k, v in RECORD.items() if k != "score"}, [("$.score", "missing")]),
        ({**RECORD, "score": "0.5"}, [("$.score", "type")]),
        ({**RECORD, "score": None}, [("$.score", "type")]),
        ({**RECORD, "score": True}, [("$.score", "type")]),
        ({**RECORD, "tags": [{"name": "x"}, {}]}, [("$.tags[*].name", "missing")]),
        ({**RECORD, "tags": {"name": "x"}}, [("$.tags", "type")]),
        ([RECORD], [("$", "type")]),
        (float("nan"), [("$", "type")]),
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_is_held_against_what_was_learnt(answer: Any, expected: list[tuple[str, str]]) -> None:
    assert told(learnt(RECORD, RECORD).deviations(answer)) == expected


def test_a_field_that_comes_and_goes_is_optional_and_a_type_once_seen_is_taken() -> None:
    shape = learnt({"a": 1}, {"a": None, "b": "x"})
    for answer in ({"a": None}, {"a": 2, "b": "y"}):
        assert shape.deviations(answer) == []
    assert told(shape.deviations({"b": 1})) == [("$.a", "missing"), ("$.b", "type")]


def test_items_of_an_array_that_was_always_empty_are_nobodys_fault() -> None:
    assert learnt({"found": []}).deviations({"found": [{"x": 1}]}) == []


def test_an_object_whose_keys_are_data_takes_any_key_and_judges_what_is_below() -> None:
    shape = learnt({"by_id": {f"k{n}": {"n": n} for n in range(MAX_KEYS + 1)}}, {"by_id": {"a": {"n": 1}}})
    assert shape.deviations({"by_id": {"new": {"n": 3}}}) == []
    assert told(shape.deviations({"by_id": {"new": {"n": "3"}}})) == [("$.by_id.*.n", "type")]


@pytest.mark.parametrize("value", [[[]] * 30_000, {"a": "x" * 10_000}], ids=["values", "text"])
def test_size_is_bounded_by_values_not_by_text(value: Any) -> None:
    if isinstance(value, dict):
        assert learnt(value).deviations(value) == []
    else:
        with pytest.raises(TooMuch, match="more than 20,000 values"):
            Shape().learn(value)


def test_depth_is_bounded() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(TooMuch, match="deeper"):
        Shape().learn(deep)
    with pytest.raises(TooMuch, match="deeper"):
        Schema({"type": "array"}).deviations(deep)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"id": "a", "items": [{"n": 1}, {"n": None}]}, []),
        ({"items": []}, [("$.id", "missing")]),
        ({"id": "a", "more": 1}, [("$.more", "extra")]),
        ({"id": 5}, [("$.id", "type")]),
        ({"id": "a", "items": [{"n": "1"}]}, [("$.items[*].n", "type")]),
        ([], [("$", "type")]),
    ],
    ids=str,
)
def test_an_answer_is_held_against_a_declared_schema(answer: Any, expected: list[tuple[str, str]]) -> None:
    assert told(Schema(DECLARED).deviations(answer)) == expected


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("text", "is a JSON Schema"),
        ({"type": "strin"}, "is no JSON Schema: ['type']"),
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, "uses `pattern` at $.properties.a"),
        ({"$ref": "https://example.com/x.json"}, "only references inside it"),
        ({"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}}, ""),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_used_is_refused(document: Any, says: str) -> None:
    if says:
        with pytest.raises(ValueError) as refused:
            Schema(document)
        assert says in str(refused.value)
    else:
        assert Schema(document).deviations({"pattern": "x"}) == []


@pytest.mark.parametrize(
    "document",
    [
        {"$ref": "#"},
        {"$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {}},
         "$ref": "#/$defs/a0"},
        {"$ref": "#/$defs/nowhere"},
    ],
    ids=["itself", "doubling", "nowhere"],
)  # fmt: skip
def test_references_that_lead_nowhere_or_never_end_are_cut_short(document: Any) -> None:
    with pytest.raises(TooMuch):
        Schema(document).deviations({"a": 1})

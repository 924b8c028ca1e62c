from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from headgate import fields, schemas
from headgate.accept import compile_schema
from headgate.check import check, closest
from headgate.findings import Finding
from headgate.yamltext import parse

ROOT = Path(__file__).parents[2]


def findings(kind: str, text: str) -> tuple[Finding, ...]:
    document = parse(text.encode(), "f.yml").document
    assert document
    return check(document, kind)


def one(kind: str, text: str) -> tuple[str, str, str]:
    (finding,) = findings(kind, text)
    return finding.code, str(finding.place), finding.fix


@pytest.mark.parametrize("kind", fields.KINDS)
def test_every_row_has_a_parent_and_a_doc(kind: str) -> None:
    rows = fields.by_tokens(kind)
    for tokens, row in rows.items():
        assert row.doc
        assert len(tokens) == 1 or tokens[:-1] in rows, row.path
        assert row.status == fields.USED or row.why, row.path
    assert len(rows) == len(fields.KINDS[kind])


@pytest.mark.parametrize("kind", fields.KINDS)
def test_the_schema_is_valid_and_compiles(kind: str) -> None:
    Draft202012Validator.check_schema(schemas.schema(kind))
    assert callable(compile_schema(schemas.schema(kind)))


@pytest.mark.parametrize("name", schemas.all_schemas())
def test_the_checked_in_schema_is_the_generated_one(name: str) -> None:
    written = (ROOT / "repo-template/schemas" / name).read_text("utf-8")
    assert written == json.dumps(schemas.all_schemas()[name], indent=2) + "\n"


@pytest.mark.parametrize("kind", fields.KINDS)
def test_the_table_has_a_line_for_every_field(kind: str) -> None:
    lines = schemas.table(kind).splitlines()
    assert len(lines) == len(fields.KINDS[kind]) + 2
    assert all(line.count(" | ") == lines[0].count(" | ") for line in lines[2:])


def test_an_unknown_keyword_does_not_compile() -> None:
    with pytest.raises(ValueError, match="uniqueItems"):
        compile_schema({"type": "array", "uniqueItems": True})


NAME = "name: fraud\n"
BLUE = "name: blue\ninstance_type: x\n"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("endpoint", NAME + "auth_mod: key\n", ("unknown-field", "f.yml:2:1", "did you mean `auth_mode`?")),
        ("endpoint", NAME + "auth_mode: kye\n", ("bad-value", "f.yml:2:12", "did you mean `key`?")),
        ("endpoint", "name: my_ep\n", ("bad-value", "f.yml:1:7", "write `my-ep`")),
        ("endpoint", "name: 123\n", ("bad-value", "f.yml:1:7", 'quote it: "123"')),
        ("endpoint", "name: |\n  fraud\n", ("bad-value", "f.yml:1:7", f"write a value that {fields.NAME_RULE}")),
        ("endpoint", NAME + "traffic: {blue: 101}\n", ("bad-value", "f.yml:2:17", "write 100 or less")),
        ("endpoint", NAME + "traffic: {blue: '101'}\n", ("bad-value", "f.yml:2:17", "write 100 or less")),
        ("endpoint", NAME + "mirror_traffic: {blue: 60}\n", ("bad-value", "f.yml:2:24", "write 50 or less")),
        ("deployment", BLUE + "resources: {}\n",
         ("wrong-platform", "f.yml:3:1", "delete it, or set `type: kubernetes`")),
        ("deployment", BLUE + "model: ./m\n",
         ("bad-value", "f.yml:3:8", "write `{path: ./m}`, or `azureml:NAME:VERSION`")),
        ("deployment", "name: blue\n", ("missing-field", "f.yml:1:1", "add `instance_type:`")),
        ("deployment", BLUE + "instance_count: 0\n", ("bad-value", "f.yml:3:17", "write 1 or more")),
        ("deployment", BLUE + "model: {pth: x}\n", ("unknown-field", "f.yml:3:9", "did you mean `path`?")),
        ("deployment", BLUE + "environment: {docker: {}}\n",
         ("unknown-field", "f.yml:3:15", "write `image:` below `environment`")),
        ("rollout", "mirror: {soak: 1w}\n",
         ("bad-value", "f.yml:1:16", "write a time with its unit, e.g. 10m, 5s or 500ms")),
        ("rollout", "soak: 5\n", ("bad-value", "f.yml:1:7", "write a time with its unit, e.g. 10m, 5s or 500ms")),
        ("endpoint", "- a\n", ("bad-value", "f.yml:1:1", "write `name: value` lines")),
    ],
    ids=lambda v: str(v)[:30],
)  # fmt: skip
def test_a_mistake_has_its_place_and_its_remedy(kind: str, text: str, expected: tuple[str, str, str]) -> None:
    assert one(kind, text) == expected


@pytest.mark.parametrize("text", ["auth_mode: AMLToken", "auth_mode: Key", "traffic: {blue: '100'}", "traffic: {}"])
def test_azures_spellings_are_taken(text: str) -> None:
    assert findings("endpoint", NAME + text + "\n") == ()


def test_all_mistakes_are_told_at_once_and_a_flood_is_cut() -> None:
    assert len(findings("endpoint", "nam: x\nauth_mode: no\ntraffic: [1]\n")) == 4
    flood = findings("endpoint", NAME + "".join(f"x{n}: 1\n" for n in range(300)))
    assert len(flood) == 101
    assert flood[-1].code == "too-many"


def test_a_placeholder_is_told_once_and_free_text_may_hold_one() -> None:
    assert [f.code for f in findings("deployment", "name: blue\ninstance_type: x\nendpoint_name: $EP\n")] == [
        "placeholder"
    ]
    assert findings("deployment", BLUE + "environment_variables: {A: $HOME}\n") == ()


def test_a_long_name_costs_no_comparison() -> None:
    assert closest("x" * 100_000, ["name"]) == ""

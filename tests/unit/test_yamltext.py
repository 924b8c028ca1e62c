from __future__ import annotations

from typing import Any

import pytest

from headgate import yamltext
from headgate.yamltext import parse

LOADERS = [yamltext.LOADER, yamltext.PureLoader]


@pytest.fixture(params=LOADERS, ids=["libyaml", "python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamltext, "LOADER", request.param)
    yamltext._compose.cache_clear()


def value(text: str) -> Any:
    parsed = parse(text.encode(), "f.yml")
    assert parsed.document, parsed.findings
    return parsed.document.value


def refused(data: bytes) -> tuple[str, str]:
    parsed = parse(data, "f.yml")
    assert parsed.document is None
    return parsed.findings[0].code, str(parsed.findings[0].place)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NO", "NO"),
        ("on", "on"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0o17", 15),
        ("0x1f", 31),
        ("-3", -3),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("True", True),
        ("~", None),
        ("", None),
        ('"5"', "5"),
        ("!!str 5", "5"),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_are_yaml_1_2_core(text: str, expected: object) -> None:
    found = value(f"a: {text}\n")["a"]
    assert found == expected
    assert type(found) is type(expected)


def test_a_duplicate_key_names_both_positions() -> None:
    finding = parse(b"a: 1\nb: 2\na: 3\n", "f.yml").findings[0]
    assert (finding.code, str(finding.place)) == ("yaml-duplicate-key", "f.yml:3:1")
    assert "f.yml:1:1" in finding.message


@pytest.mark.parametrize(
    ("data", "code", "place"),
    [
        (b"[" * 25_000, "yaml-depth", "f.yml:1:65"),
        (b"- " * 70 + b"a", "yaml-depth", "f.yml:1:129"),
        (b"a: &x [*x]", "yaml-depth", "f.yml:1:4"),
        (b"x" * (yamltext.MAX_BYTES + 1), "yaml-size", "f.yml"),
        (b"a: b\nc: \xff\n", "yaml-encoding", "f.yml:2:4"),
        (b"a: b\n\x07", "yaml-unprintable", "f.yml:2:1"),
        (b"a:\n\tb: 1\n", "yaml-syntax", "f.yml:2:1"),
        (b"a: 1\n---\nb: 1\n", "yaml-documents", "f.yml:2:1"),
        (b"", "yaml-empty", "f.yml:1:1"),
        (b"# only a comment\n", "yaml-empty", "f.yml:1:1"),
        (b"1: a", "yaml-key", "f.yml:1:1"),
        (b"? [a]\n: b\n", "yaml-key", "f.yml:1:3"),
        (b"<<: {a: 1}", "yaml-key", "f.yml:1:1"),
        (b"a: !!python/object:os.system x", "yaml-tag", "f.yml:1:4"),
        (b"a: *nobody", "yaml-syntax", "f.yml:1:4"),
    ],
    ids=lambda v: str(v)[:24],
)
def test_bad_text_is_a_finding_with_its_place(data: bytes, code: str, place: str) -> None:
    assert refused(data) == (code, place)


def test_aliases_cannot_multiply_without_bound() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    assert refused("\n".join(lines).encode())[0] == "yaml-nodes"


def test_places_count_from_one_and_fall_back_to_the_nearest_parent() -> None:
    document = parse("ä: {b: [1, two]}\nc:\n  d: 5\n".encode(), "f.yml").document
    assert document
    assert str(document.place(("ä", "b", 1))) == "f.yml:1:12"
    assert str(document.key_place(("c", "d"))) == "f.yml:3:3"
    assert str(document.place(("c", "d"))) == "f.yml:3:6"
    assert str(document.place(("c", "nothing", "here"))) == "f.yml:2:1"
    assert str(document.without_value().place(("c", "d"))) == "f.yml:3:6"


def test_unquoted_placeholders_are_named_not_called_a_syntax_error() -> None:
    findings = parse(b"# {{COMMENT}}\nname: {{A}}\nimage: {{B}}.example/x\n", "f.yml").findings
    assert [(f.code, str(f.place)) for f in findings] == [("placeholder", "f.yml:2:7"), ("placeholder", "f.yml:3:8")]


@pytest.mark.parametrize("text", ["$NAME", "${NAME}", "<NAME>", '"{{NAME}}"', "x-{{ NAME }}"])
def test_placeholders_in_values_are_told(text: str) -> None:
    document = parse(f"a:\n  b: {text}\n".encode(), "f.yml").document
    assert document
    assert document.placeholders == ((("a", "b"), "NAME"),)


def test_a_secret_reference_is_no_placeholder() -> None:
    document = parse(b'a: "${{azureml://connections/c/target}}"\n', "f.yml").document
    assert document
    assert document.placeholders == ()

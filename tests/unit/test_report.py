from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from headgate import codes, report
from headgate.findings import Finding, Place, Severity

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "controllers", "policies", "pipelines", "router", "serving", "console")
SAYS = {"Finding", "Fault", "_finding", "finding", "refuse", "_refuse", "_say", "_at"}
CODE = re.compile(r"[a-z]+(-[a-z]+)+|placeholder|listen|capacity|admission|conflict")

HERE = Place("endpoints/f/endpoint.yml", 3, 1)
SUM = Finding("traffic-sum", "traffic adds up to 95", "5 % lost", "raise `blue`", HERE)
ODD = Finding("bad-value", "a <b> | 100%\x07,", "", "", Place("a,b:c.yml"), Severity.WARNING)
SOURCE = "name: fraud\n\ntraffic: {}\n"


def test_text_shows_the_line_with_a_caret() -> None:
    assert report.text([SUM, SUM], {"endpoints/f/endpoint.yml": SOURCE}) == (
        "endpoints/f/endpoint.yml:3:1: error[traffic-sum]: traffic adds up to 95\n"
        "   3 | traffic: {}\n"
        "     | ^\n"
        "  why: 5 % lost\n"
        "  fix: raise `blue`\n"
        "1 error\n"
    )


def test_a_hostile_line_does_not_drive_the_terminal() -> None:
    finding = Finding("bad-value", "m", "", "", Place("f", 1, 900))
    shown = report.text([finding], {"f": "\x1b[2J" + "x" * 2000})
    assert "\x1b" not in shown
    assert max(len(line) for line in shown.splitlines()) < 200


def test_github_commands_are_escaped() -> None:
    first, second = report.github([SUM, ODD]).splitlines()
    assert first == "::warning file=a%2Cb%3Ac.yml,title=bad-value::a <b> | 100%25\x07,"
    assert second.startswith("::error file=endpoints/f/endpoint.yml,line=3,col=1,title=traffic-sum::traffic adds")
    assert "%0Awhy: 5 %25 lost" in second


def test_json_sarif_and_gitlab_carry_place_and_code() -> None:
    (plain,) = json.loads(report.as_json([SUM]))
    assert (plain["code"], plain["line"], plain["severity"]) == ("traffic-sum", 3, "error")
    sarif = json.loads(report.sarif([SUM, ODD]))
    results = sarif["runs"][0]["results"]
    assert sarif["version"] == "2.1.0"
    assert [r["level"] for r in results] == ["warning", "error"]
    assert results[1]["locations"][0]["physicalLocation"]["region"] == {"startLine": 3, "startColumn": 1}
    assert {r["id"] for r in sarif["runs"][0]["tool"]["driver"]["rules"]} == {"traffic-sum", "bad-value"}
    issues = json.loads(report.gitlab([SUM, ODD]))
    assert [i["severity"] for i in issues] == ["minor", "major"]
    assert len({i["fingerprint"] for i in issues}) == 2


def test_junit_is_xml_with_a_case_per_file() -> None:
    suite = ElementTree.fromstring(report.junit([SUM, ODD], checked=["fine.yml"])).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    assert [case.get("name") for case in suite] == ["a,b:c.yml", "endpoints/f/endpoint.yml", "fine.yml"]


def test_markdown_cells_stay_cells() -> None:
    lines = report.markdown([SUM, ODD]).splitlines()
    assert lines[0] == "**1 error, 1 warning**"
    assert "&lt;b> \\| 100%" in lines[4]
    assert report.markdown([]) == "**no findings**\n"


@pytest.mark.parametrize("form", report.FORMATS)
def test_every_format_renders_nothing_and_something(form: str) -> None:
    render = report.FORMATS[form]
    assert isinstance(render([]), str)
    assert "traffic-sum" in render([SUM])


# The registry of codes


def said() -> dict[str, str]:
    """Every code the packages say -> a file that says it."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ast.parse(path.read_text("utf-8"))
            names = constants(module)
            for node in ast.walk(module):
                codes_said = (
                    [*codes_of(node), *named_code(node, names)] if isinstance(node, ast.Call) else default_code(node)
                )
                found.update(dict.fromkeys(codes_said, path.name))
    return found


def constants(module: ast.Module) -> dict[str, str]:
    """Codes that a module has a name for."""
    return {
        node.targets[0].id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str) and CODE.fullmatch(node.value.value)
    }


def named_code(call: ast.Call, names: dict[str, str]) -> list[str]:
    """Of `Finding(code=NAME)`, or `Finding(NAME, ...)`."""
    if getattr(call.func, "id", getattr(call.func, "attr", "")) not in SAYS:
        return []
    given = [*call.args[:1], *(k.value for k in call.keywords if k.arg == "code")]
    return [names[node.id] for node in given if isinstance(node, ast.Name) and node.id in names]


def default_code(node: ast.AST) -> list[str]:
    """Of a field `code: str = "..."`, which whoever makes the value need not name."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "code":
        value = node.value.value if isinstance(node.value, ast.Constant) else None
        return [value] if isinstance(value, str) and CODE.fullmatch(value) else []
    return []


def codes_of(call: ast.Call) -> list[str]:
    if getattr(call.func, "id", getattr(call.func, "attr", "")) not in SAYS:
        return []
    named = [k.value for k in call.keywords if k.arg == "code"]
    literals = [node for node in (*call.args[:2], *named) for node in ast.walk(node) if isinstance(node, ast.Constant)]
    first = [node.value for node in literals if isinstance(node.value, str) and CODE.fullmatch(node.value)]
    either = len(call.args) > 1 and isinstance(call.args[1], ast.IfExp)  # one code or the other
    return first[:2] if either else first[:1]


def test_every_code_that_is_said_is_explained() -> None:
    unexplained = {code: file for code, file in said().items() if code not in codes.CODES}
    assert unexplained == {}


def test_every_code_that_is_explained_is_said() -> None:
    assert set(codes.CODES) - said().keys() == set()


def test_the_page_of_findings_is_the_registry() -> None:
    assert (ROOT / "docs/findings.md").read_text("utf-8") == codes.markdown()

"""Findings as people and programs read them: text, Markdown, JSON, GitHub annotations, SARIF, JUnit, GitLab.

Pure: findings in, text out. A renderer is given the texts of the files when it should show the lines themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from headgate import codec
from headgate.codes import CODES
from headgate.findings import Finding, in_order
from headgate.version import __version__

DOCS = "https://github.com/headgate/headgate/blob/main/docs/findings.md"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
WIDTH = 160  # a line of somebody's file is cut here


def text(findings: Iterable[Finding], sources: Mapping[str, str] | None = None) -> str:
    """For a terminal: place, message, the line with a caret, why, fix; and how many there are."""
    ordered = in_order(findings)
    parts = [_text(finding, sources or {}) for finding in ordered]
    return "\n".join([*parts, summary(ordered)]) + "\n"


def summary(findings: Iterable[Finding]) -> str:
    """`2 errors, 1 warning`, or `no findings`."""
    errors = [f.is_error for f in findings]
    counts = ((sum(errors), "error"), (len(errors) - sum(errors), "warning"))
    return ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in counts if n) or "no findings"


def _text(finding: Finding, sources: Mapping[str, str]) -> str:
    head, *rest = str(finding).split("\n")
    return "\n".join([head, *_excerpt(finding, sources), *rest])


def _excerpt(finding: Finding, sources: Mapping[str, str]) -> list[str]:
    """The line and a caret below its column; nothing without the text, or for a place without a line."""
    place = finding.place
    lines = sources.get(place.file, "").split("\n")
    if not place.line or place.line > len(lines):
        return []
    line = lines[place.line - 1].rstrip("\r")
    start = max(0, place.column - WIDTH // 2) if len(line) > WIDTH else 0
    shown, before = line[start : start + WIDTH], line[start : place.column - 1]
    gutter = f"{place.line:>4} | "
    padding = "".join("\t" if c == "\t" else " " for c in before)
    return [gutter + _printable(shown), " " * (len(gutter) - 2) + "| " + padding + "^"]


def _printable(line: str) -> str:
    """A file of a pull request must not drive the terminal that shows it."""
    return "".join(c if c.isprintable() or c == "\t" else "�" for c in line)


def as_json(findings: Iterable[Finding]) -> str:
    """A list of objects; the keys are stable."""
    return json.dumps([_object(f) for f in in_order(findings)], indent=2, ensure_ascii=False) + "\n"


def _object(f: Finding) -> dict[str, Any]:
    place = {"file": f.place.file, "line": f.place.line, "column": f.place.column}
    about = {"code": f.code, "severity": str(f.severity), "message": f.message, "why": f.why, "fix": f.fix}
    return {**about, **place, "docs": f"{DOCS}#{f.code}"}


def github(findings: Iterable[Finding]) -> str:
    """Workflow commands: annotations on the lines of a pull request."""
    return "".join(_annotation(f) for f in in_order(findings))


def _annotation(f: Finding) -> str:
    at = f",line={f.place.line},col={f.place.column}" if f.place.line else ""
    body = "\n".join(part for part in (f.message, f.why and f"why: {f.why}", f.fix and f"fix: {f.fix}") if part)
    return f"::{f.severity} file={_property(f.place.file)}{at},title={_property(f.code)}::{_data(body)}\n"


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def sarif(findings: Iterable[Finding]) -> str:
    """SARIF 2.1.0, as code scanning services read it."""
    ordered = in_order(findings)
    rules = [_rule(code) for code in sorted({f.code for f in ordered})]
    driver = {"name": "headgate", "version": __version__, "informationUri": DOCS, "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": [_result(f) for f in ordered]}
    document = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _rule(code: str) -> dict[str, Any]:
    meaning, remedy = CODES.get(code, (code, ""))
    about = {"shortDescription": {"text": meaning}, "help": {"text": remedy or meaning}}
    return {"id": code, "helpUri": f"{DOCS}#{code}", **about}


def _result(f: Finding) -> dict[str, Any]:
    location: dict[str, Any] = {"artifactLocation": {"uri": f.place.file}}
    if f.place.line:
        location["region"] = {"startLine": f.place.line, "startColumn": f.place.column}
    level = "error" if f.is_error else "warning"
    message = {"text": _sentence(f)}
    return {"ruleId": f.code, "level": level, "message": message, "locations": [{"physicalLocation": location}]}


def junit(findings: Iterable[Finding], checked: Sequence[str] = ()) -> str:
    """One test case per file that was checked or has findings; errors fail it, warnings are its output."""
    by_file: dict[str, list[Finding]] = {file: [] for file in checked}
    for finding in in_order(findings):
        by_file.setdefault(finding.place.file, []).append(finding)
    failed = sum(any(f.is_error for f in found) for found in by_file.values())
    head = f'<testsuite name="headgate validate" tests="{len(by_file)}" failures="{failed}" errors="0" skipped="0">'
    cases = [_case(file, found) for file, found in sorted(by_file.items())]
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>", head, *cases, "</testsuite>",
                      "</testsuites>"]) + "\n"  # fmt: skip


def _case(file: str, found: list[Finding]) -> str:
    errors, warnings = [f for f in found if f.is_error], [f for f in found if not f.is_error]
    lines = [f"<testcase classname={_attribute('headgate')} name={_attribute(file)}>"]
    if errors:
        body = escape(_xml("\n\n".join(str(f) for f in errors)))
        lines.append(
            f"<failure message={_attribute(errors[0].message)} type={_attribute(errors[0].code)}>{body}</failure>"
        )
    if warnings:
        lines.append(f"<system-out>{escape(_xml(chr(10).join(str(f) for f in warnings)))}</system-out>")
    return "\n".join([*lines, "</testcase>"])


def _attribute(value: str) -> str:
    return quoteattr(_xml(value))


def _xml(value: str) -> str:
    """Without the characters that XML cannot say at all."""
    return _NO_XML.sub("\ufffd", value)


def gitlab(findings: Iterable[Finding]) -> str:
    """GitLab's code quality report."""
    return json.dumps([_issue(f) for f in in_order(findings)], indent=2, ensure_ascii=False) + "\n"


def _issue(f: Finding) -> dict[str, Any]:
    # Without the line: a finding that only moved is the same finding.
    fingerprint = codec.digest([f.place.file, f.code, f.message])
    location = {"path": f.place.file, "lines": {"begin": max(1, f.place.line)}}
    about = {"description": _sentence(f), "check_name": f.code, "fingerprint": fingerprint}
    return {**about, "severity": "major" if f.is_error else "minor", "location": location}


def markdown(findings: Iterable[Finding]) -> str:
    """A table for a review note."""
    ordered = in_order(findings)
    rows = ["| where | what | why | fix |", "| --- | --- | --- | --- |"] if ordered else []
    rows += ["| " + " | ".join(_cells(f)) + " |" for f in ordered]
    return "\n".join([f"**{summary(ordered)}**", *([""] if rows else []), *rows]) + "\n"


def _cells(f: Finding) -> tuple[str, ...]:
    what = f"{'❌' if f.is_error else '⚠️'} {f.message} ([{f.code}]({DOCS}#{f.code}))"
    cells = (f"`{f.place}`", what, f.why, f.fix)
    return tuple(cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in cells)


def _sentence(f: Finding) -> str:
    return f.message + (f" ({f.why})" if f.why else "") + (f". Fix: {f.fix}" if f.fix else "")


FORMATS: Mapping[str, Callable[[Iterable[Finding]], str]] = {
    "text": text,
    "json": as_json,
    "sarif": sarif,
    "github": github,
    "gitlab": gitlab,
    "junit": junit,
    "markdown": markdown,
}

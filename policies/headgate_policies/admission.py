"""Rules of the repository's own over what a commit asks: policies/*.yml, CEL over the documents as they are written.

    rules:
      - name: gpu-has-a-team
        on: deployment
        when: "deployment.instance_type.startsWith('gpu')"
        must: "has(deployment.tags) && 'team' in deployment.tags"
        message: a deployment on GPUs has no team
        fix: "write `tags: {team: ...}`"
        at: instance_type

A rule that does not hold is a finding at the document, refused or only warned of. One that cannot be evaluated (a
field it reads is not there) is refused as well: what was not checked is not let in. Never looks at evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from headgate import conda
from headgate.check import check as check_fields
from headgate.findings import Finding, Place, Severity, in_order
from headgate.gateblocks import SETTINGS, inside
from headgate.paths import read_text
from headgate.ports import Tree
from headgate.reading import ROOT, SUFFIXES
from headgate.yamltext import Document, parse
from headgate_policies.cel import MAP, STRING, CelError, Condition, NoCel

FOLDER = "policies"
MAX_FILES = 100
MAX_RULES = 500
VARIABLES: Mapping[str, Mapping[str, str]] = {  # what a rule on such a document may speak of
    "endpoint": {"name": STRING, "endpoint": MAP, "rollout": MAP, "headgate": MAP},
    "deployment": {"name": STRING, "endpoint": MAP, "rollout": MAP, "headgate": MAP, "deployment": MAP},
    "rollout": {"name": STRING, "endpoint": MAP, "rollout": MAP, "headgate": MAP},
}


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    on: str  # endpoint | deployment | rollout
    must: str
    message: str
    when: str = ""  # empty: always
    fix: str = ""
    at: str = ""  # the field a finding points at, e.g. `environment.image`
    warns: bool = False
    source: str = ""  # file:line:column of the rule


def check(tree: Tree, endpoints: Sequence[str]) -> tuple[Finding, ...]:
    """What the repository's rules say of these endpoints, and what is wrong with the rules."""
    rules, found = read_rules(tree)
    if rules:
        settings = _document(tree, SETTINGS)
        for name in endpoints:
            found += _of_endpoint(tree, name, rules, settings.value if settings else {})
    return in_order(found)


def read_rules(tree: Tree) -> tuple[list[Rule], list[Finding]]:
    """The rules of every file below policies/ that can be used, by file; findings for the others."""
    files = [path for path in sorted(tree.files(FOLDER)) if path.endswith(SUFFIXES)]
    rules: list[Rule] = []
    found: list[Finding] = []
    for path in files[:MAX_FILES]:
        data = read_text(tree, path)
        if isinstance(data, Finding):
            found.append(data)
        else:
            made, wrong = _file(path, data)
            rules += made
            found += wrong
    if len(files) > MAX_FILES or len(rules) > MAX_RULES:
        why = "whoever opens a pull request decides what is read here, so work is bounded"
        fix = "write fewer, or put several into one file"
        message = f"more than {MAX_FILES} files or {MAX_RULES} rules"
        found.append(Finding("policy-rule", message, why, fix, Place(FOLDER)))
    return rules[:MAX_RULES], found


@lru_cache(maxsize=256)  # read for each endpoint that changed
def _file(path: str, data: bytes) -> tuple[tuple[Rule, ...], tuple[Finding, ...]]:
    parsed = parse(data, path)
    if parsed.document is None:
        return (), parsed.findings
    wrong = check_fields(parsed.document, "policy")
    return ((), wrong) if wrong else _rules(parsed.document)


def _rules(document: Document) -> tuple[tuple[Rule, ...], tuple[Finding, ...]]:
    made, found = [], []
    for index, written in enumerate(document.value.get("rules") or []):
        rule = Rule(
            written["name"],
            written.get("on", "deployment").lower(),
            written["must"],
            written["message"],
            written.get("when", ""),
            written.get("fix", ""),
            written.get("at", ""),
            written.get("severity", "deny").lower() == "warn",
            str(document.place(("rules", index, "name"))),
        )
        wrong = [f for key in ("when", "must") if (f := _uncompiled(document, index, key, rule)) is not None]
        found += wrong
        if not wrong:
            made.append(rule)
    return tuple(made), tuple(found)


def _uncompiled(document: Document, index: int, key: str, rule: Rule) -> Finding | None:
    text = getattr(rule, key)
    try:
        if text:
            _condition(text, rule.on)
    except NoCel as error:
        why, fix = "rules are expressions", "pip install 'headgate[cel]'"
        return Finding("cel-missing", str(error), why, fix, document.key_place(("rules", index, key)))
    except CelError as error:
        path = ("rules", index, key)
        place = inside(document, path, text, error.line, error.column) if error.line else document.place(path)
        why = f"a rule on `{rule.on}` may speak of {', '.join(VARIABLES[rule.on])}"
        return Finding("policy-rule", f"rule `{rule.name}`: {error}", why, error.fix or "correct it", place)
    return None


@lru_cache(maxsize=1_024)
def _condition(text: str, on: str) -> Condition:
    return Condition(text, VARIABLES[on])


def _of_endpoint(tree: Tree, name: str, rules: Sequence[Rule], settings: Any) -> Iterator[Finding]:
    folder = f"{ROOT}/{name}"
    endpoint, rollout = (_first(tree, f"{folder}/{kind}") for kind in ("endpoint", "rollout"))
    below = f"{folder}/deployments/"
    paths = [p for p in sorted(tree.files(folder)) if p.startswith(below) and p.endswith(SUFFIXES)]
    found = [_document(tree, path) for path in paths if "/" not in path[len(below) :]]
    deployments = [document for document in found if document and not conda.looks_like(document.value)]
    values = {
        "name": name,
        "endpoint": endpoint.value if endpoint else {},
        "rollout": rollout.value if rollout else {},
        "headgate": settings,
    }
    for rule in rules:
        if rule.on == "deployment":
            for document in deployments:
                yield from _judge(rule, document, {**values, "deployment": document.value})
        else:
            document_of = endpoint if rule.on == "endpoint" else rollout or endpoint
            if document_of is not None:
                yield from _judge(rule, document_of, values)


def _judge(rule: Rule, document: Document, values: Mapping[str, Any]) -> Iterator[Finding]:
    place = document.place(tuple(rule.at.split("."))) if rule.at else Place(document.file, 1, 1)
    try:
        applies = not rule.when or _condition(rule.when, rule.on).holds(values)
        if not applies or _condition(rule.must, rule.on).holds(values):
            return
    except CelError as error:
        message = f"rule `{rule.name}` cannot be evaluated here: {error}"
        fix = f"guard what may be missing with has(...) in {rule.source}"
        yield Finding("admission", message, "what was not checked is not let in", fix, place)
        return
    severity = Severity.WARNING if rule.warns else Severity.ERROR
    why = f"rule `{rule.name}` of {rule.source}: {' '.join(rule.must.split())[:200]}"
    yield Finding("admission", rule.message, why, rule.fix or "make the rule hold, or change it", place, severity)


def _first(tree: Tree, path: str) -> Document | None:
    return next((d for suffix in SUFFIXES if (d := _document(tree, f"{path}{suffix}"))), None)


def _document(tree: Tree, path: str) -> Document | None:
    """A mapping; None: there is none, or it is none, which others report."""
    if tree.object_id(path) is None:
        return None
    data = read_text(tree, path)
    document = parse(data, path).document if isinstance(data, bytes) else None
    return document if document and isinstance(document.value, dict) else None

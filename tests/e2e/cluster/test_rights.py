"""Each rule of the Roles is needed: with it taken away, something Headgate does is refused, and comes back with it.

The cluster itself says so: its refusal names verb and resource, and Headgate's log has it. README.md turns it on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headgate_kit.kube.rights import CONTROLLER, ROUTER, Right, rights
from installation import CLAIMS, Installation, within

SETTINGS = {"engine": "pods", "resources.enabled": "true", "nodes.read": "true"}
REFUSED = re.compile(r'cannot (\w+) resource "([\w/]+)"')
SEEN_S = 90.0
NEEDED = [(part, right) for part in (CONTROLLER, ROUTER) for right in rights(part, SETTINGS) if not right.cluster]


pytestmark = pytest.mark.skipif(
    not CLAIMS, reason="a controller that is replaced needs its volume: HEADGATE_E2E_CLAIMS=1 where claims are bound"
)


@pytest.fixture(scope="module")
def installed(installation: Installation) -> Installation:
    installation.write("hello")
    installation.push("first")
    installation.install()
    within(120, lambda: installation.get("onlineendpoint", "greet"), "the endpoint is shown")
    installation.kubectl("wait", "--for=condition=Ready", "onlineendpoint/greet", "--timeout=180s")
    return installation


@contextmanager
def without(installed: Installation, part: str, right: Right) -> Iterator[None]:
    role = installed.get("role", f"headgate-{part}")
    kept = [rule for rule in role["rules"] if not _is(rule, right)]
    assert len(kept) == len(role["rules"]) - 1
    _write(installed, role, kept)
    try:
        yield
    finally:
        _write(installed, role, role["rules"])


def _is(rule: dict[str, Any], right: Right) -> bool:
    named = (rule["apiGroups"], rule["resources"], rule["verbs"])
    return named == ([right.group], [right.resource], list(right.verbs))


def _write(installed: Installation, role: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    patch = json.dumps({"rules": rules})
    installed.kubectl("patch", "role", role["metadata"]["name"], "--type=merge", "-p", patch)


def everything(installed: Installation, part: str, word: str) -> None:
    """What makes each right be used: a start, a rollout, a log, an edit by hand."""
    installed.kubectl("delete", "pod", "-l", f"headgate.dev/part={part}", "--wait=false")
    if part == CONTROLLER:
        installed.write(word)
        installed.push(word)


@pytest.mark.parametrize(("part", "right"), NEEDED, ids=[f"{p}-{r.resource}-{r.verbs[0]}" for p, r in NEEDED])
def test_without_this_rule_something_is_refused(installed: Installation, part: str, right: Right) -> None:
    word = f"without-{right.plural}-{right.verbs[0]}"
    if right.resource == "pods/log":
        within(60, lambda: installed.headgate("logs", "greet").stdout, "a replica's log is shown")
    with without(installed, part, right):
        everything(installed, part, word)
        found = within(SEEN_S, lambda: _refusal(installed, part, right), f"a refusal of {right.resource}")
    assert found in right.verbs


def _refusal(installed: Installation, part: str, right: Right) -> str:
    """The refused verb; empty: none was refused yet."""
    if right.resource == "pods/log":  # a log that may not be read is shown as an empty one
        shown = installed.headgate("logs", "greet")
        return "get" if shown.returncode == 0 and not shown.stdout else ""
    if right.resource == "events":
        installed.kubectl(
            "patch", "onlineendpoint", "greet", "--type=merge", "-p", '{"spec": {"authMode": "none"}}', check=False
        )
    log = installed.kubectl("logs", f"deployment/headgate-{part}", "--tail=400", check=False)
    for verb, resource in REFUSED.findall(log):
        if resource == right.resource and verb in right.verbs:
            return str(verb)
    return ""

"""Each rule of the Roles is needed: with it taken away, something Headgate does is refused, and comes back with it.

The cluster itself says so: its refusal names verb and resource, and Headgate's log has it. README.md turns it on.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bench.numbers import keep

from headgate_kit.kube.rights import CONTROLLER, ROUTER, Right, rights
from installation import CLAIMS, Installation, within

SETTINGS = {"engine": "pods", "resources.enabled": "true", "nodes.read": "true"}
REFUSED = re.compile(r'cannot (\w+) resource "([\w/]+)"')
COUNTED = re.compile(r'headgate_cluster_requests_total\{resource="([^"]+)",scope="(\w+)",verb="(\w+)"\}')
SEEN_S = 90.0
RUN = ("instance_count", "scale_settings", "type")
# Made by server-side apply alone: to the API server that is a patch, and a create besides when there was none.
APPLIED = ("serviceaccounts", "endpointrollouts")
EVERYBODYS = ("server", "selfsubjectaccessreviews")  # what any account may ask
# All pods of a pool count for its room; where that may not be listed, those of the namespace do.
TRIED = {("pods", "list", "cluster")}
FORGOTTEN = {
    "apiVersion": "headgate.dev/v1alpha1",
    "kind": "EndpointRollout",
    "metadata": {"name": "ro-forgotten"},
    "spec": {"endpoint": "greet", "commit": "0" * 40, "attempt": 1, "candidate": "", "planHash": "", "ops": []},
}
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


# Right -> when it is used, and which test shows that: a create whose answer was lost is not to be had on demand.
SHOWN_ELSEWHERE = {("pods", "get"): "tests/integration/test_pods_engine.py: a pod that is there already"}
SETTLED_S = 90.0


def used(installed: Installation) -> set[tuple[str, str, str]]:
    """(resource, verb, scope) of every request the controller has made, as it counted them."""
    with installed.forward("svc/headgate-controller", "control") as port:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = COUNTED.findall(text)
    return {(resource, verb, scope) for resource, scope, verb in found}


def set_run(installed: Installation, **fields: str) -> None:
    """Run settings of the deployment, which are applied in place."""
    file = installed.work / "endpoints/greet/deployments/blue.yml"
    kept = [line for line in file.read_text().splitlines() if line.partition(":")[0] not in (*fields, *RUN)]
    file.write_text(
        "\n".join([*kept, "type: kubernetes", *(f"{name}: {value}" for name, value in fields.items())]) + "\n"
    )
    installed.push(f"run {fields}")


def live_a_life(installed: Installation) -> None:
    """Everything a controller does in its life, once."""

    def there(kind: str, selector: str = "headgate.dev/part=model") -> int:
        return len(installed.get(kind, selector=selector)["items"])

    set_run(installed, instance_count="2")
    within(SETTLED_S, lambda: there("poddisruptionbudgets") == 1, "two replicas have a budget")
    scaling = "{type: target_utilization, min_instances: 2, max_instances: %d, target_utilization_percentage: 70}"
    for most in (3, 4):
        set_run(installed, instance_count="2", scale_settings=scaling % most)
        within(SETTLED_S, lambda n=most: _most(installed) == n, "it is scaled")
    set_run(installed, instance_count="1")
    within(SETTLED_S, lambda: there("poddisruptionbudgets") + there("horizontalpodautoscalers") == 0, "it is not")
    within(SETTLED_S, lambda: there("pods") == 1, "one replica is left")
    assert installed.headgate("logs", "greet").returncode == 0
    assert installed.headgate("keys", "rotate", "greet").returncode == 0
    assert installed.headgate("plan", "--help").returncode == 0
    edit = '{"spec": {"authMode": "none"}}'
    installed.kubectl("patch", "onlineendpoint", "greet", "--type=merge", "-p", edit)
    within(SETTLED_S, lambda: "PutBack" in installed.kubectl("get", "events"), "an event tells of the edit")
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(FORGOTTEN))
    within(SETTLED_S, lambda: not installed.get("endpointrollout", "ro-forgotten"), "one nobody knows is taken away")
    installed.kubectl("delete", "service", "-l", "headgate.dev/part=model")
    within(SETTLED_S, lambda: there("services") == 1, "what somebody deleted is put back")
    shutil.rmtree(installed.work / "endpoints/greet")
    (installed.work / "headgate.yml").write_text((installed.work / "headgate.yml").read_text() + "removal_grace: 1s\n")
    installed.push("no more greetings")
    within(SETTLED_S, lambda: not installed.get("onlineendpoint", "greet"), "the endpoint is gone")
    within(SETTLED_S, lambda: there("deployments") + there("serviceaccounts") == 0, "and what it had")


def _most(installed: Installation) -> int:
    found = installed.get("horizontalpodautoscalers", selector="headgate.dev/part=model")["items"]
    return int(found[0]["spec"]["maxReplicas"]) if found else 0


def test_what_a_role_grants_is_exactly_what_is_used(installed: Installation) -> None:
    granted = {
        (right.resource, verb, "cluster" if right.cluster else "namespace")
        for right in rights(CONTROLLER, SETTINGS)
        for verb in right.verbs
    }
    live_a_life(installed)
    found = used(installed)
    asked = {one for one in found if one[0] not in EVERYBODYS}
    asked |= {(resource, "patch", scope) for resource, verb, scope in asked if verb == "create" and resource in APPLIED}
    print(f"{len(asked)} of {len(granted)} rights were used")
    unused = {(resource, verb) for resource, verb, _ in granted - asked}
    assert (asked - granted - TRIED, unused) == (set(), set(SHOWN_ELSEWHERE))
    keep("cluster", {"rights": {"granted": len(granted), "used": len(asked & granted), "refused": 0}})


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

"""A Role grants exactly what is used, and each verb of it is needed: taken away, the cluster refuses a request of ours.

A verb is one right on one resource. Taken away are those that one act asks for, and each is given back once it was
refused, so that the next is asked for. The cluster itself says what it refused: in our log, and as our client counts it
(`headgate_cluster_refused_total`). README.md turns it on. Kept in bench/results/cluster.json, `rights`, is which act
misses which right; docs/cluster.md shows it, and tests/unit/test_rights.py wants all of them there.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bench.numbers import RESULTS, keep

from acts import ACTS, EDIT, FORGOTTEN, MODELS, Verb, remove, scaled_to, set_run, there
from headgate_kit.kube.client import NO_RIGHT
from headgate_kit.kube.rights import CONTROLLER, ROUTER, rights
from installation import CLAIMS, Installation, within
from world import PATIENCE_S

SETTINGS = {"engine": "pods", "resources.enabled": "true", "nodes.read": "true"}
REQUESTS = re.compile(r'headgate_cluster_(requests|refused)_total\{resource="([^"]+)",scope="(\w+)",verb="(\w+)"\}')
# Made by server-side apply alone: to the API server that is a patch, and a create besides when there was none.
APPLIED = ("serviceaccounts", "endpointrollouts")
# Side by side is what does not touch what another act needs.
TURNS = (
    ("it comes back",),
    ("its Lease is deleted",),
    ("all is deleted", "its keys are deleted", "a log is asked for", "a hand edits"),
    ("it shrinks",),
    ("a rollout ends",),
    ("a rollout begins",),
    ("routers come back",),
    ("the endpoint is removed",),
)
EVERYBODYS = ("server", "selfsubjectaccessreviews")  # what any account may ask
# All pods of a pool count for its room; where that may not be listed, those of the namespace do.
TRIED: set[Verb] = {("pods", "list", "cluster")}
on_a_cluster = pytest.mark.skipif(
    not CLAIMS, reason="a controller that is replaced needs its volume: HEADGATE_E2E_CLAIMS=1 where claims are bound"
)


def granted(part: str) -> set[Verb]:
    return {
        (r.resource, verb, "cluster" if r.cluster else "namespace") for r in rights(part, SETTINGS) for verb in r.verbs
    }


def serving(installed: Installation) -> None:
    """Waits until the endpoint answers and nothing is under way."""

    def settled() -> bool:
        found = installed.get("onlineendpoint", "greet")
        states = {c["type"]: c["status"] for c in (found or {}).get("status", {}).get("conditions", ())}
        return (states.get("Ready"), states.get("Reconciling")) == ("True", "False")

    within(2 * PATIENCE_S, settled, "the endpoint serves")


@pytest.fixture(scope="module")
def installed(installation: Installation) -> Installation:
    installation.write("hello")
    installation.push("first")
    installation.install()
    serving(installation)
    return installation


class Api:
    """The cluster's API, asked through one `kubectl proxy`: a question costs no process."""

    def __init__(self, installed: Installation, url: str) -> None:
        self._url = url
        self._core = f"/api/v1/namespaces/{installed.namespace}"
        self._rbac = "/apis/rbac.authorization.k8s.io/v1"
        self._roles = {"role": f"{self._rbac}/namespaces/{installed.namespace}/roles"}
        self._roles["clusterrole"] = f"{self._rbac}/clusterroles"

    def pods(self, part: str) -> list[str]:
        found = self._ask(f"{self._core}/pods?labelSelector=headgate.dev%2Fpart%3D{part}")
        return [str(item["metadata"]["name"]) for item in json.loads(found or '{"items": []}')["items"]]

    def metrics(self, pod: str) -> str:
        """Empty: it is not up."""
        return self._ask(f"{self._core}/pods/{pod}:7070/proxy/metrics")

    def logs(self, pod: str) -> str:
        """Of its container, and of the one before."""
        path = f"{self._core}/pods/{pod}/log?tailLines=2000"
        return self._ask(path) + self._ask(f"{path}&previous=true")

    def rules(self, kind: str, name: str) -> list[dict[str, Any]]:
        return list(json.loads(self._ask(f"{self._roles[kind]}/{name}"))["rules"])

    def grant(self, kind: str, name: str, rules: list[dict[str, Any]]) -> None:
        assert self._ask(f"{self._roles[kind]}/{name}", {"rules": rules}), f"{kind} {name} is patched"

    def _ask(self, path: str, patch: Any = None) -> str:
        """The answer's body; empty: it is none that helps."""
        headers = {"Content-Type": "application/merge-patch+json"} if patch else {}
        body, method = (json.dumps(patch).encode(), "PATCH") if patch else (None, "GET")
        request = urllib.request.Request(self._url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""


@pytest.fixture(scope="module")
def api(installed: Installation) -> Iterator[Api]:
    words = ["kubectl", "proxy", "--port=0", "--address=127.0.0.1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Api(installed, f"http://{process.stdout.readline().split()[-1]}")
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def counted(api: Api, what: str) -> set[Verb]:
    """(resource, verb, scope) of every request, or of every refusal, that a controller counts. Empty: it is not up."""
    found = REQUESTS.findall("\n".join(api.metrics(pod) for pod in api.pods(CONTROLLER)))
    return {(resource, verb, scope) for family, resource, scope, verb in found if family == what}


# --- what is granted is used ------------------------------------------------------------------------------------------


def live_a_life(installed: Installation) -> None:
    """Everything a controller does in its life, once."""
    set_run(installed, instance_count="2")
    within(PATIENCE_S, lambda: there(installed, "poddisruptionbudgets") == 1, "two replicas have a budget")
    for most in (3, 4):
        scaled_to(installed, most)
    set_run(installed, instance_count="1")
    kinds = ("poddisruptionbudgets", "horizontalpodautoscalers")
    within(PATIENCE_S, lambda: not any(there(installed, kind) for kind in kinds), "it is not")
    within(PATIENCE_S, lambda: there(installed, "pods") == 1, "one replica is left")
    assert installed.headgate("logs", "greet").returncode == 0
    assert installed.headgate("keys", "rotate", "greet").returncode == 0
    installed.kubectl(*EDIT)
    within(PATIENCE_S, lambda: "PutBack" in installed.kubectl("get", "events"), "an event tells of the edit")
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(FORGOTTEN))
    within(PATIENCE_S, lambda: not installed.get("endpointrollout", "ro-forgotten"), "one nobody knows is taken away")
    installed.kubectl("delete", "service", "-l", MODELS)
    within(PATIENCE_S, lambda: there(installed, "services") == 1, "what somebody deleted is put back")
    remove(installed)
    within(PATIENCE_S, lambda: not installed.get("onlineendpoint", "greet"), "the endpoint is gone")
    kinds = ("deployments", "serviceaccounts")
    within(PATIENCE_S, lambda: not any(there(installed, kind) for kind in kinds), "and what it had")


@on_a_cluster
def test_what_a_role_grants_is_exactly_what_is_used(installed: Installation, api: Api) -> None:
    live_a_life(installed)
    asked = {one for one in counted(api, "requests") if one[0] not in EVERYBODYS}
    asked |= {(resource, "patch", scope) for resource, verb, scope in asked if verb == "create" and resource in APPLIED}
    may = granted(CONTROLLER)
    print(f"{len(asked & may)} of {len(may)} rights were used")
    assert (asked - may - TRIED, may - asked) == (set(), set())
    note(granted={p: len(granted(p)) for p in (CONTROLLER, ROUTER)}, used={CONTROLLER: len(asked & may)}, missed={})


def note(**figures: Any) -> None:
    keep("cluster", {"rights": {**noted(), **figures}})


def noted() -> dict[str, Any]:
    file = RESULTS / "cluster.json"
    found: dict[str, Any] = json.loads(file.read_text()).get("rights", {}) if file.exists() else {}
    return found


# --- what is taken away is missed -------------------------------------------------------------------------------------


class Roles:
    """A part's Role, and the controller's ClusterRole, with verbs taken out."""

    def __init__(self, installed: Installation, api: Api, part: str) -> None:
        self._api = api
        names = [("role", f"headgate-{part}")]
        if part == CONTROLLER:
            names.append(("clusterrole", f"headgate-nodes-{installed.namespace}"))
        self._rules = {(kind, name): api.rules(kind, name) for kind, name in names}

    def grant_all_but(self, missing: set[Verb]) -> None:
        gone = {(resource, verb) for resource, verb, _ in missing}
        for (kind, name), rules in self._rules.items():
            left = [
                {**rule, "verbs": [v for v in rule["verbs"] if (rule["resources"][0], v) not in gone]} for rule in rules
            ]
            self._api.grant(kind, name, [rule for rule in left if rule["verbs"]])

    @contextmanager
    def without(self, missing: set[Verb]) -> Iterator[None]:
        self.grant_all_but(missing)
        try:
            yield
        finally:
            self.grant_all_but(set())


def refused(api: Api, part: str) -> set[Verb]:
    """What the pods of a part were refused, as long as they live: one that ends over it has only its log."""
    found = set() if part == ROUTER else counted(api, "refused")
    for pod in api.pods(part):
        said = NO_RIGHT.findall(api.logs(pod).replace("\\", ""))
        found |= {(what, verb, "namespace" if "namespace" in where else "cluster") for verb, what, where in said}
    return found


def test_every_verb_has_an_act_that_needs_it() -> None:
    for part in (CONTROLLER, ROUTER):
        acted = [verb for act in ACTS.values() if act.part == part for verb in act.verbs]
        assert len(acted) == len(set(acted))
        assert set(acted) == granted(part)


def test_every_act_has_its_turn() -> None:
    assert sorted(name for turn in TURNS for name in turn) == sorted(ACTS)


@on_a_cluster
@pytest.mark.parametrize("turn", TURNS, ids=", ".join)
def test_each_verb_that_is_taken_away_is_missed(installed: Installation, api: Api, turn: tuple[str, ...]) -> None:
    acts = {name: ACTS[name] for name in turn}
    part = acts[turn[0]].part
    if not (installed.work / "endpoints/greet").exists():
        installed.write("hello again")
        installed.push("greetings")
    serving(installed)
    for act in acts.values():
        act.before(installed)
    missing = {verb for act in acts.values() for verb in act.verbs}
    assert not missing & refused(api, part), "nothing of it was refused while it was granted"
    roles = Roles(installed, api, part)

    def all_missed() -> bool:
        for act in acts.values():
            if act.verbs & missing:
                act.again(installed)
        found = missing & refused(api, part)
        missing.difference_update(found)
        if found:
            roles.grant_all_but(missing)
        return not missing

    with roles.without(missing):
        for act in acts.values():
            act.do(installed)
        try:
            within(PATIENCE_S, all_missed, "each was refused")
        except AssertionError as error:
            raise AssertionError(f"never asked for: {sorted(missing)}") from error
    missed = {f"{part} {what} {verb}": name for name, act in acts.items() for what, verb, _ in act.verbs}
    note(missed={**noted().get("missed", {}), **missed})

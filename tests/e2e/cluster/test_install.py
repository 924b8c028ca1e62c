"""From nothing to a first endpoint that answers, and what an installation lives through. README.md turns it on."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.numbers import keep

from headgate_kit.kube.rights import CONTROLLER, ROUTER, rights
from installation import CLAIMS, PARTS, Installation, Recorder, ask, within

FIRST_S = 180.0  # the promise: install → first endpoint answering
ROLLOUT_S = 120.0
# What an upgrade goes to; without it only the pods are others.
OTHER_IMAGES = os.environ.get("HEADGATE_E2E_OTHER_IMAGES", "")
OTHER = (
    {
        f"{part}.image.digest": image["digest"]
        for part, image in json.loads(Path(OTHER_IMAGES).read_text()).items()
        if part in PARTS
    }
    if OTHER_IMAGES
    else {}
)
SETTINGS = {"engine": "pods", "resources.enabled": "true", "nodes.read": "true"}


@pytest.fixture(scope="module")
def installed(installation: Installation) -> Installation:
    """Headgate with one endpoint that answers; says how long that took."""
    installation.write("hello")
    installation.push("first")
    began = time.monotonic()
    installation.install()
    within(120, lambda: installation.get("onlineendpoint", "greet"), "the endpoint is shown")
    installation.kubectl("wait", "--for=condition=Ready", "onlineendpoint/greet", f"--timeout={FIRST_S:.0f}s")
    key = within(20, installation.key, "the endpoint has a key")
    with installation.forward("svc/headgate-router", "http") as port:
        within(30, lambda: ask(port, key)[0] == 200, "it answers")
    installation.note("install to first answer", time.monotonic() - began)
    return installation


def said(installed: Installation) -> tuple[int, str]:
    with installed.forward("svc/headgate-router", "http") as port:
        status, body = ask(port, installed.key())
    return status, json.loads(body).get("said", "") if status == 200 else body.decode(errors="replace")


def settled(installed: Installation, commit: str) -> None:
    """The commit is what serves."""
    found = installed.headgate("status", "greet", "--watch", "--commit", commit, "--timeout", f"{ROLLOUT_S:.0f}s")
    assert found.returncode == 0, found.stdout + found.stderr


@contextmanager
def callers(installed: Installation) -> Iterator[Counter[int]]:
    """Somebody who calls all the while, from inside the cluster; answers by status."""
    recorder = Recorder(installed, installed.key())
    recorder.start()
    seen: Counter[int] = Counter()
    yield seen
    seen.update(recorder.stop())


def test_the_first_endpoint_answers_within_the_promised_time(installed: Installation) -> None:
    assert said(installed) == (200, "hello")
    assert installed.figures["install to first answer"] < FIRST_S


def test_a_second_commit_goes_live_and_a_git_revert_takes_it_back(installed: Installation) -> None:
    settled(installed, installed.git("rev-parse", "HEAD"))
    with callers(installed) as seen:
        installed.write("bye")
        settled(installed, installed.push("second"))
        assert said(installed) == (200, "bye")
        installed.git("revert", "--no-edit", "HEAD")
        began = time.monotonic()
        installed.git("push", "-q", "origin", "HEAD:main")
        with installed.forward("svc/headgate-router", "http") as port:
            key = installed.key()
            within(30, lambda: b"hello" in ask(port, key)[1], "the revert is live")
        installed.note("git revert to answers of the revision before", time.monotonic() - began)
    installed.note("requests during rollout and revert", float(sum(seen.values())))
    assert set(seen) == {200}, seen


def test_the_cluster_shows_endpoint_and_rollouts(installed: Installation) -> None:
    table = installed.kubectl("get", "onlineendpoints").splitlines()
    assert table[0].split() == ["NAME", "URL", "READY", "STABLE", "CANDIDATE", "WEIGHT", "REVISION", "AGE"]
    assert "blue" in table[1]
    found = installed.get("endpointrollouts")["items"]
    assert {item["spec"]["endpoint"] for item in found} == {"greet"}
    assert "succeeded" in {item["status"]["state"] for item in found}


def test_an_edit_by_hand_is_put_back_and_reported(installed: Installation) -> None:
    before = installed.get("onlineendpoint", "greet")["spec"]
    installed.kubectl(
        "patch", "onlineendpoint", "greet", "--type=merge", "-p", '{"spec": {"authMode": "none", "deployments": []}}'
    )
    within(20, lambda: installed.get("onlineendpoint", "greet")["spec"] == before, "it is put back")
    within(10, lambda: "PutBack" in installed.kubectl("get", "events"), "an event says so")
    assert "was edited" in installed.headgate("status", "-o", "json").stdout


def test_a_spec_that_does_not_add_up_is_refused_by_the_cluster(installed: Installation) -> None:
    name = '{"spec": {"deployments": [{"name": "blue", "revision": "r", "traffic": 950}]}}'
    with pytest.raises(AssertionError, match="traffic adds up to 1000 per mille"):
        installed.kubectl("patch", "onlineendpoint", "greet", "--type=merge", "-p", name)


def test_the_doctor_finds_nothing_to_do(installed: Installation) -> None:
    found = installed.headgate("doctor", "-o", "json")
    wrong = [c for c in json.loads(found.stdout)["items"] if c["state"] == "fail"]
    assert (wrong, found.returncode) == ([], 0)


needs_claims = pytest.mark.skipif(
    not CLAIMS, reason="a controller that is replaced needs its volume: HEADGATE_E2E_CLAIMS=1 where claims are bound"
)


def running(installed: Installation, part: str) -> set[str]:
    """Pods that are not about to end."""
    found = installed.get("pods", selector=f"headgate.dev/part={part}")["items"]
    return {str(pod["metadata"]["uid"]) for pod in found if not pod["metadata"].get("deletionTimestamp")}


@needs_claims
@pytest.mark.parametrize("how", ["upgrade", "rollback"])
def test_another_version_of_headgate_costs_no_answer_and_restarts_no_model(installed: Installation, how: str) -> None:
    models = within(30, lambda: running(installed, "model"), "models run")
    before = {part: running(installed, part) for part in ("router", "controller")}
    with callers(installed) as seen:
        if how == "upgrade":
            marks = {f"{part}.podAnnotations.upgraded": "a" for part in before}
            installed.install(**marks, **OTHER)
        else:
            installed.helm("rollback", "headgate")
        for part in before:
            installed.kubectl("rollout", "status", f"deployment/headgate-{part}", "--timeout=110s")
        assert said(installed)[0] == 200
    for part, pods in before.items():
        assert not pods & running(installed, part), f"every {part} is another pod"
    keep("cluster", {how: {"requests": sum(seen.values()), "failed": sum(seen.values()) - seen[200]}})
    assert set(seen) == {200}, seen
    assert sum(seen.values()) > 100
    assert running(installed, "model") == models


def test_each_rule_of_the_roles_is_granted_and_none_is_more(installed: Installation) -> None:
    for part in (CONTROLLER, ROUTER):
        asked = {(r.group, r.resource, verb) for r in rights(part, SETTINGS) if not r.cluster for verb in r.verbs}
        role = installed.get("role", f"headgate-{part}")
        granted = {
            (group, resource, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        assert granted == asked
        assert not [rule for rule in granted if "*" in rule]


@needs_claims
def test_two_controllers_take_turns(installed: Installation) -> None:
    installed.kubectl("scale", "deployment/headgate-controller", "--replicas=2")

    def pods() -> dict[str, bool]:
        found = installed.get("pods", selector="headgate.dev/part=controller")["items"]
        return {
            pod["metadata"]["name"]: any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ())
            )
            for pod in found
            if not pod["metadata"].get("deletionTimestamp") and pod["status"]["phase"] == "Running"
        }

    within(60, lambda: len(pods()) == 2 and sum(pods().values()) == 1, "one acts, one waits")
    first = next(name for name, ready in pods().items() if ready)
    installed.kubectl("delete", "pod", first, "--wait=false")
    within(60, lambda: any(ready for name, ready in pods().items() if name != first), "the other one takes over")
    holder = installed.get("lease", "headgate-controller")["spec"]["holderIdentity"]
    assert holder != first
    installed.kubectl("scale", "deployment/headgate-controller", "--replicas=1")

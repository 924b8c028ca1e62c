"""What befalls a new revision, or one of two replicas: said in the endpoint's conditions, given up in time, not seen.

Six endpoints get a commit each that cannot serve, all at once; somebody calls all of them all the while. README.md
turns it on; figures are kept in bench/results/cluster.json, `faults` (docs/cluster.md has the table).
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bench.numbers import RESULTS, keep

import machine
from headgate.fault import CODE
from installation import GPU_POOL, REGISTRY, Installation, Recorder, within
from world import PATIENCE_S, World, ready, start

PAIR = "greet"  # the endpoint with two replicas
NO = "the team says no"
GIVEN_UP_S = 420.0
EATS = "kept = [bytearray(1 << 20) for _ in range(4096)]"
DIES = "raise ValueError('there is no model')"
RULES = "validatingadmissionpolicy,validatingadmissionpolicybinding"

pytestmark = pytest.mark.skipif(bool(machine.missing()), reason=machine.LACKS)


@dataclass(frozen=True, slots=True)
class Fault:
    """What a commit does to an endpoint of this name, and the words in which it is told."""

    endpoint: str
    file: str  # below the endpoint's folder
    old: str
    new: str
    words: str
    ours: bool = False  # the installation's: its rollout is held, not given up


BLUE = "deployments/blue.yml"
FAULTS = (
    Fault(
        "image", "code/score.py", "def init():", "# another image\ndef init():", "its image cannot be pulled", ours=True
    ),
    Fault("memory", "code/score.py", "    global word", f"    {EATS}\n    global word", "OOM"),
    Fault("crash", "code/score.py", "    global word", f"    {DIES}\n    global word", "there is no model"),
    Fault("secret", BLUE, "{WORD: hello}", '{WORD: bye, DB: "${{secretref:nobody/url}}"}', '"nobody" not found'),
    Fault("admission", BLUE, "{WORD: hello}", "{WORD: bye}", NO),
    Fault("quota", BLUE, "instance_type: small", "instance_type: gpu", "nvidia.com/gpu"),
)


def lay(world: World, name: str) -> None:
    """An endpoint like `greet`."""
    greet = world.place.work / "endpoints/greet"
    folder = greet.with_name(name)
    shutil.copytree(greet, folder)
    edit(folder / "endpoint.yml", "name: greet", f"name: {name}")
    edit(folder / "rollout.yml", "mirror: {percent: 50, soak: 3s}", "mirror: {percent: 0}\non_failure: hold")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{file} has no {old}"
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def world(installation: Installation) -> World:
    """An endpoint with two replicas, and one for each fault: all serve."""
    made = start(installation, also=_lay_all)
    for fault in FAULTS:
        within(PATIENCE_S, lambda n=fault.endpoint: (made.ask(f"/endpoints/{n}") or {}).get("state") == "Healthy",
               fault.endpoint)  # fmt: skip
    return made


def _lay_all(world: World) -> None:
    for fault in FAULTS:
        lay(world, fault.endpoint)
    edit(world.place.work / "endpoints" / PAIR / BLUE, "instance_count: 1", "instance_count: 2")
    gpu = f"  gpu: {{cpus: 0.1, memory_gb: 0.25, gpus: 1, node_pool: {GPU_POOL}}}\n  small:"
    edit(world.place.work / "headgate.yml", "  small:", gpu)


@contextmanager
def callers(world: World, *names: str) -> Iterator[dict[str, Any]]:
    """Somebody who calls these endpoints in turn: every answer is 200."""
    recorder = Recorder(world.place, {name: world.place.key(name) for name in names})
    recorder.start()
    row: dict[str, Any] = {}
    try:
        yield row
    finally:
        seen = recorder.stop()
    failed = sum(count for status, count in seen.items() if status != 200)
    row |= {"requests": sum(seen.values()), "failed": failed, "asked_again": recorder.again}
    assert set(seen) == {200}, seen


def note(rows: Mapping[str, Any]) -> None:
    file = RESULTS / "cluster.json"
    known = json.loads(file.read_text()).get("faults", {}) if file.exists() else {}
    keep("cluster", {"faults": {**known, **rows}})


@contextmanager
def refusing(world: World, endpoint: str) -> Iterator[Callable[[], None]]:
    """An admission rule that lets no pod of this endpoint's models be made; calling what is yielded takes it away."""
    name = f"{world.place.namespace}-{endpoint}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    labels = {"headgate.dev/endpoint": endpoint, "headgate.dev/part": "model"}
    here = {"matchLabels": {"kubernetes.io/metadata.name": world.place.namespace}}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": NO}],
    }
    bound = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": here, "objectSelector": {"matchLabels": labels}},
    }
    api = "admissionregistration.k8s.io/v1"
    items = [
        {"apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec},
        {"apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}, "spec": bound},
    ]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": world.place.images["runner"]["image"]}]},
    }

    def taken() -> bool:
        return bool(world.place.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod), check=False))

    def end() -> None:
        world.place.kubectl("delete", RULES, name, "--ignore-not-found")

    world.place.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": items}))
    try:
        within(60, lambda: not taken(), "the rule is in force")
        yield end
    finally:
        end()


def lose_image(world: World, endpoint: str) -> None:
    """Takes from the registry what the endpoint's newest revision is to be pulled by; no node has it yet."""
    found = world.place.get("deployments", selector=f"headgate.dev/endpoint={endpoint}")["items"]
    newest = max(found, key=lambda item: str(item["metadata"]["creationTimestamp"]))
    path, _, digest = newest["spec"]["template"]["spec"]["containers"][0]["image"].partition("/")[2].partition("@")
    url = f"http://{REGISTRY.partition('/')[0]}/v2/{path}/manifests/{digest}"
    with urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10) as answer:
        assert answer.status == 202


class Watch:
    """When each fault was said, and when its rollout was given up: seconds since its pods were asked for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._began = time.monotonic()
        self._asked: dict[str, float] = {}
        self.rows: dict[str, dict[str, Any]] = {}

    def held_back(self, endpoint: str) -> bool:
        """By the rule, and said to be."""
        return NO in json.dumps(self._world.ask(f"/endpoints/{endpoint}"))

    def look(self) -> bool:
        """Whether each is given up, or held."""
        found = self._world.place.get("deployments", selector="headgate.dev/part=model")["items"]
        names = [item["metadata"]["labels"]["headgate.dev/endpoint"] for item in found]
        shown = {item["metadata"]["name"]: item for item in self._world.place.get("onlineendpoints")["items"]}
        for fault in FAULTS:
            self._look_at(fault, names.count(fault.endpoint) > 1, shown[fault.endpoint])
        ends = {fault.endpoint: "held_s" if fault.ours else "given_up_s" for fault in FAULTS}
        return all(end in self.rows.get(endpoint, {}) for endpoint, end in ends.items())

    def _look_at(self, fault: Fault, asked: bool, shown: Any) -> None:
        now = time.monotonic()
        if asked:
            self._asked.setdefault(fault.endpoint, now)
        since = round(now - self._asked.get(fault.endpoint, self._began), 1)
        conditions = {c["type"]: c for c in shown["status"]["conditions"]}
        row = self.rows.setdefault(fault.endpoint, {})
        told = json.dumps(self._world.ask(f"/endpoints/{fault.endpoint}"), ensure_ascii=False)
        if fault.words in told.replace('\\"', '"'):
            row.setdefault("said_s", since)
        ready = conditions["Ready"]
        if CODE in told and "held_s" not in row:
            row |= {"held_s": since, "ready": ready["status"], "message": ready["message"]}
        stalled = conditions["Stalled"]
        if stalled["status"] == "True" and "given_up_s" not in row:
            row |= {"given_up_s": since, "ready": ready["status"], "message": stalled["message"]}


def test_what_cannot_serve_is_told_in_the_endpoints_conditions_and_no_caller_sees_it(world: World) -> None:
    names = [fault.endpoint for fault in FAULTS]
    before = {name: _live(world, name) for name in names}
    quota = {"metadata": {"name": "no-gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", **quota}
    world.place.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    for fault in FAULTS:
        edit(world.place.work / "endpoints" / fault.endpoint / fault.file, fault.old, fault.new)
    with callers(world, *names) as row, refusing(world, "image") as let, refusing(world, "admission"):
        world.place.push("none of them can serve")
        watch = Watch(world)
        within(PATIENCE_S, lambda: watch.look() or watch.held_back("image"), "its pod is held back")
        lose_image(world, "image")
        let()
        within(GIVEN_UP_S, watch.look, "all are given up or held")
        note({"candidates": row, **watch.rows})
    note({"candidates": row})
    for fault in FAULTS:
        found = watch.rows[fault.endpoint]
        print(fault.endpoint, found)
        assert (found["ready"], fault.words in found["message"]) == ("True", True), found
        assert ("given_up_s" in found) is not fault.ours, found
    assert {name: _live(world, name) for name in names} == before


def _live(world: World, endpoint: str) -> dict[str, int]:
    found = world.ask(f"/endpoints/{endpoint}")
    return {row["revision"]: row["per_mille"] for row in found["revisions"] if row["per_mille"]}


def _evict(world: World, pod: Any) -> None:
    name, namespace = pod["metadata"]["name"], world.place.namespace
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    world.place.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


def _kill(world: World, pod: Any) -> None:
    assert world.machine.kill_container(pod)


@pytest.mark.parametrize("what", [_evict, _kill], ids=["evicted", "killed"])
def test_one_of_two_replicas_that_is_lost_is_replaced_and_no_caller_sees_it(
    world: World, what: Callable[[World, Any], None], request: pytest.FixtureRequest
) -> None:
    first = within(PATIENCE_S, lambda: _both(world), "both replicas are ready")[0]
    container = first["status"]["containerStatuses"][0]["containerID"]
    with callers(world, PAIR) as row:
        began = time.monotonic()
        what(world, first)

        def told() -> bool:
            found = (world.ask(f"/endpoints/{PAIR}") or {}).get("revisions", ())
            return any(r["per_mille"] and r["ready"] < r["instances"] for r in found)

        def replaced() -> bool:
            found = _both(world)
            return bool(found) and container not in [p["status"]["containerStatuses"][0]["containerID"] for p in found]

        within(60, told, "the endpoint says that one of two is ready")
        row["said_s"] = round(time.monotonic() - began, 1)
        within(PATIENCE_S, replaced, "two are ready again")
        row["replaced_s"] = round(time.monotonic() - began, 1)
    note({f"replica {request.node.callspec.id}": row})


def _both(world: World) -> list[Any]:
    found = [p for p in world.pods("model") if p["metadata"]["labels"]["headgate.dev/endpoint"] == PAIR and ready(p)]
    return found if len(found) == 2 else []

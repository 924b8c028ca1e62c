"""What a cluster does to Headgate and its callers do not see: outages, drains, hands, a lost volume, a lost node.

Each ends in a stated condition within a stated time (docs/cluster.md has the table). README.md turns it on; figures are
kept in bench/results/cluster.json, `outages`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bench.numbers import RESULTS, keep

import machine
from installation import CLAIMS, Installation, Recorder, within
from world import PATIENCE_S, World, ready, start

AWAY_S = float(os.environ.get("HEADGATE_E2E_AWAY_S", "60"))  # how long the API server is
NODE_LOST_S = 45.0  # longer than the 20 s to 40 s after which a cluster says of a node that it is not ready
API_SERVER = "10.96.0.1"  # where pods reach it: an address of this machine
PARTS = "headgate.dev/part in (controller, router, model)"

pytestmark = pytest.mark.skipif(
    bool(not CLAIMS or machine.missing()),
    reason=f"{machine.LACKS}; and HEADGATE_E2E_CLAIMS=1, as a controller that is drained needs its volume",
)


@pytest.fixture(scope="module")
def world(installation: Installation) -> World:
    return start(installation)


@contextmanager
def callers(world: World, what: str) -> Iterator[dict[str, Any]]:
    """Somebody who calls all the while: every answer is 200. What the test notes is kept."""
    recorder = Recorder(world.place, world.place.key())
    recorder.start()
    row: dict[str, Any] = {}
    try:
        yield row
    finally:
        seen = recorder.stop()
    failed = sum(count for status, count in seen.items() if status != 200)
    row |= {"requests": sum(seen.values()), "failed": failed, "asked_again": recorder.again}
    file = RESULTS / "cluster.json"
    known = json.loads(file.read_text()).get("outages", {}) if file.exists() else {}
    keep("cluster", {"outages": {**known, what: row}})
    assert set(seen) == {200}, seen


def since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def condition(world: World, kind: str) -> str:
    found = world.place.get("onlineendpoint", "greet")
    return next((c["status"] for c in found["status"]["conditions"] if c["type"] == kind), "") if found else ""


def settled(world: World) -> bool:
    return condition(world, "Ready") == "True" and condition(world, "Reconciling") == "False"


def go(world: World, word: str) -> str:
    world.write(word)
    return world.place.push(word)


def in_mirror(world: World, commit: str) -> Callable[[], bool]:
    def reached() -> bool:
        found = world.rollout(commit)
        return bool(found) and any(op["name"] == "mirror" and op["state"] == "running" for op in found["ops"])

    return reached


def test_an_api_server_that_is_away_for_a_minute(world: World) -> None:
    """For all pods of the installation; others use it meanwhile."""
    with callers(world, "api server away") as row:
        commit = go(world, "away")
        within(PATIENCE_S, in_mirror(world, commit), "the rollout is in mirror")
        pods = [pod["status"]["podIP"] for part in ("controller", "router") for pod in world.pods(part)]
        with world.machine.cut_off(pods, API_SERVER):
            time.sleep(AWAY_S)  # the length of the outage: nothing is waited for
        began = time.monotonic()
        within(PATIENCE_S, lambda: world.endpoint() is not None, "a controller acts again")
        row |= {"away_s": AWAY_S, "acts_again_s": since(began)}
        within(PATIENCE_S, lambda: world.serves(commit), "the rollout has gone on to its end")
        row["settled_s"] = since(began)
    within(60, lambda: settled(world), "it is shown")
    assert len([r for r in world.ask("/endpoints/greet/rollouts") if r["commit"] == commit]) == 1


def test_an_api_server_that_is_restarted_and_has_forgotten_what_watches_go_on_from(world: World) -> None:
    with callers(world, "api server restarted, watches expired") as row:
        commit = go(world, "restarted")
        within(PATIENCE_S, in_mirror(world, commit), "the rollout is in mirror")
        with world.machine.without("kube-apiserver"):
            began = time.monotonic()
        within(60, lambda: world.place.kubectl("get", "--raw", "/readyz", check=False) == "ok", "it is back")
        row["away_s"] = since(began)
        within(PATIENCE_S, lambda: world.serves(commit), "the rollout has gone on to its end")
        row["settled_s"] = since(began)
    within(60, lambda: settled(world), "it is shown")


def test_a_storm_of_other_writers(world: World) -> None:
    over = threading.Event()
    written = [0]

    def write() -> None:
        while not over.is_set():
            note = json.dumps({"metadata": {"annotations": {"storm": str(written[0])}}})
            world.place.kubectl("patch", "onlineendpoint", "greet", "--type=merge", "-p", note, check=False)
            world.place.kubectl(
                "annotate", "deployments,services", "-l", "headgate.dev/part=model", "--overwrite",
                f"storm={written[0]}", check=False,
            )  # fmt: skip
            written[0] += 1

    storm = threading.Thread(target=write)
    with callers(world, "storm of other writers") as row:
        storm.start()
        try:
            began = time.monotonic()
            commit = go(world, "storm")
            within(PATIENCE_S, lambda: world.serves(commit), "the rollout ends in the storm")
            within(60, lambda: settled(world), "and it is shown")
        finally:
            over.set()
            storm.join()
        row |= {"settled_s": since(began), "writes": 2 * written[0]}
    assert written[0] > 5


def test_a_node_is_drained(world: World) -> None:
    two = world.place.work / "endpoints/greet/deployments/blue.yml"
    two.write_text(two.read_text().replace("instance_count: 1", "instance_count: 2"))
    world.place.push("two")
    within(PATIENCE_S, lambda: sum(ready(pod) for pod in world.pods("model")) >= 2, "two replicas are ready")
    node = world.pods("controller")[0]["spec"]["nodeName"]
    _spread_routers(world)
    for part in ("router", "model"):
        assert node in {pod["spec"]["nodeName"] for pod in world.pods(part)}, f"no {part} on the node to drain"
    words = [
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        f"--pod-selector=drained={world.place.namespace}",
        "--timeout=110s",
    ]
    world.place.kubectl("label", "pods", "-l", PARTS, f"drained={world.place.namespace}")  # others are on this node too
    try:
        with callers(world, "drain") as row:
            began = time.monotonic()
            world.place.kubectl("drain", node, *words)
            row["drained_s"] = since(began)
            within(PATIENCE_S, lambda: all(_elsewhere(world, part, node) for part in ("controller", "router", "model")),
                   "everything runs elsewhere")  # fmt: skip
            row["settled_s"] = since(began)
    finally:
        world.place.kubectl("uncordon", node)
    within(60, lambda: settled(world), "it is shown")


def _spread_routers(world: World) -> None:
    """Over the nodes again: a drain leaves all on one, and so may a start while a node had no room."""
    world.place.kubectl("rollout", "restart", "deployment/headgate-router")
    world.place.kubectl("rollout", "status", "deployment/headgate-router", "--timeout=110s")


def _elsewhere(world: World, part: str, node: str) -> bool:
    found = world.pods(part)
    return bool(found) and all(ready(pod) and pod["spec"]["nodeName"] != node for pod in found)


def test_a_node_whose_kubelet_is_lost_with_every_replica_and_a_router_on_it(world: World) -> None:
    with callers(world, "node lost") as row:
        commit = go(world, "lost node")  # one replica
        within(PATIENCE_S, lambda: world.serves(commit) and len(_live(world)) == 1, "one replica serves")
        node = _live(world)[0]["spec"]["nodeName"]
        _spread_routers(world)
        assert {pod["spec"]["nodeName"] for pod in world.pods("router")} > {node}, "a router is on another node"
        began = time.monotonic()
        with world.machine.without(f"kubelet-{node}"):
            within(NODE_LOST_S, lambda: not ready(world.place.get("node", node)), "the node is not ready")
            row["node_not_ready_s"] = since(began)
            within(60, lambda: not _live(world), "nor is any replica")
            row["replica_not_ready_s"] = since(began)
            time.sleep(NODE_LOST_S - 30)  # so long callers are answered though no replica is ready
        began = time.monotonic()
        within(PATIENCE_S, lambda: ready(world.place.get("node", node)) and _live(world), "the node is back")
        within(60, lambda: settled(world), "and it is shown")
        row["settled_s"] = since(began)


def _live(world: World) -> list[Any]:
    """Ready replicas of the revision that has the traffic."""
    (revision,) = world.live() or ("",)
    return [p for p in world.pods("model") if ready(p) and p["metadata"]["labels"]["headgate.dev/revision"] == revision]


def test_a_controller_that_loses_its_volume_in_a_rollout(world: World) -> None:
    before = {pod["metadata"]["uid"] for pod in world.pods("model")}
    with callers(world, "volume lost") as row:
        commit = go(world, "lost")
        within(PATIENCE_S, in_mirror(world, commit), "the rollout is in mirror")
        (pod,) = world.pods("controller")
        name = pod["metadata"]["name"]
        within(60, lambda: _copied(world), "the copy tells of the mirror")
        world.place.kubectl("exec", name, "--", "sh", "-c", "rm -rf /var/lib/headgate/data/*")
        world.machine.kill_container(pod)
        began = time.monotonic()
        within(PATIENCE_S, lambda: (world.rollout(commit) or {}).get("state") == "running", "it knows the rollout")
        row["acts_again_s"] = since(began)
        within(PATIENCE_S, lambda: world.serves(commit), "the rollout has gone on to its end")
        row["settled_s"] = since(began)
    rollout = world.rollout(commit)
    assert (rollout["attempt"], rollout["state"]) == (1, "succeeded")
    assert before & {pod["metadata"]["uid"] for pod in world.pods("model")}, "what served is what serves"
    assert "empty or behind" in world.place.kubectl("logs", "deployment/headgate-controller", "--tail=2000")


def _copied(world: World) -> bool:
    from headgate_controllers.records.customresource import read

    found = read(world.place.get("onlineendpoint", "greet")["status"]["record"]).head.rollout
    return found is not None and found.running is not None and found.running.name == "mirror"


def test_a_controller_that_finds_nothing_about_what_runs_does_not_begin(world: World) -> None:
    before = {pod["metadata"]["uid"] for pod in world.pods("model")}
    clear = ["patch", "onlineendpoint", "greet", "--subresource=status", "--type=merge", "-p"]
    with callers(world, "record lost") as row:
        world.place.kubectl("scale", "deployment/headgate-controller", "--replicas=0")
        within(60, lambda: not world.place.get("pods", selector="headgate.dev/part=controller")["items"], "none acts")
        kept = world.place.get("onlineendpoint", "greet")["status"]["record"]
        _empty_volume(world)
        world.place.kubectl(*clear, '{"status": {"record": null}}')
        began = time.monotonic()
        world.place.kubectl("scale", "deployment/headgate-controller", "--replicas=1")
        said = ("logs", "deployment/headgate-controller", "--tail=5")
        within(90, lambda: "the record is empty" in world.place.kubectl(*said, check=False), "it says so")
        row["said_s"] = since(began)
        assert {pod["metadata"]["uid"] for pod in world.pods("model")} == before
        world.place.kubectl(*clear, json.dumps({"status": {"record": kept}}))
        world.place.kubectl("delete", "pod", "-l", "headgate.dev/part=controller", "--wait=false")
        within(PATIENCE_S, lambda: world.endpoint() and settled(world), "with the copy back it goes on")
        row["settled_s"] = since(began)
    assert {pod["metadata"]["uid"] for pod in world.pods("model")} == before


def _empty_volume(world: World) -> None:
    """Another volume for the same claim."""
    claim = world.place.get("pvc", "headgate-controller")
    world.place.kubectl("delete", "pvc", "headgate-controller")
    spec = {key: value for key, value in claim["spec"].items() if key != "volumeName"}
    labels, notes = claim["metadata"]["labels"], {"helm.sh/resource-policy": "keep"}
    made = {"metadata": {"name": "headgate-controller", "labels": labels, "annotations": notes}, "spec": spec}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **made}
    world.place.kubectl("apply", "-f", "-", stdin=json.dumps(body))

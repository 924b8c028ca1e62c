"""The local engine with its ops as pods: a whole rollout, lost pods, an engine that comes back, an API server away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hera.workflows import Container, RetryStrategy, Workflow

from controlstub import ControlStub
from headgate.planning import make_plan
from headgate.ports import Run
from headgate.rollout import Head
from headgate.testing import deployment, target
from headgate_kit.layout import DataFolder
from headgate_pipelines import contract, rollout
from headgate_pipelines.engines.local.attempt import Runs
from headgate_pipelines.engines.local.operate import Start
from headgate_pipelines.engines.local.spec import Leaf, Spec
from headgate_pipelines.engines.pods.attempts import Pods
from headgate_pipelines.engines.pods.engine import PodsEngine
from headgate_pipelines.engines.settings import OpSettings
from kubelet import Kubelet
from kubeserver import KubeServer, wait_for

IMAGE = "registry.example/runner:1"
TOKEN = "op_very-secret"
Make = Callable[..., PodsEngine]


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as found:
        yield found


@pytest.fixture
def kubelet(server: KubeServer, tmp_path: Path) -> Iterator[Kubelet]:
    found = Kubelet(server, tmp_path / "pods")
    yield found
    found.close()


@pytest.fixture
def control() -> Iterator[ControlStub]:
    with ControlStub() as found:
        yield found


@pytest.fixture
def make(server: KubeServer, control: ControlStub, tmp_path: Path) -> Iterator[Make]:
    engines: list[PodsEngine] = []

    def start(**more: Any) -> PodsEngine:
        env = {"HEADGATE_CONTROL": control.url, "HEADGATE_TOKEN": TOKEN, "HEADGATE_DATA": "/of/the/controller"}
        data = DataFolder(tmp_path / "data")
        engine = PodsEngine(data, env=env, cluster=server.cluster(), settings=OpSettings(image=IMAGE), **more)
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


def runs(name: str, code: str, **more: Any) -> Mapping[str, Any]:
    with Workflow(name=name, entrypoint="main") as workflow:
        Container(name="main", image=IMAGE, command=["python", "-c", code], **more)
    return dict(workflow.to_dict())


def status(engine: PodsEngine, name: str) -> Run:
    found = engine.status(name)
    assert found is not None
    return found


def ended(engine: PodsEngine, name: str) -> Run:
    wait_for(lambda: status(engine, name).phase != "Running", 30)
    return status(engine, name)


def pods(server: KubeServer) -> list[str]:
    return [pod["metadata"]["name"] for pod in server.all("pods")]


def test_a_rollout_runs_as_pods_and_leaves_nothing_behind(
    make: Make, server: KubeServer, kubelet: Kubelet, control: ControlStub
) -> None:
    blue, green = deployment("blue"), deployment("green", "2")
    live = Head("fraud", traffic={blue.revision: 1000})
    plan = make_plan(live, target("c0ffee", [blue, green], {"green": 100})).plan
    assert plan is not None
    engine = make()
    engine.submit(rollout.workflow(plan, "ro-fraud-1"))
    assert ended(engine, "ro-fraud-1").phase == "Succeeded"
    assert [path for path, _ in control.asked] == [f"/ops/{op.verb}" for op in plan.ops] + ["/ops/close"]
    assert {token for _, token in control.asked} == {f"Bearer {TOKEN}"}
    assert len(kubelet.started) == len(plan.ops) + 1
    wait_for(lambda: not pods(server) and not server.all("secrets"))


def test_a_token_is_in_no_specification_and_in_no_journal(
    make: Make, server: KubeServer, kubelet: Kubelet, tmp_path: Path
) -> None:
    engine = make()
    engine.submit(runs("w", "import time; time.sleep(600)"))
    wait_for(lambda: len(kubelet.started) == 1)
    assert TOKEN not in json.dumps(server.all("pods"))
    assert not [file for file in (tmp_path / "data").glob("engine*") if TOKEN.encode() in file.read_bytes()]
    engine.stop("w")
    ended(engine, "w")
    assert server.all("secrets") == []


def test_an_engine_that_comes_back_adopts_the_pods_of_the_one_before(
    make: Make, server: KubeServer, kubelet: Kubelet, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first = make()
    first.submit(runs("w", f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"))
    wait_for(lambda: len(kubelet.started) == 1)
    first.close()
    go.touch()
    second = make()
    assert ended(second, "w").phase == "Succeeded"
    assert len(kubelet.started) == 1


def test_a_pod_that_was_made_by_an_engine_that_died_before_it_knew_is_adopted(
    make: Make, server: KubeServer, kubelet: Kubelet
) -> None:
    """The pod is made, the answer is lost: making it again is refused by the cluster, and taken for what it is."""
    engine = make()
    engine.submit(runs("first", "pass"))
    ended(engine, "first")
    made = next(asked.body for asked in server.requests if asked.verb == "create" and asked.plural == "pods")
    name = made["metadata"]["name"].replace("first", "other")
    engine.close()
    other = make()
    body = {**made, "metadata": {**made["metadata"], "name": name}}
    server.put("v1", "secrets", {"metadata": {"name": "first-op"}, "stringData": {"token": "t"}})
    server.put("v1", "pods", body)
    wait_for(lambda: len(kubelet.started) == 2)
    other.submit(runs("first", "pass"))
    assert ended(other, "first").phase == "Succeeded"
    assert len(kubelet.started) == 2


def test_a_pod_that_no_watch_has_shown_yet_is_found_when_it_cannot_be_made_again(server: KubeServer) -> None:
    server.denied.add(("get", "pods"))  # not among its rights
    argv = (*contract.COMMAND, "smoke")
    leaf = Leaf("smoke", "smoke", tuple((word,) for word in argv), {}, image=IMAGE)
    spec, start = Spec("w", leaf), Start(leaf, 0, argv, {}, None)
    settings = OpSettings(image=IMAGE)
    Pods(server.cluster(), settings, time.time).of(spec, leaf, 0).start(start, {})
    later = Pods(server.cluster(), settings, time.time)
    attempt = later.of(spec, leaf, 0)
    attempt.start(start, {})
    later.start(lambda: None)
    wait_for(lambda: server.watching("pods") == 1)
    assert (attempt.look(), len(pods(server))) == (Runs(), 1)
    later.close()


def test_a_pod_that_is_lost_is_an_error_and_the_next_attempt_is_another_pod(
    make: Make, server: KubeServer, kubelet: Kubelet, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    code = f"import os, time\nif not os.path.exists({str(mark)!r}):\n open({str(mark)!r}, 'w')\n time.sleep(600)"
    engine = make()
    engine.submit(runs("w", code, retry_strategy=RetryStrategy(limit="1", retry_policy="OnError")))
    wait_for(mark.exists)
    server.drop("pods", kubelet.started[0])
    assert ended(engine, "w").phase == "Succeeded"
    assert len(set(kubelet.started)) == 2


def test_a_pod_the_cluster_refuses_is_an_error_that_says_why(make: Make, server: KubeServer, kubelet: Kubelet) -> None:
    server.denied.add(("create", "pods"))
    engine = make()
    engine.submit(runs("w", "pass"))
    run = ended(engine, "w")
    assert run.phase == "Error"
    assert "cannot create resource" in run.message


def test_a_foreign_pod_of_the_same_name_is_not_taken_for_an_attempt(
    make: Make, server: KubeServer, kubelet: Kubelet
) -> None:
    from headgate_pipelines.engines.pods.render import RUN, pod_name

    name = pod_name("w", "main", 0, "a1")
    foreign = {"metadata": {"name": name}, "status": {"phase": "Succeeded"}}
    server.put("v1", "pods", foreign)
    engine = make()
    document = dict(runs("w", "pass"))
    document["metadata"] = {**document["metadata"], "labels": {RUN: "a1"}}
    engine.submit(document)
    run = ended(engine, "w")
    assert (run.phase, kubelet.started) == ("Error", [])
    assert "is not of w" in run.message


def test_a_workflow_submitted_anew_without_its_journal_takes_no_pod_of_before_for_its_own(
    make: Make, server: KubeServer, kubelet: Kubelet, tmp_path: Path
) -> None:
    engine = make()
    engine.submit(runs("w", "raise SystemExit(3)"))
    assert ended(engine, "w").phase == "Failed"
    (before,) = pods(server)
    engine.close()
    (tmp_path / "data").rename(tmp_path / "lost")
    engine = make()
    engine.submit(runs("w", "pass"))
    assert ended(engine, "w").phase == "Succeeded"
    assert len(kubelet.started) == 2
    wait_for(lambda: before not in pods(server))


def test_an_api_server_that_is_away_costs_time_and_nothing_else(
    make: Make, server: KubeServer, kubelet: Kubelet
) -> None:
    engine = make()
    server.fail(503, times=3, plural="pods", verb="create")
    server.fail(503, times=2, plural="secrets", verb="delete")
    engine.submit(runs("w", "pass"))
    assert ended(engine, "w").phase == "Succeeded"
    assert len(kubelet.started) == 1


def test_pods_of_a_workflow_that_failed_stay_to_be_looked_at_until_newer_ones_failed(
    make: Make, server: KubeServer, kubelet: Kubelet
) -> None:
    engine = make()
    for number in range(5):
        engine.submit(runs(f"w{number}", "raise SystemExit('it says no')"))
        assert ended(engine, f"w{number}").message == "main: it says no"
    wait_for(lambda: len(pods(server)) == 3)
    assert [name[:2] for name in pods(server)] == ["w2", "w3", "w4"]


def test_a_pod_that_waits_for_a_node_says_why_in_the_log(
    make: Make, server: KubeServer, kubelet: Kubelet, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make(clock=lambda: time.time() + 60)  # whatever was just made is a minute old
    engine.submit(runs("w", "import time; time.sleep(600)"))
    wait_for(lambda: len(kubelet.started) == 1)
    full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node has 4 GPUs"}
    with server.lock:
        (pod,) = server.all("pods")
        server.put("v1", "pods", {**pod, "status": {"phase": "Pending", "conditions": [full]}})
    wait_for(lambda: "waits: Unschedulable: no node has 4 GPUs" in caplog.text)
    engine.stop("w")
    ended(engine, "w")
    assert caplog.text.count("Unschedulable") == 1

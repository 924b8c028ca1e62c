"""Argo's custom resources on a real API server: Workflows accepted, task sets answered, how long a step takes.

Turn on with HEADGATE_E2E=cluster and KUBECONFIG. Where Argo is not installed, definitions of our own are used
(crds/argo.yml), and a player of phases for its workflow controller. What needs the real one asks for it: install
Argo Workflows 4.1 or later with `--executor-plugins` and `disableAgentPodCreation: "true"`, watching the namespace in
HEADGATE_E2E_ARGO_NAMESPACE, and set HEADGATE_E2E_RUNNER to an image with `headgate_pipelines`.
"""

from __future__ import annotations

import os
import re
import statistics
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench.control.measure import quantile
from bench.numbers import keep

from argoplayer import Player, cluster_writes
from headgate.control import OpReply, OpRequest, OpState
from headgate.findings import ConflictError
from headgate.planning import make_plan
from headgate.rollout import Head
from headgate.testing import ENGINE, Check, EngineCase, deployment, target
from headgate_kit.kube import Cluster
from headgate_kit.kube.kinds import DEFINITION, DEPLOYMENT, SECRET, WORKFLOW, WORKFLOW_TEMPLATE
from headgate_kit.layout import DataFolder
from headgate_pipelines import rollout
from headgate_pipelines.engines.argo.engine import ArgoEngine
from headgate_pipelines.engines.argo.mode import argo_mode
from headgate_pipelines.engines.settings import OpSettings
from headgate_pipelines.templates import documents
from installation import NAMESPACE, needs
from kubeserver import wait_for

ARGO = os.environ.get("HEADGATE_E2E_ARGO_NAMESPACE", "")
RUNNER = os.environ.get("HEADGATE_E2E_RUNNER", "headgate/runner:0.1")
PATIENCE_S = 60.0
TIMED = 7  # rollouts at once, of 8 task set nodes each

pytestmark = needs()


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """Of our own, with Argo's kinds served."""
    cluster = Cluster.connect("default")
    made = []
    for definition in yaml.safe_load_all((Path(__file__).parent / "crds" / "argo.yml").read_text("utf-8")):
        try:
            cluster.create(DEFINITION, definition)
            made.append(definition["metadata"]["name"])
        except ConflictError:
            continue  # Argo's own, or another run's
    for definition in made:
        wait_for(lambda name=definition: _served(cluster, name), PATIENCE_S)  # type: ignore[misc]
    name = f"hg-e2e-{uuid.uuid4().hex[:8]}"
    cluster.create(NAMESPACE, {"metadata": {"name": name}})
    yield name
    cluster.delete(NAMESPACE, name)
    for definition in made:
        cluster.delete(DEFINITION, definition)
    cluster.close()


def _served(cluster: Cluster, name: str) -> bool:
    conditions = ((cluster.get(DEFINITION, name) or {}).get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


@pytest.fixture
def cluster(namespace: str) -> Iterator[Cluster]:
    found = Cluster.connect(namespace)
    yield found
    for workflow in found.list(WORKFLOW)[0]:
        found.delete(WORKFLOW, workflow["metadata"]["name"])
    found.close()


@pytest.fixture
def player(cluster: Cluster) -> Iterator[Player]:
    found = Player(Cluster.connect(cluster.namespace), cluster_writes(cluster))
    yield found
    found.close()


def single(name: str, word: str) -> dict[str, Any]:
    template = {"name": "main", "container": {"image": "i", "command": [word]}}
    head = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name}}
    return {**head, "spec": {"entrypoint": "main", "templates": [template]}}


def planned(name: str) -> dict[str, Any]:
    blue, green = deployment("blue"), deployment("green", "2")
    plan = make_plan(Head("fraud", traffic={blue.revision: 1000}), target("c0ffee", [blue, green], {"green": 100})).plan
    assert plan is not None
    return dict(rollout.workflow(plan, name))


def engine_of(cluster: Cluster, folder: Path, **settings: str) -> ArgoEngine:
    env = {"HEADGATE_CONTROL": "http://nobody:7070", "HEADGATE_TOKEN": "op_secret"}
    asked = OpSettings(**settings)
    return ArgoEngine(DataFolder(folder), env=env, cluster=Cluster.connect(cluster.namespace), settings=asked)


def phase(engine: ArgoEngine, name: str) -> str:
    run = engine.status(name)
    return run.phase if run else ""


@pytest.mark.parametrize("check", ENGINE, ids=str)
def test_argo_as_the_engine_keeps_its_promises(
    check: Check[EngineCase], cluster: Cluster, player: Player, tmp_path: Path
) -> None:
    engine = engine_of(cluster, tmp_path, argo_steps="container")
    engine.start()
    check(
        EngineCase(
            engine,
            good=lambda name: single(name, "hello"),
            bad=lambda name: single(name, "SystemExit"),
            endless=lambda name: single(name, "sleep"),
            wait=lambda condition: wait_for(condition, PATIENCE_S),
        )
    )
    engine.close()


@pytest.mark.parametrize("steps", ["container", "plugin"])
def test_a_rollouts_workflow_is_accepted(cluster: Cluster, tmp_path: Path, steps: str) -> None:
    engine = engine_of(cluster, tmp_path, argo_steps=steps, image=RUNNER)
    engine.start()
    name = f"ro-accepted-{steps}"
    engine.submit(planned(name))
    assert phase(engine, name) == "Pending"
    stored = cluster.get(WORKFLOW, name) or {}
    templates = {t["name"]: t for t in stored["spec"]["templates"]}
    assert ("plugin" in templates["step-5"]) is (steps == "plugin")
    assert cluster.get(SECRET, f"{name}-op") is not None
    engine.close()


def test_a_task_set_is_answered_without_a_pod_and_soon(
    cluster: Cluster, player: Player, tmp_path: Path, record_property: Any
) -> None:
    asked: list[str] = []

    def ask(verb: str, request: OpRequest) -> OpReply:
        asked.append(request.op_key)
        return OpReply(OpState.DONE, f"{verb} passed")

    engine = engine_of(cluster, tmp_path, argo_steps="plugin")
    engine.attend(ask, lambda rollout, token: False)
    engine.start()
    for number in range(TIMED):
        engine.submit(planned(f"ro-timed-{number}"))
    wait_for(lambda: all(phase(engine, f"ro-timed-{n}") == "Succeeded" for n in range(TIMED)), PATIENCE_S)
    engine.close()
    times = sorted(seconds for _, seconds in player.took_s)
    p99 = quantile(times, 0.99)
    median, worst = statistics.median(times), times[-1]
    said = f"{len(times)} nodes: median {median:.3f} s, p99 {p99:.3f} s, worst {worst:.3f} s from task to answer"
    record_property("task-set", said)
    print(said)
    assert len(times) == len(set(asked)) == TIMED * 8
    found = {"nodes": len(times), "median_s": median, "p99_s": p99, "worst_s": worst}
    keep("cluster", {"task_set_answer": {name: round(value, 4) for name, value in found.items()}})


def test_the_templates_for_a_teams_pipeline_are_accepted(cluster: Cluster) -> None:
    for document in documents(OpSettings(), {"HEADGATE_CONTROL": "http://headgate-controller:7070"}):
        cluster.apply(WORKFLOW_TEMPLATE, document)
        stored = cluster.get(WORKFLOW_TEMPLATE, document["metadata"]["name"]) or {}
        assert stored["spec"] == document["spec"]


def test_the_pipeline_of_the_docs_is_accepted(cluster: Cluster) -> None:
    page = (Path(__file__).parents[3] / "docs" / "pipelines.md").read_text("utf-8")
    shown: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], shown)
    document = shown["retrain"]("7", on_argo=True).to_dict()
    cluster.create(WORKFLOW, document)
    assert (cluster.get(WORKFLOW, "retrain-fraud-7") or {})["spec"] == document["spec"]


def test_the_way_light_ops_run_is_found_out(cluster: Cluster) -> None:
    mode = argo_mode(cluster)
    assert mode.reason
    assert mode.steps in ("plugin", "container")


@pytest.fixture
def argo(namespace: str) -> Iterator[Cluster]:
    """The namespace a real workflow controller watches."""
    found = Cluster.connect(ARGO or namespace)
    places = (found.namespace, "argo", "kube-system")
    there = any(found.get(DEPLOYMENT, "workflow-controller", namespace=place) for place in places)
    if not (ARGO and there):
        found.close()
        pytest.skip("no workflow controller here: install Argo Workflows and set HEADGATE_E2E_ARGO_NAMESPACE")
    yield found
    found.close()


def test_a_real_workflow_controller_runs_a_rollout_of_plugin_steps(argo: Cluster, tmp_path: Path) -> None:
    """Without the build, which would be a pod that has no controller to ask."""
    asked: list[str] = []

    def ask(verb: str, request: OpRequest) -> OpReply:
        asked.append(request.op_key)
        return OpReply(OpState.DONE, f"{verb} passed")

    engine = engine_of(argo, tmp_path, argo_steps="plugin", image=RUNNER)
    engine.attend(ask, lambda rollout, token: False)
    engine.start()
    name = f"ro-real-{uuid.uuid4().hex[:6]}"
    document = planned(name)
    dag = next(t for t in document["spec"]["templates"] if "dag" in t)["dag"]
    dag["tasks"] = [{k: v for k, v in task.items() if task["name"] != "smoke" or k != "depends"}
                    for task in dag["tasks"] if task["name"] != "build"]  # fmt: skip
    engine.submit(document)
    wait_for(lambda: phase(engine, name) == "Succeeded", 4 * PATIENCE_S)
    assert asked[-1] == f"{name}/close"
    engine.close()
    argo.delete(WORKFLOW, name)

"""Engines on a real cluster: their promises, a whole rollout as pods, a pod that somebody deletes.

Turn on with HEADGATE_E2E=cluster, KUBECONFIG, and HEADGATE_E2E_RUNNER=IMAGE: an image with Python in which
`headgate_pipelines` can be imported (the op needs nothing else), pullable by the cluster's nodes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hera.workflows import Container, Resources, RetryStrategy, Workflow

from headgate.planning import make_plan
from headgate.rollout import Head
from headgate.testing import ENGINE, Check, EngineCase, deployment, target
from headgate_kit.kube import Cluster
from headgate_kit.kube.kinds import POD, SECRET, SERVICE_ACCOUNT
from headgate_kit.layout import DataFolder
from headgate_pipelines import rollout
from headgate_pipelines.engines.pods.engine import PodsEngine
from headgate_pipelines.engines.settings import OpSettings
from installation import NAMESPACE, RUNNER, needs
from kubeserver import wait_for

PATIENCE_S = 90.0

pytestmark = needs("HEADGATE_E2E_RUNNER")

# A control API in one file, run by a pod: says done to every op, and what it was told.
CONTROL = """
import http.server, json
class H(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        text = json.dumps({"state": "done", "message": self.path, "outputs": {}}).encode()
        self.send_response(200 if self.headers["Authorization"] == "Bearer op_secret" else 401)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
http.server.ThreadingHTTPServer(("", 7070), H).serve_forever()
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"hg-e2e-{uuid.uuid4().hex[:8]}"
    cluster = Cluster.connect("default")
    cluster.create(NAMESPACE, {"metadata": {"name": name}})
    cluster.create(SERVICE_ACCOUNT, {"metadata": {"name": "headgate-op"}}, namespace=name)
    yield name
    cluster.delete(NAMESPACE, name)
    cluster.close()


@pytest.fixture
def cluster(namespace: str) -> Iterator[Cluster]:
    found = Cluster.connect(namespace)
    yield found
    found.close()


@pytest.fixture
def engine(namespace: str, tmp_path: Path) -> Iterator[PodsEngine]:
    env = {"HEADGATE_CONTROL": "http://nobody:7070", "HEADGATE_TOKEN": "op_secret"}
    found = PodsEngine(
        DataFolder(tmp_path), env=env, cluster=Cluster.connect(namespace), settings=OpSettings(image=RUNNER)
    )
    found.start()
    yield found
    found.close()


def runs(name: str, code: str, **more: Any) -> Mapping[str, Any]:
    with Workflow(name=name, entrypoint="main") as workflow:
        Container(name="main", image=RUNNER, command=["python", "-c", code], **more)
    return dict(workflow.to_dict())


def phase(engine: PodsEngine, name: str) -> str:
    found = engine.status(name)
    return found.phase if found else ""


def pods(cluster: Cluster, workflow: str) -> list[dict[str, Any]]:
    return cluster.list(POD, selector=f"headgate.dev/workflow={workflow}")[0]


@pytest.mark.parametrize("check", ENGINE, ids=str)
def test_the_engine_that_runs_ops_as_pods(check: Check[EngineCase], engine: PodsEngine) -> None:
    tag = uuid.uuid4().hex[:6]  # pods of one check must not be taken for those of another
    check(
        EngineCase(
            _Tagged(engine, tag),
            good=lambda name: runs(f"{name}-{tag}", "print('hello')"),
            bad=lambda name: runs(f"{name}-{tag}", "raise SystemExit(3)"),
            endless=lambda name: runs(f"{name}-{tag}", "import time; time.sleep(600)"),
            wait=lambda condition: wait_for(condition, PATIENCE_S),
        )
    )


class _Tagged:
    """An engine whose workflows have other names on the cluster."""

    def __init__(self, engine: PodsEngine, tag: str) -> None:
        self._engine, self._tag = engine, tag

    def submit(self, workflow: Mapping[str, Any]) -> None:
        self._engine.submit(workflow)

    def status(self, name: str) -> Any:
        found = self._engine.status(f"{name}-{self._tag}")
        return found and replace(found, name=name)

    def stop(self, name: str) -> None:
        self._engine.stop(f"{name}-{self._tag}")


def test_a_whole_rollout_asks_the_control_api_from_its_pods(cluster: Cluster, tmp_path: Path) -> None:
    control = {
        "metadata": {"name": "control"},
        "spec": {"containers": [{"name": "main", "image": RUNNER, "command": ["python", "-c", CONTROL]}]},
    }
    cluster.create(POD, control)
    wait_for(lambda: bool(((cluster.get(POD, "control") or {}).get("status") or {}).get("podIP")), PATIENCE_S)
    address = (cluster.get(POD, "control") or {})["status"]["podIP"]
    env = {"HEADGATE_CONTROL": f"http://{address}:7070", "HEADGATE_TOKEN": "op_secret"}
    engine = PodsEngine(
        DataFolder(tmp_path), env=env, cluster=Cluster.connect(cluster.namespace), settings=OpSettings(image=RUNNER)
    )
    engine.start()
    blue, green = deployment("blue"), deployment("green", "2")
    plan = make_plan(Head("fraud", traffic={blue.revision: 1000}), target("c0ffee", [blue, green], {"green": 100})).plan
    assert plan is not None
    engine.submit(rollout.workflow(plan, "ro-fraud-1"))
    wait_for(lambda: phase(engine, "ro-fraud-1") != "Running", PATIENCE_S)
    assert phase(engine, "ro-fraud-1") == "Succeeded", engine.status("ro-fraud-1")
    wait_for(lambda: not pods(cluster, "ro-fraud-1"), PATIENCE_S)
    assert cluster.get(SECRET, "ro-fraud-1-op") is None
    engine.close()
    cluster.delete(POD, "control", grace_s=0)


def test_a_pod_somebody_deletes_is_an_attempt_that_is_tried_again(engine: PodsEngine, cluster: Cluster) -> None:
    retry = RetryStrategy(limit="1", retry_policy="OnError")
    engine.submit(runs("deleted", "import time; time.sleep(600)", retry_strategy=retry))
    wait_for(lambda: [p["status"].get("phase") for p in pods(cluster, "deleted")] == ["Running"], PATIENCE_S)
    (first,) = pods(cluster, "deleted")
    cluster.delete(POD, first["metadata"]["name"], grace_s=1)

    def another() -> bool:
        return any(p["metadata"]["name"] != first["metadata"]["name"] for p in pods(cluster, "deleted"))

    wait_for(another, PATIENCE_S)
    engine.stop("deleted")
    wait_for(lambda: phase(engine, "deleted") == "Failed", PATIENCE_S)


def test_an_op_that_needs_more_memory_than_it_may_have_says_so(engine: PodsEngine) -> None:
    engine.submit(
        runs("hungry", "x = b'0' * 500_000_000", resources=Resources(memory_request="16Mi", memory_limit="64Mi"))
    )
    wait_for(lambda: phase(engine, "hungry") == "Failed", PATIENCE_S)
    run = engine.status("hungry")
    assert run is not None
    assert run.message == "main: out of memory: it needed more than 64Mi"

"""The engine that runs ops as pods is killed again and again: no pod runs twice, and the end is the same."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hera.workflows import DAG, Container, Task, Workflow

from headgate_kit.layout import DataFolder
from headgate_pipelines.engines.pods.engine import PodsEngine
from headgate_pipelines.engines.settings import OpSettings
from kubelet import Kubelet
from kubeserver import KubeServer, wait_for

KILLS = 8
OPS = 8
SEED = int(os.environ.get("HEADGATE_SEED", "7"))

ENGINE = """
import sys, threading
from pathlib import Path
from headgate_kit.layout import DataFolder
from headgate_pipelines.engines.pods.engine import PodsEngine
engine = PodsEngine(DataFolder(Path(sys.argv[1])), env={"HEADGATE_TOKEN": "op_secret"})
engine.start()
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as found:
        yield found


def chain() -> dict[str, object]:
    with Workflow(name="killed", entrypoint="main") as workflow:
        ops = [
            Container(name=f"op-{n}", image="i", command=["python", "-c", "import time; time.sleep(0.2)"])
            for n in range(OPS)
        ]
        with DAG(name="main"):
            tasks = [Task(name=str(one.name), template=one) for one in ops]
            for before, after in itertools.pairwise(tasks):
                before >> after
    return dict(workflow.to_dict())


@pytest.mark.faults
def test_an_engine_that_is_killed_at_any_moment_starts_no_pod_twice(server: KubeServer, tmp_path: Path) -> None:
    kubelet = Kubelet(server, tmp_path / "pods")
    data = DataFolder(tmp_path / "data")
    first = PodsEngine(data, cluster=server.cluster(), settings=OpSettings())
    first.submit(chain())
    first.close()
    env = {**os.environ, "KUBECONFIG": str(server.kubeconfig(tmp_path / "kubeconfig"))}
    draw = random.Random(SEED)
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(data.root)], env=env, stdout=subprocess.PIPE
        ) as engine:
            assert engine.stdout is not None
            assert engine.stdout.readline() == b"up\n"
            asked = len(server.requests)
            few = draw.randrange(1, 6)
            wait_for(lambda asked=asked, few=few: len(server.requests) >= asked + few or _over(server))  # type: ignore[misc]
            engine.send_signal(signal.SIGKILL)
    last = PodsEngine(data, cluster=server.cluster(), settings=OpSettings(), env={"HEADGATE_TOKEN": "op_secret"})
    last.start()
    wait_for(lambda: (run := last.status("killed")) is not None and run.phase == "Succeeded", 60)
    last.close()
    assert sorted(name.rpartition("-0-")[0] for name in kubelet.started) == [f"killed-op-{n}" for n in range(OPS)], SEED
    assert server.all("secrets") == []
    kubelet.close()


def _over(server: KubeServer) -> bool:
    return not server.all("secrets") and any(asked.verb == "delete" for asked in server.requests)

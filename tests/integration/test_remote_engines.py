"""A controller whose engine is elsewhere: a first commit becomes a live endpoint, its ops in pods or as plugin steps.

Everything is real but the cluster: an API server of ours, pods that are processes, and for Argo a player of phases.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import ports
from argoplayer import Player, server_writes
from headgate_controllers.options import BUILD_VARIABLES
from kubelet import Kubelet
from kubeserver import KubeServer, wait_for

PATIENCE_S = 120.0
GIT = {
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
}  # fmt: skip
FILES = {
    "endpoints/adder/endpoint.yml": "name: adder\nauth_mode: key\ntraffic: {blue: 100}\n",
    "endpoints/adder/rollout.yml": "soak: 1s\nmax_soak: 60s\n",
    "endpoints/adder/deployments/blue.yml": (
        "name: blue\nendpoint_name: adder\ncode_configuration: {code: ../blue, scoring_script: score.py}\n"
        'environment: {image: "python:3.11"}\ninstance_type: small\ninstance_count: 1\n'
    ),
    "endpoints/adder/deployments/sample-request.json": '{"x": 3}',
    "endpoints/adder/blue/score.py": "import json\ndef init(): pass\ndef run(raw): return json.loads(raw)['x'] * 2\n",
    "headgate.yml": "instance_types: {small: {cpus: 1, memory_gb: 1}}\n",
}


class System:
    """A controller and a router as processes, a repo with one commit."""

    def __init__(self, folder: Path, stack: ExitStack, *, engine: str, kubeconfig: Path, steps: str) -> None:
        self.data = folder / "data"
        self.repo = _repo(folder / "repo")
        port = stack.enter_context(ports.held())
        environment = {k: v for k, v in os.environ.items() if k not in BUILD_VARIABLES}
        environment |= {**GIT, "KUBECONFIG": str(kubeconfig), "HEADGATE_ARGO_STEPS": steps}
        url, data = f"http://127.0.0.1:{port}", ["--data", str(self.data)]
        listen = ["--listen", f"127.0.0.1:{port}", "--control-url", url]
        asked = ["headgate_controllers", *data, "--repo", str(self.repo), "--engine", engine, *listen]
        self._run(stack, folder / "controller.log", asked, environment)
        wait_for((self.data / "control.json").exists, PATIENCE_S)
        self._run(stack, folder / "router.log", ["headgate_router", *data, "--port", "0"], environment)

    def _run(self, stack: ExitStack, log: Path, argv: list[str], environment: dict[str, str]) -> None:
        out = stack.enter_context(log.open("wb"))
        process = subprocess.Popen([sys.executable, "-m", *argv], env=environment, stdout=out, stderr=out)
        stack.callback(_end, process)

    def api(self, path: str, method: str = "GET") -> Any:
        host, _, port = json.loads((self.data / "control.json").read_text())["url"].rpartition("//")[2].partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        token = (self.data / "control.token").read_text().strip()
        try:
            body = json.dumps({"replicas": True}) if method == "POST" else None
            connection.request(method, path, body, {"authorization": f"Bearer {token}"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def state(self) -> str:
        try:
            return str(self.api("/endpoints/adder").get("state", ""))
        except (OSError, http.client.HTTPException):
            return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """The controller was asked to end, and ends its replicas first; the router is told to."""
    if "headgate_router" in process.args:  # type: ignore[operator]
        process.terminate()
    try:
        process.wait(PATIENCE_S)
    finally:
        process.kill()


def _repo(folder: Path) -> Path:
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "blue"]):
        subprocess.run(["git", *command], cwd=folder, env={**os.environ, **GIT}, check=True)
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.mark.parametrize(
    ("engine", "steps"),
    [
        pytest.param("pods", "", id="ops as pods"),
        pytest.param("argo", "plugin", id="Argo with plugin steps"),
        pytest.param("argo", "container", id="Argo with container steps"),
    ],
)
def test_a_first_commit_goes_live(stack: ExitStack, tmp_path: Path, engine: str, steps: str) -> None:
    server = stack.enter_context(KubeServer())
    kubelet = Kubelet(server, tmp_path / "pods")
    stack.callback(kubelet.close)
    if engine == "argo":
        player = Player(server.cluster(), server_writes(server), patience_s=PATIENCE_S, pods=True)
        stack.callback(player.close)
    config = server.kubeconfig(tmp_path / "kubeconfig")
    system = System(tmp_path, stack, engine=engine, kubeconfig=config, steps=steps)
    stack.callback(system.api, "/shutdown", "POST")
    wait_for(lambda: system.state() == "Healthy", PATIENCE_S)
    (rollout,) = system.api("/endpoints/adder/rollouts")
    assert rollout["state"] == "succeeded"
    ops = [op["name"] for op in rollout["ops"]]
    assert [op["state"] for op in rollout["ops"]] == ["passed"] * len(ops)
    built = [name for name in kubelet.started if "build" in name]
    assert len(built) == 1
    if steps == "plugin":
        assert kubelet.started == built, "no other op had a pod"
    wait_for(lambda: not server.all("secrets"), PATIENCE_S)

"""Which router workers run: real shim folders, and a server that speaks as an API server does."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from headgate_controllers.platforms.kubernetes.routers import Pods
from headgate_controllers.roster import Processes
from headgate_kit import child
from headgate_kit.layout import DataFolder
from kubeserver import KubeServer, wait_for


def test_a_process_runs_while_its_folder_is_locked_whatever_it_does(tmp_path: Path) -> None:
    data = DataFolder(tmp_path)
    roster = Processes(data)
    assert roster.running() == {}
    try:
        for name in ("controller", "router-0", "router-1"):
            child.start(
                data.services / name, [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ}
            )
        wait_for(lambda: child.send(data.services / "router-1", signal.SIGSTOP))
        child.stop(data.services / "router-0", grace_s=5)
        assert roster.running() == {"router-0": False, "router-1": True}
    finally:
        for folder in data.services.iterdir():
            child.send(folder, signal.SIGKILL)
            child.stop(folder, grace_s=0)
    assert roster.running() == {"router-0": False, "router-1": False}


def pod(server: KubeServer, name: str, part: str, ready: str | None) -> None:
    labels = {"app.kubernetes.io/name": "headgate", "headgate.dev/part": part}
    status = {} if ready is None else {"conditions": [{"type": "Initialized", "status": "True"}]}
    if ready is not None:
        status["conditions"].append({"type": "Ready", "status": ready})
    server.put("v1", "pods", {"metadata": {"name": name, "labels": labels}, "status": status}, namespace="ns")


def test_a_router_pod_runs_while_callers_are_sent_to_it() -> None:
    with KubeServer() as server:
        pod(server, "router-a", "router", "True")
        pod(server, "router-b", "router", "False")
        pod(server, "router-c", "router", None)
        pod(server, "controller-a", "controller", "True")
        roster = Pods(server.cluster("ns"))
        wait_for(lambda: roster.running() == {"router-a": True, "router-b": False, "router-c": False})
        pod(server, "router-a", "router", "Unknown")
        wait_for(lambda: roster.running()["router-a"] is False)
        server.drop("pods", "router-b", "ns")
        wait_for(lambda: set(roster.running()) == {"router-a", "router-c"})
        roster.close()

"""Plays Argo's workflow controller, only as far as phases go: starts no pod, evaluates no expression.

A workflow of one container ends as its command says (`hello`: well, `SystemExit`: badly, else when it is stopped). One
of plugin steps is walked through: each task goes into the workflow's `WorkflowTaskSet` and is over when somebody filled
in its node, as with `disableAgentPodCreation`; a container among them is a pod for somebody to run, or ends well at
once; onExit comes last.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from headgate.findings import HeadgateError
from headgate_kit.kube import Cache, Cluster
from headgate_kit.kube.kinds import POD, WORKFLOW, WORKFLOW_TASK_SET
from kubeserver import KubeServer, wait_for

Object = dict[str, Any]
Write = Callable[[str, Mapping[str, Any]], None]  # name of a Workflow, its status
BAD = ("Failed", "Error")


class Player:
    """Args:
    write: how a status gets there; a Workflow has no status subresource.
    pods: containers become pods.
    """

    def __init__(self, cluster: Cluster, write: Write, *, patience_s: float = 30.0, pods: bool = False) -> None:
        self._pods = pods
        self._cluster = cluster
        self._write = write
        self._patience_s = patience_s
        self._began: dict[str, str] = {}
        self._closing = False
        self.took_s: list[tuple[str, float]] = []  # template, from its task appearing to its node being over
        self.messages: dict[str, str] = {}  # template -> what its node said
        self._cache = Cache(cluster, WORKFLOW)
        assert self._cache.start(10)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._thread.join(5)
        self._cache.close()
        self._cluster.close()

    def _run(self) -> None:
        while not self._closing:
            for workflow in self._cache.objects():
                name, uid = workflow["metadata"]["name"], workflow["metadata"]["uid"]
                if self._began.get(name) != uid:
                    self._began[name] = uid
                    threading.Thread(target=self._play, args=(name, workflow), daemon=True).start()
            time.sleep(0.005)

    def _play(self, name: str, workflow: Object) -> None:
        started = {"startedAt": _now()}
        try:
            self._write(name, {**started, "phase": "Running"})
            phase, message = self._ends(name, workflow)
            self._write(name, {**started, "phase": phase, "message": message, "finishedAt": _now()})
        except (AssertionError, HeadgateError):
            if not self._closing:
                raise

    def _ends(self, name: str, workflow: Object) -> tuple[str, str]:
        templates = {t["name"]: t for t in workflow["spec"]["templates"]}
        entry = templates[workflow["spec"]["entrypoint"]]
        if "container" in entry:
            said = json.dumps(entry["container"])
            if "hello" in said:
                return "Succeeded", ""
            if "SystemExit" in said:
                return "Failed", "exit code 3"
            self._until(lambda: self._stopped(name), 600)
            return "Failed", "Stopped with strategy 'Stop'"
        phase, message = "Succeeded", ""
        for task in entry["dag"]["tasks"]:
            phase, message = self._node(name, workflow, templates[task["template"]], phase)
            if phase in BAD:
                break
        if workflow["spec"].get("onExit"):
            self._node(name, workflow, templates[workflow["spec"]["onExit"]], phase)
        self._cluster.delete(WORKFLOW_TASK_SET, name)
        return phase, message

    def _node(self, name: str, workflow: Object, template: Object, status: str) -> tuple[str, str]:
        text = json.dumps(template).replace("{{workflow.name}}", name).replace("{{workflow.status}}", status)
        if "plugin" not in template:
            return self._pod(f"{name}-{template['name']}", json.loads(text))
        node, began = f"{name}-{template['name']}", time.monotonic()
        if self._cluster.get(WORKFLOW_TASK_SET, name) is None:
            self._cluster.create(WORKFLOW_TASK_SET, _task_set(name, workflow["metadata"]["uid"]))
        self._cluster.patch(WORKFLOW_TASK_SET, name, {"spec": {"tasks": {node: json.loads(text)}}})
        over: Object = {}

        def answered() -> bool:
            found = self._cluster.get(WORKFLOW_TASK_SET, name) or {}
            over.update(((found.get("status") or {}).get("nodes") or {}).get(node) or {})
            return over.get("phase") in ("Succeeded", *BAD) or self._stopped(name)

        self._until(answered, self._patience_s)
        self.took_s.append((template["name"], time.monotonic() - began))
        self.messages[template["name"]] = over.get("message", "")
        # The controller takes what is done out again.
        self._cluster.patch(WORKFLOW_TASK_SET, name, {"spec": {"tasks": {node: None}}})
        return (
            (over["phase"], over.get("message", "")) if over.get("phase") in ("Succeeded", *BAD) else ("Failed", "stop")
        )

    def _pod(self, name: str, template: Object) -> tuple[str, str]:
        if not self._pods:
            return "Succeeded", ""
        spec = {"containers": [{"name": "main", **template["container"]}], "volumes": template["volumes"]}
        self._cluster.create(POD, {"metadata": {"name": name}, "spec": spec})

        def phase() -> str:
            return str(((self._cluster.get(POD, name) or {}).get("status") or {}).get("phase", ""))

        self._until(lambda: phase() in ("Succeeded", "Failed"), self._patience_s)
        return phase(), ""

    def _stopped(self, name: str) -> bool:
        found = self._cache.get(name)
        return found is None or found["spec"].get("shutdown") == "Stop"

    def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        wait_for(lambda: self._closing or condition(), within_s)
        assert not self._closing


def _task_set(name: str, uid: str) -> Object:
    owner = {"apiVersion": WORKFLOW.api, "kind": WORKFLOW.name, "name": name, "uid": uid}
    metadata = {"name": name, "ownerReferences": [owner]}
    return {"apiVersion": WORKFLOW.api, "kind": WORKFLOW_TASK_SET.name, "metadata": metadata, "spec": {"tasks": {}}}


def server_writes(server: KubeServer, namespace: str = "default") -> Write:
    def write(name: str, status: Mapping[str, Any]) -> None:
        with server.lock:
            found = server.find("workflows", name, namespace)
            if found is not None:
                server.put(WORKFLOW.api, "workflows", {**found, "status": dict(status)}, namespace)

    return write


def cluster_writes(cluster: Cluster) -> Write:
    def write(name: str, status: Mapping[str, Any]) -> None:
        cluster.patch(WORKFLOW, name, {"status": dict(status)})

    return write


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

"""What stands behind an API server, in small: Deployments become pods, pods get ready. For `KubeServer`, in tests.

Pods run nothing. `status` of a pod is what a test says of it (`say`), else running and ready.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from kubeserver import KubeServer, Object, now

TICK_S = 0.01


class Nodes:
    """`with Nodes(server, \"ns\"): ...`"""

    def __init__(self, server: KubeServer, namespace: str) -> None:
        self.server = server
        self.namespace = namespace
        self.refusal = ""  # why no pod can be made: a quota, a webhook
        self._said: dict[str, Mapping[str, Any]] = {}  # pod, or Deployment: of all its pods
        self._made = self._says = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nodes", daemon=True)

    def __enter__(self) -> Nodes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def say(self, name: str, status: Mapping[str, Any]) -> None:
        """The status of a pod, or of every pod of a Deployment."""
        self._said[name] = status
        self._says += 1

    def _run(self) -> None:
        seen: object = None
        while not self._ends.wait(TICK_S):
            with self.server.lock:
                asked = (self.server.version, self.refusal, self._says)
                if asked == seen:
                    continue
                seen = asked
                wanted = [d for d in self.server.all("deployments") if d["metadata"]["namespace"] == self.namespace]
                owned: dict[str, list[Object]] = {}
                for pod in self.server.all("pods"):
                    owned.setdefault(pod["metadata"]["ownerReferences"][0]["uid"], []).append(pod)
                for deployment in wanted:
                    self._roll(deployment, owned.get(deployment["metadata"]["uid"], []))

    def _roll(self, deployment: Object, mine: list[Object]) -> None:
        name = deployment["metadata"]["name"]
        template = deployment["spec"]["template"]
        mark = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
        alive = [p for p in mine if p.get("status", {}).get("phase") != "Failed"]
        count = deployment["spec"].get("replicas", 1)
        for old in [p for p in alive if f"-{mark}-" not in p["metadata"]["name"]]:
            self.server.drop("pods", old["metadata"]["name"], self.namespace)
            alive.remove(old)
        short = 0 if self.refusal else count - len(alive)
        alive += [self._make(deployment, f"{name}-{mark}") for _ in range(short)]
        for left_over in sorted(alive, key=_last_out)[count:]:
            self.server.drop("pods", left_over["metadata"]["name"], self.namespace)
            alive.remove(left_over)
        for pod in alive:
            self._report(pod, name)
        self._conclude(deployment, alive, count)
        self._slice(name, alive)

    def _slice(self, name: str, alive: list[Object]) -> None:
        """Of the Service of that name, with its labels; it goes with the Service."""
        service = self.server.find("services", name, self.namespace)
        if service is None:
            return
        owner = {"uid": service["metadata"]["uid"], "kind": "Service", "name": name}
        meta = {"name": f"{name}-slice", "labels": service["metadata"]["labels"], "ownerReferences": [owner]}
        endpoints = [
            {
                "addresses": [pod["status"]["podIP"]],
                "conditions": {"ready": _statuses(pod) == ["True"]},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"]},
            }
            for pod in (self.server.find("pods", p["metadata"]["name"], self.namespace) or p for p in alive)
            if pod.get("status", {}).get("podIP")
        ]
        body = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints}
        before = self.server.find("endpointslices", f"{name}-slice", self.namespace)
        if before is None or before["endpoints"] != endpoints:
            self.server.put("discovery.k8s.io/v1", "endpointslices", body, self.namespace)

    def _make(self, deployment: Object, prefix: str) -> Object:
        self._made += 1
        owner = {"uid": deployment["metadata"]["uid"], "kind": "Deployment", "name": deployment["metadata"]["name"]}
        template = deployment["spec"]["template"]
        body = {
            "metadata": {**template["metadata"], "name": f"{prefix}-{self._made:05d}", "ownerReferences": [owner]},
            "spec": {**template["spec"], "nodeName": "n1"},
        }
        return self.server.put("v1", "pods", body, self.namespace)

    def _report(self, pod: Object, deployment: str) -> None:
        name = pod["metadata"]["name"]
        status = self._said.get(name) or self._said.get(deployment) or running(self._address(name))
        if pod.get("status") != status:
            self.server.put("v1", "pods", {**pod, "status": dict(status)}, self.namespace)

    def _address(self, pod: str) -> str:
        return f"10.0.0.{int(pod.rpartition('-')[2]) % 250 + 1}"

    def _conclude(self, deployment: Object, alive: list[Object], count: int) -> None:
        ready = [p for p in alive if condition("Ready", "True")["status"] in _statuses(p)]
        before = {c["type"]: c for c in deployment.get("status", {}).get("conditions", ())}
        conditions = []
        if len(ready) == count:
            conditions.append(condition("Progressing", "True", reason="NewReplicaSetAvailable"))
        elif "Progressing" in before:
            conditions.append(before["Progressing"])
        if self.refusal:
            conditions.append(condition("ReplicaFailure", "True", reason="FailedCreate", message=self.refusal))
        since = {kind: c["lastTransitionTime"] for kind, c in before.items()}
        kept = [{**c, "lastTransitionTime": since.get(c["type"], c["lastTransitionTime"])} for c in conditions]
        status = {"replicas": len(alive), "readyReplicas": len(ready), "conditions": kept}
        if deployment.get("status") != status:
            self.server.put("apps/v1", "deployments", {**deployment, "status": status}, self.namespace)


def _last_out(pod: Object) -> tuple[int, str]:
    cost = pod["metadata"].get("annotations", {}).get("controller.kubernetes.io/pod-deletion-cost", "0")
    return -int(cost), pod["metadata"]["name"]


def _statuses(pod: Object) -> list[str]:
    return [c["status"] for c in pod.get("status", {}).get("conditions", ()) if c["type"] == "Ready"]


def condition(kind: str, status: str, *, reason: str = "", message: str = "", at: str = "") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at or now()}


def running(address: str = "10.0.0.1", *, ready: bool = True, restarts: int = 0, at: str = "") -> Object:
    """A pod whose container runs. Its times are of the year 2026, so that an unchanged status stays equal."""
    at = at or "2026-01-01T00:00:00Z"
    word = "True" if ready else "False"
    return {
        "phase": "Running",
        "podIP": address,
        "startTime": at,
        "conditions": [condition("PodScheduled", "True", at=at), condition("Ready", word, at=at)],
        "containerStatuses": [
            {"name": "model", "ready": ready, "restartCount": restarts, "state": {"running": {"startedAt": at}}}
        ],
    }


def waiting(reason: str, message: str = "", *, restarts: int = 0, last: Object | None = None, at: str = "") -> Object:
    """A pod whose container does not run yet, or not any more."""
    at = at or "2026-01-01T00:00:00Z"
    container = {"name": "model", "ready": False, "restartCount": restarts, "image": "registry/model",
                 "state": {"waiting": {"reason": reason, "message": message}}}  # fmt: skip
    if last is not None:
        container["lastState"] = {"terminated": last}
    return {"phase": "Pending", "startTime": at, "conditions": [condition("PodScheduled", "True", at=at)],
            "containerStatuses": [container]}  # fmt: skip

"""A node that runs nothing: its pods are said to run and to be ready, at addresses that nobody answers.

What a controller costs with a thousand endpoints can be measured on a laptop this way: API server, scheduler and
controllers are real, only the containers are not.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from headgate.findings import HeadgateError
from headgate_kit.kube import Cache, Cluster
from headgate_kit.kube.client import Object
from headgate_kit.kube.kinds import NODE, POD

log = logging.getLogger("bench.kubelet")
BEAT_S = 10.0
POOL = "stub"
TAINT = {"key": "headgate.dev/pool", "value": POOL, "effect": "NoSchedule"}  # replicas of that pool tolerate it
THREADS = 8


class StubNode:
    """Joins when entered, leaves when left.

    Args:
        pods: how many it says it can hold.
    """

    def __init__(self, cluster: Cluster, name: str = "stub-1", pods: int = 5_000) -> None:
        self._cluster = cluster
        self._name = name
        self._room = {"cpu": str(pods * 8), "memory": f"{pods * 32}Gi", "pods": str(pods)}
        self._ended = threading.Event()
        self._beside = ThreadPoolExecutor(THREADS, thread_name_prefix="stub-pod")
        self._addresses = 0
        self._lock = threading.Lock()
        self._pods = Cache(cluster, POD, on_change=self._changed)

    def __enter__(self) -> StubNode:
        self._cluster.delete(NODE, self._name)
        labels = {"headgate.dev/pool": POOL, "kubernetes.io/hostname": self._name}
        self._cluster.create(
            NODE, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._name, "labels": labels}}
        )
        self._beat()
        threading.Thread(target=self._beats, name="stub-beat", daemon=True).start()
        self._pods.start(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pods.close()
        self._beside.shutdown(wait=True, cancel_futures=True)
        self._cluster.delete(NODE, self._name)

    def _beats(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._beat()
            except HeadgateError as error:
                log.warning("no heart beat: %s", error)

    def _beat(self) -> None:
        now = _now()
        ready = {"type": "Ready", "status": "True", "reason": "Stub", "message": "", "lastHeartbeatTime": now}
        status = {"capacity": self._room, "allocatable": self._room, "conditions": [ready]}
        self._cluster.patch(NODE, self._name, {"status": status}, subresource="status")
        # Instead of what the node controller put on a node that had not reported yet; and nobody else's pod comes here.
        self._cluster.patch(NODE, self._name, {"spec": {"taints": [TAINT]}})

    def _changed(self, pod: Object, gone: bool) -> None:
        if not gone and pod["spec"].get("nodeName") == self._name:
            self._beside.submit(self._tend, pod)

    def _tend(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        try:
            if pod["metadata"].get("deletionTimestamp"):
                self._cluster.delete(POD, name, grace_s=0)
            elif pod.get("status", {}).get("phase") == "Pending":
                self._cluster.patch(POD, name, {"status": self._running(pod)}, subresource="status")
        except HeadgateError as error:
            log.warning("%s: %s", name, error)

    def _running(self, pod: Object) -> Object:
        with self._lock:
            self._addresses += 1
            address = f"192.0.2.{self._addresses % 254 + 1}"  # for documentation: nobody answers there
        now = _now()
        containers = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ]
        kinds = ("Initialized", "ContainersReady", "Ready", "PodScheduled")
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds]
        return {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": now,
            "conditions": conditions,
            "containerStatuses": containers,
        }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

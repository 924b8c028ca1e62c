"""Which router pods answer callers: a `Roster`, followed by one watch. A worker is named as its pod.

Readiness is what sends callers to a pod, so one that is not ready is not waited for; a node that is lost makes its
pods unready. One that ends is unready too, and still acks while its callers are answered.
"""

from __future__ import annotations

from collections.abc import Mapping

from headgate_kit.kube.cache import Cache
from headgate_kit.kube.client import Cluster, Object
from headgate_kit.kube.kinds import POD

ROUTERS = "app.kubernetes.io/name=headgate,headgate.dev/part=router"  # as the chart labels their pods


class Pods:
    """Empty until the API server has answered: then nothing is known of any worker. Closes the cluster it is given."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pods = Cache(cluster, POD, selector=ROUTERS, keep=_kept)
        self._pods.start()

    def running(self) -> Mapping[str, bool]:
        return {pod["metadata"]["name"]: bool(pod["ready"]) for pod in self._pods.objects()}

    def close(self) -> None:
        self._pods.close()
        self._cluster.close()


def _kept(pod: Object) -> Object:
    conditions = pod.get("status", {}).get("conditions") or ()
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    return {"metadata": {key: pod["metadata"].get(key) for key in ("name", "resourceVersion")}, "ready": ready}

"""Who decides how many replicas of a revision run: a HorizontalPodAutoscaler by cores, or KEDA by requests. Pure.

Neither goes to zero: a router does not hold requests until there is a replica, it answers 503.
"""

from __future__ import annotations

from typing import Any

from headgate.workload import Load, Scaling, Workload
from headgate_kit.kube import Kind
from headgate_kit.kube.kinds import AUTOSCALER, SCALED_OBJECT

Object = dict[str, Any]

CALM_LOOKS, CALM_S = 20, (60, 3600)  # of polling_interval until a replica goes; within these, for a model takes a while
OPEN = "headgate_router_requests_open"  # gauge of routers, by endpoint, revision and state
MEAN = "1m"  # a gauge is one moment: what HPAs and KEDA ask every 15 s would jump with it


def scaler(w: Workload, scaling: Scaling, metadata: Object, namespace: str) -> tuple[Kind, Object]:
    """The one object that scales it. `metadata`: its name, that of the Deployment too, and its owner."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"]}
    if w.load is None:
        return AUTOSCALER, {"metadata": metadata, "spec": _by_cores(w, scaling, target)}
    return SCALED_OBJECT, {"metadata": metadata, "spec": _by_requests(w, scaling, w.load, target, namespace)}


def kind_of(w: Workload) -> Kind | None:
    """None: nothing scales it."""
    if w.scaling is None:
        return None
    return AUTOSCALER if w.load is None else SCALED_OBJECT


def _by_cores(w: Workload, scaling: Scaling, target: Object) -> Object:
    """By the cores that replicas use, which every cluster with a metrics server knows."""
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": scaling.utilization_percent}}
    return {
        "scaleTargetRef": target,
        "minReplicas": scaling.least,
        "maxReplicas": scaling.most,
        "metrics": [{"type": "Resource", "resource": cpu}],
        "behavior": _behavior(w, scaling),
    }


def _by_requests(w: Workload, scaling: Scaling, load: Load, target: Object, namespace: str) -> Object:
    """By the requests that run, wait or are copied, beside those its replicas may run: what Azure calls utilization.

    A metric that is missing is no zero (`ignoreNullValues`): then the replicas stay as many as they are.
    """
    where = f'namespace="{namespace}",endpoint="{w.endpoint}",revision="{w.revision}"'
    asked = {
        "serverAddress": load.url,
        "query": f"sum(avg_over_time({OPEN}{{{where}}}[{MEAN}]))",
        "threshold": f"{load.slots * scaling.utilization_percent / 100:g}",
        "ignoreNullValues": "false",
    }
    return {
        "scaleTargetRef": target,
        "minReplicaCount": scaling.least,
        "maxReplicaCount": scaling.most,
        "triggers": [{"type": "prometheus", "metricType": "AverageValue", "metadata": asked}],
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(w, scaling)}},
    }


def _behavior(w: Workload, scaling: Scaling) -> Object:
    if w.only_up:
        return {"scaleDown": {"selectPolicy": "Disabled"}}
    calm_s = min(max(CALM_LOOKS * scaling.interval_s, CALM_S[0]), CALM_S[1])
    return {"scaleDown": {"stabilizationWindowSeconds": calm_s}}

"""What a cluster has for our pods: nodes with what they hold and what is free, and the namespace's quotas.

Asked when a rollout is about to start, not watched. Without the right to list pods of every namespace only our own are
subtracted: free is then too high, so what is refused could really not run, and the rest is left to the scheduler.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from headgate.capacity import CPU, MEMORY, PODS, Inventory, Node, Quota
from headgate.findings import TerminalError
from headgate_controllers.platforms.kubernetes import pods
from headgate_controllers.platforms.kubernetes.render import POOL
from headgate_kit.kube import Cluster, Forbidden
from headgate_kit.kube.kinds import NODE, POD, RESOURCE_QUOTA, Kind

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
# Of a pod that has no node, or needs it no more, nothing is subtracted: the server leaves it out.
HOLDS_ROOM = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
REFUSED_S = 600.0  # until the right to list pods of every namespace, once refused, is tried again
EVERY_POD = Kind(POD.api, POD.name, POD.plural, namespaced=False)
GPU_TAINT = "nvidia.com/gpu"
MIB = 1 << 20
UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": float(1 << 10 * power) for power, letter in enumerate("KMGTPE", start=1)
}


class Container(TypedDict, total=False):
    resources: dict[str, Any]
    restartPolicy: str


class Asked(TypedDict, total=False):
    containers: list[Container] | None
    initContainers: list[Container] | None
    nodeName: str
    overhead: dict[str, Any] | None


class Phase(TypedDict, total=False):
    phase: str


class Counted(TypedDict, total=False):
    """Of a pod what `of` reads: a hundredth of it."""

    spec: Asked
    status: Phase


class Pods(TypedDict, total=False):
    metadata: dict[str, Any]
    items: list[Counted] | None


def look(cluster: Cluster, *, everywhere: bool = True) -> Inventory | None:
    """None: we may not list nodes.

    Args:
        everywhere: whether pods of every namespace are subtracted.
    Raises:
        Forbidden: we may not list those. TransientError: the API server is away.
    """
    try:
        nodes, _ = cluster.list(NODE)
    except TerminalError:
        return None
    every, _ = cluster.list(EVERY_POD if everywhere else POD, fields=HOLDS_ROOM, shape=Pods)
    try:
        quotas, _ = cluster.list(RESOURCE_QUOTA)
    except TerminalError as error:
        log.warning("capacity is judged without the namespace's quotas: %s", error)
        quotas = []
    return of(nodes, every, quotas)


class Looks:
    """`look`, one at a time: whoever asks meanwhile shares the next one. A hundred rollouts that begin at once would
    hold the whole cluster in memory a hundred times.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self.asking = 0  # how many ask just now
        self._begun = self._shown = 0  # numbers of looks
        self._last: Inventory | None = None
        self._refused_at = -math.inf

    def look(self) -> Inventory | None:
        """Never older than the question. Raises as `look` does."""
        with self._lock:
            asked = self._begun
            self.asking += 1
        try:
            with self._turn:
                if self._shown <= asked:
                    self._begun += 1
                    self._last, self._shown = self._looked(), self._begun
                return self._last
        finally:
            with self._lock:
                self.asking -= 1

    def _looked(self) -> Inventory | None:
        if self._clock() - self._refused_at >= REFUSED_S:
            try:
                return look(self._cluster)
            except Forbidden:
                self._refused_at = self._clock()
        return look(self._cluster, everywhere=False)


def of(nodes: Iterable[Object], every: Iterable[Object], quotas: Iterable[Object]) -> Inventory:
    asked: dict[str, dict[str, float]] = {}
    for pod in every:
        name = (pod.get("spec") or {}).get("nodeName")
        if name and not pods.ended(pod):
            _add(asked.setdefault(name, {}), requests(pod["spec"]))
    found = (_node(node, asked.get(node["metadata"]["name"], {})) for node in nodes)
    limits = (_quota(quota) for quota in quotas)
    return Inventory(
        tuple(n for n in found if n is not None),
        tuple(q for q in limits if q.holds),
    )


def _node(node: Object, asked: Mapping[str, float]) -> Node | None:
    """None: a taint that our pods do not tolerate keeps them off."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    pool = (meta.get("labels") or {}).get(POOL, "")
    taints = [t for t in spec.get("taints") or () if t.get("effect") != "PreferNoSchedule"]
    foreign = [
        t for t in taints if t["key"] not in (GPU_TAINT, POOL) and not t["key"].startswith("node.kubernetes.io/")
    ]
    if foreign or any(t["key"] == POOL and t.get("value") != pool for t in taints):
        return None
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    holds = _amounts(status.get("allocatable") or {})
    return Node(
        name=meta["name"],
        pool=pool,
        holds=holds,
        free={name: amount - asked.get(name, 0.0) for name, amount in holds.items()},
        ready=ready and not spec.get("unschedulable"),
        reserved=any(t["key"] == GPU_TAINT for t in taints),
    )


def _quota(item: Object) -> Quota:
    """A quota with a scope may not be meant for our pods: it is left to the cluster."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    if spec.get("scopes") or spec.get("scopeSelector"):
        return Quota(item["metadata"]["name"], {}, {})
    hard = {_plain(name): text for name, text in (status.get("hard") or spec.get("hard") or {}).items()}
    used = {_plain(name): text for name, text in (status.get("used") or {}).items()}
    holds, gone = _amounts({n: t for n, t in hard.items() if n}), _amounts({n: t for n, t in used.items() if n})
    return Quota(
        item["metadata"]["name"], holds, {name: amount - gone.get(name, 0.0) for name, amount in holds.items()}
    )


def _plain(name: str) -> str:
    """`requests.cpu`, `limits.cpu` and `cpu` bound the same, because our limits equal our requests; empty: not ours."""
    known = name.removeprefix("requests.").removeprefix("limits.")
    counted = "/" in known and not known.startswith("count/")
    return known if counted or known in ("cpu", "memory", "pods") else ""


def requests(spec: Object) -> dict[str, float]:
    """What the scheduler counts for a pod."""
    total: dict[str, float] = {PODS: 1.0}
    for container in spec.get("containers") or ():
        _add(total, _requested(container))
    for container in spec.get("initContainers") or ():
        for name, amount in _requested(container).items():
            if container.get("restartPolicy") == "Always":
                total[name] = total.get(name, 0.0) + amount
            else:
                total[name] = max(total.get(name, 0.0), amount)
    _add(total, _amounts(spec.get("overhead") or {}))
    return total


def _requested(container: Object) -> dict[str, float]:
    resources = container.get("resources") or {}
    return _amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0.0) + amount


def _amounts(quantities: Mapping[str, str]) -> dict[str, float]:
    names = {"cpu": CPU, "memory": MEMORY}
    return {
        names.get(name, name): quantity(text) / (MIB if name == "memory" else 1) for name, text in quantities.items()
    }


def quantity(text: str | float) -> float:
    """`500m`, `1Gi`, `1e3`, `4`."""
    written = str(text)
    digits = written.rstrip("mkMGTPEiK")
    return float(digits) * UNITS.get(written[len(digits) :], 1.0)

"""The port `Platform` on a Kubernetes cluster. Observes without a request; writes on a thread of its own.

Any number of controllers may have been here before: what runs is found by its labels. A revision's pods are left as
they are by every later version of ours; see `render.shape`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headgate import codec
from headgate.capacity import Inventory
from headgate.fault import Fault
from headgate.findings import Finding, TransientError
from headgate.workload import Purpose, Replica, ReplicaState, Workload, object_name
from headgate_controllers.options import MODELS_TLS
from headgate_controllers.platforms.kubernetes import certificate, inventory, pods, render
from headgate_controllers.platforms.kubernetes.beside import Beside, scaler_of
from headgate_controllers.platforms.kubernetes.hand import Hand
from headgate_controllers.platforms.kubernetes.pods import Patience
from headgate_kit.kube import Cache, Cluster
from headgate_kit.kube.kinds import DEPLOYMENT, ENDPOINT_SLICE, POD, SERVICE_ACCOUNT
from headgate_kit.layout import DataFolder

log = logging.getLogger(__name__)

Key = tuple[str, str, Purpose]
Object = dict[str, Any]
PATIENCE = Patience()
START_S = 20.0  # to see the cluster first
SCALE = "headgate-scale"  # field manager that holds `replicas` for an autoscaler while we let go of it
DRIFT_S = 2.0  # least time between two repairs of one Deployment
REFUSED_S = 30.0  # until a scaler that the cluster does not take is tried again
CATALOGUE_SECRET = "HEADGATE_CATALOGUE_SECRET"  # name of the Secret with credentials of catalogues
CATALOGUE_CLAIM = "HEADGATE_CATALOGUE_CLAIM"  # claim of the volume that holds models
MODELS_SECRET = "HEADGATE_MODELS_TLS_SECRET"  # the Secret that new replicas speak TLS by; empty: plain HTTP
PULL_SECRET = "HEADGATE_IMAGE_PULL_SECRET"  # name of the Secret that replicas' images are pulled with


class KubernetesPlatform:
    """Args:
    data: where other platforms keep their folders; nothing of ours lies there.
    on_change: called with an endpoint's name whenever one of its replicas changed, from our threads; must be quick.
    cluster: None: by $KUBECONFIG, or the one whose pod we are in.
    """

    runs = "image"

    def __init__(
        self,
        data: DataFolder | None = None,
        *,
        on_change: Callable[[str], None] = lambda endpoint: None,
        cluster: Cluster | None = None,
        patience: Patience = PATIENCE,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster or Cluster.connect()
        self._looks = inventory.Looks(self._cluster)
        self._on_change = on_change
        self._patience = patience
        environ = os.environ if environ is None else environ
        self._pull_secret = environ.get(PULL_SECRET, "")
        self._shelves = render.Shelves(environ.get(CATALOGUE_SECRET, ""), environ.get(CATALOGUE_CLAIM, ""))
        self._secured, self._certificate = environ.get(MODELS_SECRET, ""), environ.get(MODELS_TLS, "")
        self._clock = clock
        self._lock = threading.RLock()
        self._asked: dict[Key, Workload] = {}
        self._asked_of: dict[str, set[Key]] = {}  # endpoint -> its keys of `_asked`
        self._unwanted: set[Key] = set()  # removed; its Deployment is not gone yet
        self._leaving: dict[Key, set[str]] = {}  # pods of a deleted Deployment that are not gone yet
        self._touched: set[Key] = set()  # made so, or tried, by us
        self._drifted: set[Key] = set()  # somebody else changed its Deployment
        self._places: dict[Key, dict[str, int]] = {}  # pod -> index
        self._proven: dict[Key, set[int]] = {}  # places that have been ready
        self._beside = Beside(self._cluster)
        # Deployment -> digest of its spec as the server answered our last write; of its form, where it is scaled
        self._written: dict[str, str] = {}
        # endpoint -> its objects by name: a pass looks at one endpoint of thousands
        self._pods_of: dict[str, dict[str, Object]] = {}
        self._deployments_of: dict[str, dict[str, Object]] = {}
        self._reachable: dict[Key, dict[str, list[str]]] = {}  # EndpointSlice -> pods that routers find in it
        self._hand = Hand(self._make_so, self._wake, lane=lambda key: key[0])
        self._pods = Cache(self._cluster, POD, selector=render.OURS, on_change=self._pod_changed, keep=pods.kept)
        self._slices = Cache(
            self._cluster, ENDPOINT_SLICE, selector=render.OURS, on_change=self._slice_changed, keep=pods.kept_slice
        )
        self._deployments = Cache(
            self._cluster,
            DEPLOYMENT,
            selector=render.OURS,
            on_change=self._deployment_changed,
            keep=pods.kept_deployment,
        )

    # --- life of the platform --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Sees what runs. A cluster that is away is waited for by whoever observes, not here for ever."""
        self._hand.start()
        caches = (self._deployments, self._slices, self._pods)
        ends = time.monotonic() + START_S
        for cache in caches:
            cache.start()
        if not all(cache.wait(ends - time.monotonic()) for cache in caches):
            log.warning("the cluster is not seen yet: %s", "; ".join(c.trouble for c in caches if c.trouble))

    def close(self) -> None:
        """Replicas run on."""
        for part in (self._hand, self._pods, self._slices, self._deployments):
            part.close()
        self._cluster.close()

    # --- the port --------------------------------------------------------------------------------------------------

    def apply(self, workload: Workload) -> None:
        key = (workload.endpoint, workload.revision, workload.purpose)
        with self._lock:
            if workload.replicas == 0:
                self._leave(key)
                return
            self._unwanted.discard(key)
            self._asked[key] = workload
            self._asked_of.setdefault(key[0], set()).add(key)
        self._hand.ask(key)

    def remove(self, endpoint: str, revision: str) -> None:
        with self._lock:
            for purpose in Purpose:
                self._leave((endpoint, revision, purpose))

    def observe(self, endpoint: str) -> Sequence[Replica]:
        """Raises TransientError: the cluster has not been seen yet, so an empty answer would be a guess."""
        caches = (self._pods, self._slices, self._deployments)
        if not all(cache.ready for cache in caches):
            why = next((cache.trouble for cache in caches if cache.trouble), "its watches have just begun")
            raise TransientError(f"the cluster is not seen yet: {why}")
        now = self._clock()
        with self._lock:
            found = self._pods_by_key(endpoint)
            keys = {*found, *self._asked_of.get(endpoint, ()), *self._keys_of_deployments(endpoint)}
            seen = [r for key in keys - self._unwanted for r in self._replicas(key, found.get(key, []), now)]
        return sorted(seen, key=lambda r: (r.revision, r.purpose, r.index))

    def logs(self, replica: Replica, *, follow: bool = False, kind: str = "inference-server") -> Iterator[bytes]:
        """What a replica's container writes. `storage-initializer`: where it fetches its model itself."""
        pod, container = replica.logs.get(kind, ""), render.INITIALIZER if kind == render.INITIALIZER else render.MODEL
        if pod:
            yield from (line + b"\n" for line in self._cluster.logs(pod, container, follow=follow))

    def service(self, endpoint: str, revision: str) -> str:
        """Where routers find a revision's replicas themselves."""
        return f"k8s:{self._cluster.namespace}/{object_name(endpoint, revision)}:{render.PORT}"

    def inventory(self) -> Inventory | None:
        """What the cluster has and what is asked of it. None: we may not list nodes."""
        return self._looks.look()

    def findings(self) -> tuple[Finding, ...]:
        """What of headgate.yml this cluster does not do."""
        return (*self._beside.findings(), *certificate.lacks(self._secured, self._certificate))

    # --- what is seen ----------------------------------------------------------------------------------------------

    def _pods_by_key(self, endpoint: str) -> dict[Key, list[Object]]:
        found: dict[Key, list[Object]] = {}
        for name, pod in self._pods_of.get(endpoint, {}).items():
            key = pods.key_of(pod)
            if key is not None and not pods.leaving(pod) and name not in self._leaving.get(key, ()):
                found.setdefault(key, []).append(pod)
        return found

    def _keys_of_deployments(self, endpoint: str) -> set[Key]:
        return {key for item in self._deployments_of.get(endpoint, {}).values() if (key := pods.key_of(item))}

    def _replicas(self, key: Key, every: list[Object], now: float) -> list[Replica]:
        every.sort(key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))
        alive = [pod for pod in every if not pods.ended(pod)]
        deployment = self._deployments.get(object_name(*key))
        settled = deployment is not None and pods.was_available(deployment)
        places = self._placed(key, [pod["metadata"]["name"] for pod in alive])
        found = []
        for pod in alive:
            index = places[pod["metadata"]["name"]]
            if pods.is_ready(pod):
                self._proven.setdefault(key, set()).add(index)
            ever_ready = settled or index in self._proven.get(key, ())
            replica = pods.replica(pod, index, now, self._patience, ever_ready=ever_ready)
            found.append(self._as_routers_see(key, pod, replica))
        lost = [pod for pod in every if pods.ended(pod)]
        return [*found, *self._missing(key, deployment, {r.index for r in found}, lost, now)]

    def _as_routers_see(self, key: Key, pod: Object, replica: Replica) -> Replica:
        """Ready is who is found by routers: traffic must not move to one that they do not know yet."""
        if key[2] is not Purpose.SERVE or replica.state is not ReplicaState.READY:
            return replica
        if any(pod["metadata"]["name"] in names for names in self._reachable.get(key, {}).values()):
            return replica
        return replace(replica, state=ReplicaState.STARTING, message="it is ready, and routers do not see it yet")

    def _placed(self, key: Key, names: list[str]) -> dict[str, int]:
        """A pod keeps its index; a new one takes the lowest that is free."""
        known = self._places.get(key, {})
        places = {name: known[name] for name in names if name in known}
        free = iter(i for i in range(len(names) + len(known) + 1) if i not in places.values())
        places |= {name: next(free) for name in [n for n in names if n not in places]}
        self._places[key] = places
        return places

    def _missing(
        self, key: Key, deployment: Object | None, taken: set[int], lost: list[Object], now: float
    ) -> list[Replica]:
        """Replicas that are asked for and have no pod."""
        asked = self._asked.get(key)
        wanted = _wanted(asked, deployment)
        free = [i for i in range(wanted) if i not in taken][: max(0, wanted - len(taken))]
        if not free:
            return []
        state, message, fault = self._why_missing(key, deployment, lost, now)
        labels = (deployment or {}).get("metadata", {}).get("labels", {})
        name = asked.deployment if asked else labels.get(render.DEPLOYMENT, "")
        return [Replica(key[0], name, key[1], i, key[2], state, message=message, fault=fault) for i in free]

    def _why_missing(
        self, key: Key, deployment: Object | None, lost: list[Object], now: float
    ) -> tuple[ReplicaState, str, Fault | None]:
        asked = self._asked.get(key)
        if asked is not None and not asked.image:
            text = "its build made a folder, and a cluster runs images: build with `oci`, or run on `process`"
            return ReplicaState.FAILED, text, Fault.BUILDER
        trouble = self._hand.trouble(key)
        if trouble is not None:
            over = trouble.refused and now - trouble.since >= self._patience.refused_s
            text = trouble.text + ("; mend what refuses it, or correct the deployment" if trouble.refused else "")
            fault = Fault.RIGHTS if over and trouble.rights else None
            return ReplicaState.FAILED if over else ReplicaState.STARTING, text, fault
        if deployment is None:
            return ReplicaState.STARTING, "", None
        return pods.missing(deployment, lost, now, self._patience)

    def _pod_changed(self, pod: Object, gone: bool) -> None:
        key = pods.key_of(pod)
        if key is None:
            return
        with self._lock:
            _note(self._pods_of, key[0], pod, gone)
            if gone and key in self._leaving:
                self._leaving[key].discard(pod["metadata"]["name"])
                if not self._leaving[key]:
                    del self._leaving[key]
        self._on_change(key[0])

    def _slice_changed(self, item: Object, gone: bool) -> None:
        """Wakes the endpoint; a Service that is gone is put back, because routers find nobody without it."""
        key = pods.key_of(item)
        if key is None:
            return
        with self._lock:
            slices = self._reachable.setdefault(key, {})
            if gone:
                slices.pop(item["metadata"]["name"], None)
            else:
                slices[item["metadata"]["name"]] = item["ready"]
            if not slices:
                del self._reachable[key]
            lost = gone and not slices and key in self._asked and self._beside.forget(key)
        if lost:
            self._hand.ask(key, DRIFT_S)
        self._on_change(key[0])

    def _deployment_changed(self, item: Object, gone: bool) -> None:
        """Wakes the endpoint; what somebody else changed or deleted is put back."""
        key = pods.key_of(item)
        if key is None:
            return
        name = item["metadata"]["name"]
        with self._lock:
            _note(self._deployments_of, key[0], item, gone)
            if gone:
                self._gone(key)
            drifted = (
                key in self._asked
                and name in self._written
                and (gone or self._written[name] not in (item["digest"], item["form"]))
            )
            if drifted:
                del self._written[name]
                self._drifted.add(key)
        if drifted:
            log.warning("%s: somebody %s it; it is put back", name, "deleted" if gone else "changed")
            self._hand.ask(key, DRIFT_S)
        self._on_change(key[0])

    def _wake(self, key: Key) -> None:
        self._on_change(key[0])

    # --- making it so, on the hand's thread ------------------------------------------------------------------------

    def _leave(self, key: Key) -> None:
        """Out of sight at once."""
        known = self._deployments.get(object_name(*key)) is not None
        if not (known or self._names(key) or key in self._asked):
            return
        self._asked.pop(key, None)
        self._asked_of.get(key[0], set()).discard(key)
        self._places.pop(key, None)
        self._proven.pop(key, None)
        self._unwanted.add(key)
        self._hand.ask(key)
        self._on_change(key[0])

    def _gone(self, key: Key) -> None:
        """Nothing is kept of it, unless it is asked for again already."""
        self._unwanted.discard(key)
        if key not in self._asked:
            self._touched.discard(key)
            self._drifted.discard(key)
            self._places.pop(key, None)
            self._proven.pop(key, None)
        if not self._asked_of.get(key[0]):
            self._asked_of.pop(key[0], None)

    def _names(self, key: Key) -> set[str]:
        return {name for name, pod in self._pods_of.get(key[0], {}).items() if pods.key_of(pod) == key}

    def _make_so(self, key: Key) -> None:
        with self._lock:
            workload = self._asked.get(key)
            if workload is None and (names := self._names(key)):
                self._leaving.setdefault(key, set()).update(names)
        if workload is None:
            self._delete(key)
        elif workload.image and not self._found_so(key, workload):
            made = self._write(key, workload)
            if not self._beside.stand(key, workload, made):
                self._hand.ask(key, REFUSED_S)

    def _found_so(self, key: Key, w: Workload) -> bool:
        """Whether a controller before us left it just so: a restart among thousands of revisions then writes nothing.
        What we wrote ourselves may be newer than what we have seen, so this is asked once."""
        name = object_name(*key)
        with self._lock:
            first, seen = key not in self._touched, self._deployments.get(name)
            self._touched.add(key)
            if not first or seen is None or _count(seen, w) != int(seen["spec"]["replicas"]):
                return False
            if w.scaling is None and scaler_of(seen) is not None:
                return False
            beside = (seen["metadata"].get("annotations") or {}).get(render.BESIDE)
            as_asked = render.beside_digest(w, render.secured_by(seen))
            so = render.shape_of(seen) == render.shape(w) and beside == as_asked
            if so:
                self._written[name] = seen["form" if w.scaling else "digest"]
            return so

    def _write(self, key: Key, w: Workload) -> Object:
        """The Deployment as the server has it now."""
        name = object_name(*key)
        known = self._cluster.get(DEPLOYMENT, name)
        with self._lock:
            self._written.pop(name, None)  # until the server has answered, a change may be ours
            drifted = key in self._drifted
        if known is None:
            self._cluster.apply(SERVICE_ACCOUNT, render.account(w, self._pull_secret))
        elif known["metadata"].get("deletionTimestamp"):
            raise TransientError(f"Deployment {name} is still being deleted")
        if known is not None:
            self._beside.unscale(known, w)
        if known is None or drifted or render.shape_of(known) != render.shape(w):
            if known is not None and w.scaling is not None:
                self._let_scale(known)
            secured = self._secured if known is None else render.secured_by(known)
            made = self._cluster.apply(DEPLOYMENT, render.deployment(w, self._shelves, secured))
        else:
            made = known
        made = self._scale(made, w, w.replicas if known is None else None)
        with self._lock:
            self._written[name] = pods.form(made["spec"]) if w.scaling else codec.digest(made["spec"])
            self._drifted.discard(key)
        return made

    def _let_scale(self, known: Object) -> None:
        """An apply that names `replicas` no more would set them to 1 if nobody else held them."""
        name, count = known["metadata"]["name"], known["spec"].get("replicas", 1)
        self._cluster.apply(DEPLOYMENT, {"metadata": {"name": name}, "spec": {"replicas": count}}, manager=SCALE)

    def _scale(self, known: Object, w: Workload, start: int | None = None) -> Object:
        """In place: its pods are as asked, whichever version of ours rendered them."""
        now = int(known["spec"].get("replicas", 1))
        wanted = _count(known, w) if start is None else start
        if now == wanted:
            return known
        if now > wanted:
            self._let_last_go_first(w, wanted)
        changed = self._cluster.patch(DEPLOYMENT, known["metadata"]["name"], {"spec": {"replicas": wanted}})
        if changed is None:
            raise TransientError(f"Deployment {known['metadata']['name']} was deleted meanwhile")
        return changed

    def _let_last_go_first(self, w: Workload, wanted: int) -> None:
        """Kubernetes ends those of the lowest cost: the lowest indexes stay, as on every platform."""
        with self._lock:
            places = dict(self._places.get((w.endpoint, w.revision, w.purpose), {}))
        for name, index in places.items():
            if index >= wanted:
                cost = {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-100"}}}
                self._cluster.patch(POD, name, cost)

    def _delete(self, key: Key) -> None:
        name = object_name(*key)
        with self._lock:
            self._written.pop(name, None)
            self._drifted.discard(key)
        self._beside.forget(key)
        there = self._cluster.delete(DEPLOYMENT, name)
        with self._lock:
            if not there or self._deployments.get(name) is None:
                self._gone(key)
            others = self._keys_of_deployments(key[0]) | self._asked_of.get(key[0], set())
            last = not others - {key}
        if last:
            self._cluster.delete(SERVICE_ACCOUNT, render.account_name(key[0]))


def _count(item: Object, w: Workload) -> int:
    """Replicas that this Deployment should have; within an autoscaler's limits those it has."""
    if w.scaling is None:
        return w.replicas
    return min(w.scaling.most, max(w.scaling.least, int(item["spec"].get("replicas", 1))))


def _wanted(asked: Workload | None, item: Object | None) -> int:
    if asked is not None and (item is None or asked.scaling is None):
        return asked.replicas
    return int(item["spec"].get("replicas", 1)) if item else 0


def _note(index: dict[str, dict[str, Object]], endpoint: str, item: Object, gone: bool) -> None:
    if not gone:
        index.setdefault(endpoint, {})[item["metadata"]["name"]] = item
        return
    left = index.get(endpoint, {})
    left.pop(item["metadata"]["name"], None)
    if not left:
        index.pop(endpoint, None)

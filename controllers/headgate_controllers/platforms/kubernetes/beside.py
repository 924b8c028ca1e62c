"""What stands beside a revision's Deployment: made so, changed, and taken away when it is asked for no more.

Refuses to hold up replicas for it: a cluster that does not take a scaler says so in a finding, and they run on.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from headgate.findings import Finding, Place, Severity, TerminalError, TransientError
from headgate.workload import Purpose, Workload, object_name
from headgate_controllers.platforms.kubernetes import render, scaling
from headgate_kit.kube import Cluster, Kind
from headgate_kit.kube.kinds import AUTOSCALER, DEPLOYMENT, DISRUPTION_BUDGET, SCALED_OBJECT

log = logging.getLogger(__name__)

Object = dict[str, Any]
Key = tuple[str, str, Purpose]
# What the annotation SCALED says, and which object may stand there then.
SCALERS = {"true": AUTOSCALER, "keda": SCALED_OBJECT}
SAYS = {kind: word for word, kind in SCALERS.items()}


class Beside:
    """Used by the hand's threads: one of them per endpoint at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._applied: dict[Key, list[tuple[Kind, Object]]] = {}
        self._refused: dict[Key, str] = {}  # what the cluster said to a scaler

    def stand(self, key: Key, w: Workload, owner: Object) -> bool:
        """Makes it so. False: all but its scaler, which the cluster does not take; to be tried again.

        Args:
            owner: the Deployment.
        """
        secured = render.secured_by(owner)
        rendered = render.beside(w, owner["metadata"]["uid"], self._cluster.namespace, secured)
        if self._applied.get(key) == rendered:
            return True
        name, scaler = object_name(*key), scaling.kind_of(w)
        if DISRUPTION_BUDGET not in [kind for kind, _ in rendered]:
            self._cluster.delete(DISRUPTION_BUDGET, name)
        if scaler is not None:  # noted before there is one: it is found again whatever happens in between
            self._note(name, render.SCALED, SAYS[scaler])
        taken = [self._apply(key, kind, body) for kind, body in rendered]
        if not all(taken):
            if scaler_of(owner) is not scaler:  # there is none to be found again, and perhaps no right to delete it
                self._note(name, render.SCALED, None)
            return False
        self._allow(key)
        self._applied[key] = rendered
        self._note(name, render.BESIDE, render.beside_digest(w, secured))
        return True

    def _note(self, name: str, annotation: str, value: str | None) -> None:
        self._cluster.patch(DEPLOYMENT, name, {"metadata": {"annotations": {annotation: value}}})

    def _apply(self, key: Key, kind: Kind, body: Object) -> bool:
        try:
            made = self._cluster.apply(kind, body)
        except TerminalError as error:
            if kind is not SCALED_OBJECT:
                raise
            with self._lock:
                known, self._refused[key] = key in self._refused, str(error)
            if not known:
                log.warning("%s: KEDA does not scale it: %s", body["metadata"]["name"], error)
            return False
        if made["metadata"].get("deletionTimestamp"):  # a finalizer, such as KEDA's, has not ended yet
            raise TransientError(f"{kind.name} {body['metadata']['name']} is still being deleted")
        return True

    def unscale(self, known: Object, w: Workload) -> None:
        """Takes away the scaler that its Deployment has and is not asked for: two would pull at `replicas`.

        First of all, for it would change `replicas` again; KEDA takes no Deployment that has an autoscaler.
        """
        name, has = known["metadata"]["name"], scaler_of(known)
        if has is None or has is scaling.kind_of(w):
            return
        self._cluster.delete(has, name)
        self._note(name, render.SCALED, None)
        self._allow((w.endpoint, w.revision, w.purpose))

    def forget(self, key: Key) -> bool:
        """It was deleted, or somebody took part of it away. Whether it was known."""
        self._allow(key)
        return self._applied.pop(key, None) is not None

    def _allow(self, key: Key) -> None:
        with self._lock:
            self._refused.pop(key, None)

    def findings(self) -> tuple[Finding, ...]:
        with self._lock:
            said = dict(self._refused)
        if not said:
            return ()
        names = sorted({endpoint for endpoint, _, _ in said})
        return (
            Finding(
                "keda-missing",
                f"KEDA does not scale {', '.join(names[:5])}{' and others' if names[5:] else ''}: "
                f"{next(iter(said.values()))}",
                "headgate.yml asks for it by `keda:`; until then as many replicas run as do now",
                "install KEDA and set the chart's `keda.enabled`, or delete `keda:` to scale by cores",
                Place("headgate.yml"),
                Severity.WARNING,
            ),
        )


def scaler_of(item: Object) -> Kind | None:
    """What may scale this Deployment; None: nothing of ours."""
    return SCALERS.get((item["metadata"].get("annotations") or {}).get(render.SCALED, ""))

"""Shows the record as OnlineEndpoint and EndpointRollout objects, and puts back what was edited by hand.

A listener of the record that only takes note; one thread of its own writes, at most `WRITES_PER_S`. Nothing waits for
it and nothing is read from these objects: without an API server, or without the definitions, all else goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from headgate.control import EndpointStatus, RolloutStatus
from headgate.findings import ConflictError, HeadgateError
from headgate.rollout import Event, Head
from headgate_controllers import projection
from headgate_controllers.heads import Heads
from headgate_controllers.projection import ENDPOINT, LABELS, Object, object_name
from headgate_controllers.records.customresource import FIELD, Copies
from headgate_kit.kube.cache import Cache
from headgate_kit.kube.client import Cluster
from headgate_kit.kube.kinds import ENDPOINT_ROLLOUT, EVENT, ONLINE_ENDPOINT, Kind

log = logging.getLogger(__name__)

WRITES_PER_S = 20.0  # of all objects together: an API server serves others too
SETTLE_S = 0.2  # changes that come together are one write
SWEEP_S = 10.0  # replicas that come and go are not in the record: between two looks at all
SWEPT_PER_S = 10.0  # of thousands, so many; what changed goes before them
LAST_WORDS_S = 3.0  # what waits to be written when it ends may take
PAUSE_S = 5.0  # after the API server did not answer
DEFINITIONS_S = 10.0  # between looks whether the definitions are there
DRIFT_S = 60.0  # how long a hand's edit is reported after it was put back
KEPT_ROLLOUTS = 10  # objects per endpoint; the record keeps more
TOLD = {"succeeded": "Normal", "started": "Normal", "failed": "Warning", "aborted": "Warning", "superseded": "Normal"}


class Source(Protocol):
    """What is shown: the controller."""

    @property
    def heads(self) -> Heads: ...
    def endpoint_status(self, name: str) -> EndpointStatus: ...
    def rollout(self, rollout_id: str) -> RolloutStatus: ...


class Resources:
    """Args:
    settled: whether git was read since the start; until then no object is taken for one of a removed endpoint.
    copies: keep the record a second time in the status; None: it is not.
    """

    def __init__(
        self,
        cluster: Cluster,
        source: Source,
        settled: Callable[[], bool],
        clock: Callable[[], float] = time.time,
        copies: Copies | None = None,
    ) -> None:
        self._cluster = cluster
        self._source = source
        self._settled = settled
        self._clock = clock
        self._copies = copies
        self._lock = threading.Condition()
        self._dirty: OrderedDict[str, None] = OrderedDict()  # names of objects, the longest waiting first
        self._rest: deque[str] = deque()  # of a look at all: those that nothing is known to have changed of
        self._names: dict[str, str] = {}  # name of an object -> endpoint
        self._said: list[tuple[str, str, str]] = []  # (endpoint, reason, message): events to tell
        # The spec we wrote last, its generation, and which object it was.
        self._written: dict[tuple[Kind, str], tuple[Object, int, str]] = {}
        self._drift: dict[str, tuple[float, str]] = {}  # object name -> when and what
        self._closing = threading.Event()
        self._endpoints = Cache(cluster, ONLINE_ENDPOINT, on_change=self._changed)
        self._rollouts = Cache(cluster, ENDPOINT_ROLLOUT, on_change=self._rollout_changed)
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)

    def start(self) -> None:
        self._source.heads.listen(self._heard)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            self._lock.notify_all()
        self._thread.join(PAUSE_S)
        if self._copies is not None and not self._thread.is_alive():
            self._last_words()
        for cache in (self._endpoints, self._rollouts):
            cache.close()

    def _last_words(self) -> None:
        """Whoever takes over without our volume begins with what was recorded last."""
        deadline = time.monotonic() + LAST_WORDS_S
        while self._dirty and self._endpoints.ready and self._rollouts.ready and time.monotonic() < deadline:
            name = self._dirty.popitem(last=False)[0]
            if not self._attempt(name):
                return

    def drift(self) -> tuple[str, ...]:
        """What a hand changed lately, for `headgate status`."""
        now = self._clock()
        with self._lock:
            return tuple(line for at, line in self._drift.values() if now - at <= DRIFT_S)

    # --- taking note; must be quick -------------------------------------------------------------------------------

    def _heard(self, endpoint: str, events: Iterable[Event]) -> None:
        ended = [
            (endpoint, event.kind.removeprefix("rollout.").capitalize(), event.message)
            for event in events
            if event.kind.startswith("rollout.")
        ]
        with self._lock:
            self._said = [*self._said, *ended][-100:]
        self._mark(object_name(endpoint))

    def _changed(self, found: Object, gone: bool) -> None:
        self._mark(str(found["metadata"]["name"]))

    def _rollout_changed(self, found: Object, gone: bool) -> None:
        self._mark(object_name(str((found.get("spec") or {}).get("endpoint", ""))))

    def _mark(self, *names: str) -> None:
        with self._lock:
            for name in names:
                self._dirty.setdefault(name, None)
            self._lock.notify()

    # --- its thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if not self._find_definitions():
            return
        self._endpoints.start()
        self._rollouts.start()
        swept: float | None = None  # None: what was missed before we came is not looked for yet
        while not self._closing.is_set():
            seen = self._endpoints.ready and self._rollouts.ready
            if seen and swept is None:
                swept = time.monotonic()
                self._mark(*self._all())
            elif seen and swept is not None and not self._rest and time.monotonic() - swept > SWEEP_S:
                swept = time.monotonic()
                self._rest.extend(self._all())
            name = self._next()
            if name and not self._attempt(name):
                self._mark(name)
                self._closing.wait(PAUSE_S)

    def _find_definitions(self) -> bool:
        """Waits until the API server knows our kinds. False: closed before."""
        said = False
        while not self._closing.is_set():
            try:
                self._cluster.list(ONLINE_ENDPOINT)
                self._cluster.list(ENDPOINT_ROLLOUT)
                return True
            except HeadgateError as error:
                if not said:
                    log.warning("no custom resources are shown: %s; kubectl apply -f install/crds", error)
                    said = True
                self._closing.wait(DEFINITIONS_S)
        return False

    def _all(self) -> tuple[str, ...]:
        """Names of what the record has and of what is shown."""
        shown = (str(item["metadata"]["name"]) for item in self._endpoints.objects())
        return tuple(dict.fromkeys((*map(object_name, self._source.heads.names()), *shown)))

    def _next(self) -> str:
        """The name that waits longest, after a moment for more of the same, or one of the rest; empty: look around."""
        with self._lock:
            if not (self._endpoints.ready and self._rollouts.ready):
                self._lock.wait(1.0)
                return ""
            if not self._dirty:
                self._lock.wait(1.0 / SWEPT_PER_S if self._rest else 1.0)
                return self._rest.popleft() if self._rest and not self._dirty else ""
        self._closing.wait(SETTLE_S if len(self._dirty) == 1 else 1.0 / WRITES_PER_S)
        with self._lock:
            return self._dirty.popitem(last=False)[0] if self._dirty else ""

    def _attempt(self, name: str) -> bool:
        """False: try again later."""
        try:
            self._tell()
            self._show(name)
        except ConflictError:
            self._mark(name)  # somebody wrote in between: the watch brings it
        except HeadgateError as error:
            log.warning("%s is not shown just now: %s", name, error)
            return False
        except Exception:  # showing must not end because of one endpoint
            log.exception("%s cannot be shown", name)
        return True

    def _show(self, name: str) -> None:
        head = self._source.heads.get(self._endpoint_of(name))
        if not projection.exists(head):
            self._remove(name)
            return
        found = self._put(
            ONLINE_ENDPOINT, self._endpoints.get(name), name, head.endpoint, projection.endpoint_spec(head)
        )
        status = self._source.endpoint_status(head.endpoint)
        meta, before = found["metadata"], found.get("status") or {}
        wanted = projection.endpoint_status(status, meta["generation"], before.get("conditions") or (), self._clock())
        wanted |= self._copy(head, str(before.get(FIELD) or ""))
        made = self._put_status(ONLINE_ENDPOINT, found, wanted)
        if wanted.get(FIELD) and not (made.get("status") or {}).get(FIELD):
            log.warning("the record is not copied: OnlineEndpoint is of an older Headgate; apply install/crds")
            self._copies = None
        self._show_rollouts(head, meta)

    def _endpoint_of(self, name: str) -> str:
        """Empty: the record knows none of that name."""
        if name not in self._names:
            self._names = {object_name(endpoint): endpoint for endpoint in self._source.heads.names()}
        return self._names.get(name, "")

    def _copy(self, head: Head, before: str) -> Object:
        """Read after the head: never older than what the status says of it."""
        if self._copies is None:
            return {}
        return {FIELD: self._copies.of(head, self._source.heads.version(head.endpoint), before)}

    def _show_rollouts(self, head: Head, owner: Mapping[str, Any]) -> None:
        known = [r for r in self._rollouts.objects() if (r.get("spec") or {}).get("endpoint") == head.endpoint]
        open_ones = {r["metadata"]["name"] for r in known if not (r.get("status") or {}).get("endedAt")}
        if head.rollout is not None:
            open_ones.discard(head.rollout.id)
            spec = projection.rollout_spec(head.rollout)
            found = self._put(
                ENDPOINT_ROLLOUT, self._rollouts.get(head.rollout.id), head.rollout.id, head.endpoint, spec, owner
            )
            self._rollout_status(found, head.rollout.id)
        for name in open_ones:  # it ended while nobody looked
            found = self._rollouts.get(name) or {}
            if found:
                self._rollout_status(found, name)
        known.sort(key=lambda r: str(r["metadata"].get("creationTimestamp")), reverse=True)
        for item in known[KEPT_ROLLOUTS:]:
            self._cluster.delete(ENDPOINT_ROLLOUT, item["metadata"]["name"])

    def _rollout_status(self, found: Object, rollout_id: str) -> None:
        try:
            status = self._source.rollout(rollout_id)
        except HeadgateError:  # the record has forgotten it: so does the cluster
            self._cluster.delete(ENDPOINT_ROLLOUT, rollout_id)
            return
        before = (found.get("status") or {}).get("conditions") or ()
        wanted = projection.rollout_status(status, found["metadata"]["generation"], before, self._clock())
        self._put_status(ENDPOINT_ROLLOUT, found, wanted)

    # --- writing --------------------------------------------------------------------------------------------------

    def _put(
        self,
        kind: Kind,
        found: Object | None,
        name: str,
        endpoint: str,
        spec: Object,
        owner: Mapping[str, Any] | None = None,
    ) -> Object:
        """The object, with this spec."""
        wrote, generation, uid = self._written.get((kind, name), ({}, 0, ""))
        if found is not None and found["metadata"]["generation"] < generation and _uid(found) == uid:
            raise ConflictError(f"{kind.name} {name}: our own write has not come back yet")
        if found is not None and not projection.differs(spec, found.get("spec")):
            self._written[kind, name] = spec, found["metadata"]["generation"], _uid(found)
            return found
        if found is not None and wrote == spec:
            self._put_back(kind, found, endpoint)
        metadata: Object = {"name": name, "labels": {**LABELS, ENDPOINT: endpoint}}
        if owner is not None:
            metadata["ownerReferences"] = [
                {
                    "apiVersion": ONLINE_ENDPOINT.api,
                    "kind": ONLINE_ENDPOINT.name,
                    "name": owner["name"],
                    "uid": owner["uid"],
                }
            ]
        # The server makes null of a list that an apply takes the last item from, and the definition refuses that.
        emptied = found if [] in spec.values() else None
        made = emptied or self._cluster.apply(kind, {"metadata": metadata, "spec": spec})
        if projection.differs(spec, made.get("spec")):  # what others added is theirs: an apply leaves it
            patch = projection.restored(spec, made.get("spec") or {})
            version = made["metadata"]["resourceVersion"]
            made = self._cluster.patch(kind, name, {"metadata": {"resourceVersion": version}, "spec": patch}) or made
        self._written[kind, name] = spec, made["metadata"]["generation"], _uid(made)
        return made

    def _put_back(self, kind: Kind, found: Object, endpoint: str) -> None:
        """Says that a hand was here."""
        managers = [m for m in found["metadata"].get("managedFields") or () if m.get("manager") != "headgate"]
        last: Mapping[str, Any] = max(managers, key=lambda m: str(m.get("time")), default={})
        by = f" by {last['manager']}" if last.get("manager") else ""
        name = found["metadata"]["name"]
        line = f"{endpoint}: {kind.name} {name} was edited{by}; git is its only writer, it is put back"
        log.warning("%s", line)
        with self._lock:
            self._drift[name] = (self._clock(), line)
        self._event(kind, found["metadata"], "PutBack", f"edited{by}: change the endpoints repo instead", "Warning")

    def _put_status(self, kind: Kind, found: Object, status: Object) -> Object:
        """By compare-and-swap. The object as it is then. Raises ConflictError."""
        if not projection.differs(status, found.get("status")):
            return found
        version = found["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "status": status}
        return self._cluster.patch(kind, found["metadata"]["name"], body, subresource="status") or found

    def _remove(self, name: str) -> None:
        if self._endpoints.get(name) is not None and self._settled():
            log.info("OnlineEndpoint %s is taken away: git has no such endpoint", name)
            self._cluster.delete(ONLINE_ENDPOINT, name)
        self._written.pop((ONLINE_ENDPOINT, name), None)

    # --- events ---------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        with self._lock:
            said, self._said = self._said, []
        for endpoint, reason, message in said:
            shown = self._endpoints.get(object_name(endpoint))
            if shown is not None:
                type_ = TOLD.get(reason.lower(), "Normal")
                self._event(ONLINE_ENDPOINT, shown["metadata"], f"Rollout{reason}", message, type_)

    def _event(self, kind: Kind, about: Mapping[str, Any], reason: str, message: str, type_: str) -> None:
        """As `kubectl describe` shows it. One that cannot be written is not worth a failure."""
        now = projection.moment(self._clock())
        body = {
            "apiVersion": EVENT.api,
            "kind": EVENT.name,
            "metadata": {"generateName": f"{about['name']}-"},
            "involvedObject": {
                "apiVersion": kind.api,
                "kind": kind.name,
                "name": about["name"],
                "namespace": self._cluster.namespace,
                "uid": about.get("uid", ""),
            },
            "reason": reason,
            "message": message[: projection.MESSAGE],
            "type": type_,
            "source": {"component": "headgate"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._cluster.create(EVENT, body)
        except HeadgateError as error:
            log.info("the event %s of %s is lost: %s", reason, about["name"], error)


def _uid(found: Object) -> str:
    return str(found["metadata"].get("uid", ""))

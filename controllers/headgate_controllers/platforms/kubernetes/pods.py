"""What a pod's status means for the replica it is: its state, and why it is not ready in words a person can act on.

Pure; time is passed in. A replica that was never ready is given up after a stated time (`Patience`), because waiting
changes nothing then; one that was ready is waited for, because callers wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headgate import codec
from headgate.fault import Fault
from headgate.workload import NOT_SET_UP, READY_PATH, Purpose, Replica, ReplicaState
from headgate_controllers.platforms import lastwords
from headgate_controllers.platforms.kubernetes.render import (
    DEPLOYMENT,
    ENDPOINT,
    INITIALIZER,
    MODEL,
    PATIENCE,
    PORT,
    PURPOSE,
    REVISION,
    secured_by,
)

Object = Mapping[str, Any]
DEFAULT_READY_S = 310.0

IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError")
NO_WEBHOOK = "failed calling webhook"  # the API server's words for one that is away; one that says no is "denied"
CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PostStartHookError")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds after which a replica that was never ready is given up."""

    image_s: float = 120.0  # its image cannot be pulled: a registry may be away for a moment
    config_s: float = 60.0  # it cannot be started as asked
    node_s: float = 600.0  # no node takes it: an autoscaler needs minutes for one with GPUs
    refused_s: float = 60.0  # the cluster does not make its pod: quota, webhook, rights
    deaths: int = 3  # times it may die: 0, 10 and 20 s after each other
    lost: int = 3  # pods in a row that a node evicted or refused


def key_of(item: Object) -> tuple[str, str, Purpose] | None:
    """(endpoint, revision, purpose) of a pod or Deployment; None: not one of ours."""
    labels = item["metadata"].get("labels") or {}
    try:
        return labels[ENDPOINT], labels[REVISION], Purpose(labels[PURPOSE])
    except (KeyError, ValueError):
        return None


def kept(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What of a pod is ever looked at: a fifth of it, and there are thousands."""
    meta = pod["metadata"]
    names = ("name", "labels", "annotations", "creationTimestamp", "deletionTimestamp", "resourceVersion")
    return {
        "metadata": {name: meta[name] for name in names if name in meta},
        "spec": {"nodeName": (pod.get("spec") or {}).get("nodeName", "")},
        "status": pod.get("status") or {},
    }


def kept_deployment(item: Mapping[str, Any]) -> dict[str, Any]:
    """What of a Deployment is ever looked at; its spec by digest."""
    meta = item["metadata"]
    return {
        "metadata": {name: meta[name] for name in ("name", "labels", "annotations", "resourceVersion") if name in meta},
        "spec": {"replicas": item["spec"].get("replicas", 1)},
        "status": {"conditions": (item.get("status") or {}).get("conditions") or []},
        "digest": codec.digest(item["spec"]),
        "form": form(item["spec"]),
    }


def form(spec: Mapping[str, Any]) -> str:
    """Digest of a Deployment's spec whatever its number of replicas is."""
    return codec.digest({key: value for key, value in spec.items() if key != "replicas"})


def kept_slice(item: Mapping[str, Any]) -> dict[str, Any]:
    """Of an EndpointSlice: the pods in it that routers send to."""
    meta = item["metadata"]
    open_to = [e for e in item.get("endpoints") or () if (e.get("conditions") or {}).get("ready") is not False]
    return {
        "metadata": {name: meta[name] for name in ("name", "labels", "resourceVersion") if name in meta},
        "ready": [(e.get("targetRef") or {}).get("name", "") for e in open_to],
    }


def ended(pod: Object) -> bool:
    """Evicted, refused by its node or done: another pod takes its place."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def leaving(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_ready(pod: Object) -> bool:
    return _condition(pod, "Ready").get("status") == "True"


def replica(pod: Object, index: int, now: float, patience: Patience, *, ever_ready: bool) -> Replica:
    """Args:
    ever_ready: it, or the pod whose place it took, has been ready.
    """
    status = pod.get("status") or {}
    container = _container(status)
    state, message = _judged(pod, container, now, patience, ever_ready)
    labels = pod["metadata"]["labels"]
    kinds = ("inference-server", *([INITIALIZER] if _initializer(status) else ()))
    listens = "running" in (container.get("state") or {}) and status.get("podIP")
    return Replica(
        endpoint=labels[ENDPOINT],
        deployment=labels.get(DEPLOYMENT, ""),
        revision=labels[REVISION],
        index=index,
        purpose=Purpose(labels[PURPOSE]),
        state=state,
        address=_address(status["podIP"], secured=bool(secured_by(pod))) if listens else "",
        restarts=int(container.get("restartCount", 0)),
        message=message,
        logs=dict.fromkeys(kinds, pod["metadata"]["name"]),
        fault=_fault(status, container) if state is ReplicaState.FAILED else None,
    )


def _fault(status: Object, container: Object) -> Fault | None:
    """Of a replica that is given up: what of it is the installation's."""
    initializer = _initializer(status)
    for one in (initializer, container):
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in IMAGE:
            return Fault.IMAGE  # Headgate named it and pushed it
    if _last(initializer).get("exitCode") == NOT_SET_UP:
        return Fault.CATALOGUE
    return Fault.CERTIFICATES if _last(container).get("exitCode") == NOT_SET_UP else None


def _last(container: Object) -> Object:
    """How it ended last; empty: it has not."""
    now, before = container.get("state") or {}, container.get("lastState") or {}
    return now.get("terminated") or before.get("terminated") or {}


def _address(ip: str, *, secured: bool) -> str:
    host = f"[{ip}]" if ":" in ip else ip
    return f"{'https' if secured else 'http'}://{host}:{PORT}"


def _judged(
    pod: Object, container: Object, now: float, patience: Patience, ever_ready: bool
) -> tuple[ReplicaState, str]:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        text = f"no node takes it: {scheduled.get('message', '')}; free some room, or change the instance type"
        return _waits(seconds(scheduled.get("lastTransitionTime")), now, patience.node_s, ever_ready, text)
    fetching = _fetching(pod, _initializer(pod.get("status") or {}), now, patience, ever_ready)
    if fetching is not None:
        return fetching
    state = container.get("state") or {}
    if "waiting" in state:
        return _waiting(pod, container, now, patience, ever_ready)
    if "terminated" in state:
        return _died(container, state["terminated"], patience, ever_ready)
    if "running" in state:
        return _running(pod, container, now, patience, ever_ready)
    return ReplicaState.STARTING, ""


def _fetching(
    pod: Object, initializer: Object, now: float, patience: Patience, ever_ready: bool
) -> tuple[ReplicaState, str] | None:
    """None: there is nothing to fetch, it is fetched, or that container has the troubles any other has."""
    state = initializer.get("state") or {}
    if not state or state.get("terminated", {}).get("exitCode") == 0:
        return None
    last = _last(initializer)
    if "waiting" in state and not last:
        known = state["waiting"].get("reason") in (*IMAGE, *CONFIG)
        return _waiting(pod, initializer, now, patience, ever_ready) if known else None
    if not last:
        return ReplicaState.STARTING, "its model is being fetched"
    failed, why = _died(initializer, last, patience, ever_ready)
    if "running" in state:
        failed = ReplicaState.STARTING
    return failed, f"its model cannot be fetched: {why}; `--container {INITIALIZER}` has its log"


def _waits(since: float, now: float, within_s: float, ever_ready: bool, text: str) -> tuple[ReplicaState, str]:
    over = not ever_ready and now - since >= within_s
    return ReplicaState.FAILED if over else ReplicaState.STARTING, text


def _waiting(
    pod: Object, container: Object, now: float, patience: Patience, ever_ready: bool
) -> tuple[ReplicaState, str]:
    waiting = container["state"]["waiting"]
    reason, said = waiting.get("reason", ""), waiting.get("message", "")
    since = seconds(_condition(pod, "PodScheduled").get("lastTransitionTime") or pod["status"].get("startTime"))
    if reason == "InvalidImageName":
        return ReplicaState.FAILED, f"`{container.get('image', '')}` is no name of an image: {said}"
    if reason in IMAGE:
        text = f"its image cannot be pulled: {said or reason}; check the registry, its credentials and the name"
        return _waits(since, now, patience.image_s, ever_ready, text)
    if reason in CONFIG:
        text = f"it cannot be started: {said or reason}; create what is missing, or correct the deployment"
        return _waits(since, now, patience.config_s, ever_ready, text)
    last = (container.get("lastState") or {}).get("terminated")
    return _died(container, last, patience, ever_ready) if last else (ReplicaState.STARTING, "")


def _died(container: Object, last: Object, patience: Patience, ever_ready: bool) -> tuple[ReplicaState, str]:
    deaths = int(container.get("restartCount", 0)) + 1
    given_up = not ever_ready and deaths >= patience.deaths
    return ReplicaState.FAILED if given_up else ReplicaState.RESTARTING, why_died(container, last)


def why_died(container: Object, last: Object) -> str:
    """One line a person can act on, then the log's end."""
    lines = lastwords.told(last.get("message") or "")
    if last.get("reason") == "OOMKilled":
        allowed = ((container.get("resources") or {}).get("limits") or {}).get("memory", "")
        limit = f"its limit of {allowed}" if allowed else "the node's memory"
        return "\n".join([f"OOM: it needed more than {limit}; choose a larger instance type", *lines])
    how = f"killed by signal {last['signal']}" if last.get("signal") else f"ended with code {last.get('exitCode', 0)}"
    return lastwords.message(how, lines)


def _running(
    pod: Object, container: Object, now: float, patience: Patience, ever_ready: bool
) -> tuple[ReplicaState, str]:
    if is_ready(pod):
        return ReplicaState.READY, ""
    node = (pod.get("spec") or {}).get("nodeName", "")
    if container.get("ready"):
        return ReplicaState.UNREADY, f"its node {node} does not answer"
    last = (container.get("lastState") or {}).get("terminated")
    before = f"; before: {why_died(container, last)}" if last else ""
    if ever_ready:
        return ReplicaState.UNREADY, f"it does not answer its readiness probe{before}"
    allowed = float((pod["metadata"].get("annotations") or {}).get(PATIENCE, DEFAULT_READY_S))
    started = seconds(container["state"]["running"].get("startedAt"))
    if now - started >= allowed:
        old = "; an image whose base is older than `models.tls` cannot speak TLS" if secured_by(pod) else ""
        return (
            ReplicaState.FAILED,
            f"not ready within {allowed:g} s: it runs, but {READY_PATH} does not answer 200{old}",
        )
    given_up = int(container.get("restartCount", 0)) >= patience.deaths
    return ReplicaState.FAILED if given_up else ReplicaState.STARTING, before.removeprefix("; ")


# --- pods that are not there ----------------------------------------------------------------------------------------


def missing(
    deployment: Object, lost: Sequence[Object], now: float, patience: Patience
) -> tuple[ReplicaState, str, Fault | None]:
    """Why a Deployment has fewer pods than asked for.

    Args:
        lost: its pods that ended, in the order of time.
    """
    ever = was_available(deployment)
    refused = _condition(deployment, "ReplicaFailure")
    if refused.get("status") == "True":
        said = str(refused.get("message", ""))
        away = NO_WEBHOOK in said
        fix = "raise the quota, or ask for less" if "quota" in said else "change what the rule asks for, or the rule"
        text = f"the cluster does not make its pod: {said}; {'mend the webhook' if away else fix}"
        state, text = _waits(seconds(refused.get("lastTransitionTime")), now, patience.refused_s, ever, text)
        return state, text, Fault.WEBHOOK if away and state is ReplicaState.FAILED else None
    if lost:
        text = why_lost(lost[-1])
        return ReplicaState.FAILED if not ever and len(lost) >= patience.lost else ReplicaState.STARTING, text, None
    return ReplicaState.STARTING, "", None


def why_lost(pod: Object) -> str:
    status = pod.get("status") or {}
    said = f"{status.get('reason', '')}: {status.get('message', '')}".strip(": ")
    terminated = (_container(status).get("state") or {}).get("terminated")
    return f"the one before it was lost: {said or (why_died(_container(status), terminated) if terminated else '?')}"


def was_available(deployment: Object) -> bool:
    """Whether all of its replicas have been ready once; the cluster remembers it over our restarts."""
    return _condition(deployment, "Progressing").get("reason") == "NewReplicaSetAvailable"


def _container(status: Object) -> Object:
    found = [c for c in status.get("containerStatuses") or () if c.get("name") == MODEL]
    return found[0] if found else {}


def _initializer(status: Object) -> Object:
    found = [c for c in status.get("initContainerStatuses") or () if c.get("name") == INITIALIZER]
    return found[0] if found else {}


def _condition(item: Object, kind: str) -> Object:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind), {})


def seconds(text: str | None) -> float:
    """Of an object's time; 0: it has none."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0

"""The record as custom resources: what an OnlineEndpoint and an EndpointRollout say. Pure; nothing is decided or sent.

`spec` is what git asks for and nothing else, so that an edit by hand can be told from a change of ours. `status` is
what `headgate status` says. Conditions are those of kstatus, so that other tools can wait for an endpoint:
Ready (it answers as it should), Reconciling (it is on its way), Stalled (a person has to act).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from headgate.control import EndpointStatus, RevisionStatus, RolloutStatus
from headgate.phases import MIRROR
from headgate.plan import Plan
from headgate.rollout import Head, Rollout
from headgate.target import Target

Object = dict[str, Any]

MESSAGE = 1_000  # characters of a message; the whole of it is in `headgate status`
LABELS = {"app.kubernetes.io/managed-by": "headgate"}
ENDPOINT = "headgate.dev/endpoint"
READY_STATES = ("Healthy", "Drained", "RolledBack")
MOVING_STATES = ("Progressing", "Mirroring", "Paused", "Pending", "Removing")
STALLED_STATES = ("Degraded", "RolledBack")


def object_name(endpoint: str) -> str:
    """Names of objects are lower case; two endpoints that differ in case only are refused when they are read."""
    return endpoint.lower()


def exists(head: Head) -> bool:
    """Whether there is anything to show of this endpoint."""
    asks = head.asked is not None or bool(head.findings)
    return bool(head.commit) and (asks or bool(head.traffic) or head.removing_since is not None)


def endpoint_spec(head: Head) -> Object:
    target = head.asked
    if target is None:
        return {"commit": head.commit, "deployments": []}
    return {
        "commit": target.commit,
        "digest": target.digest,
        "authMode": target.router.auth_mode,
        "deployments": _deployments(target),
    }


def _deployments(target: Target) -> list[Object]:
    return [
        {
            "name": name,
            "revision": asked.revision,
            "traffic": target.traffic.get(asked.revision, 0),
            "mirror": target.router.mirror.get(asked.revision, 0),
            "instances": asked.run.instance_count,
            "instanceType": asked.source.instance_type,
        }
        for name, asked in sorted(target.deployments.items())
    ]


def endpoint_status(found: EndpointStatus, generation: int, before: Sequence[Mapping[str, Any]], now: float) -> Object:
    """Args:
    generation: of the object, which this status is about.
    before: the conditions it has now: one that does not change keeps its time.
    """
    stable = _heaviest(r for r in found.revisions if r.role == "stable")
    candidate = _heaviest(r for r in found.revisions if r.role == "candidate")
    shown = candidate or stable
    return {
        "observedGeneration": generation,
        "state": found.state,
        "sync": found.sync,
        "url": found.url,
        "message": found.message[:MESSAGE],
        "weight": percent(shown.per_mille / 10) if shown else "",
        "generation": found.generation,
        "rollout": found.rollout.id if found.rollout else "",
        "stable": _role(stable),
        "candidate": _role(candidate),
        "conditions": conditions(found, generation, before, now),
    }


def conditions(found: EndpointStatus, generation: int, before: Sequence[Mapping[str, Any]], now: float) -> list[Object]:
    rejected = found.sync == "Rejected"
    said = found.findings[0].message if rejected and found.findings else found.message
    wanted = {
        "Ready": (found.state in READY_STATES or _serves(found), found.state, found.message),
        "Reconciling": (found.state in MOVING_STATES, found.state, found.message),
        "Stalled": (
            found.state in STALLED_STATES or rejected,
            "Rejected" if rejected else found.state,
            said,
        ),
    }
    known = {str(c.get("type")): c for c in before}
    return [
        _condition(name, on, reason, message if on or name == "Ready" else "", generation, known.get(name), now)
        for name, (on, reason, message) in wanted.items()
    ]


def _serves(found: EndpointStatus) -> bool:
    """Every revision with live traffic has a ready replica: callers are answered, whatever is under way."""
    live = [r for r in found.revisions if r.per_mille]
    return bool(live) and all(r.ready for r in live)


def _condition(
    name: str, on: bool, reason: str, message: str, generation: int, before: Mapping[str, Any] | None, now: float
) -> Object:
    status = "True" if on else "False"
    same = before is not None and before.get("status") == status
    return {
        "type": name,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before is not None and same else moment(now),
        "reason": reason or "Unknown",
        "message": message[:MESSAGE],
    }


def rollout_spec(rollout: Rollout) -> Object:
    plan: Plan = rollout.plan
    return {
        "endpoint": rollout.target.endpoint,
        "commit": rollout.commit,
        "attempt": rollout.attempt,
        "candidate": plan.candidate,
        "planHash": plan.hash,
        "ops": [op.name for op in plan.ops],
    }


def rollout_status(found: RolloutStatus, generation: int, before: Sequence[Mapping[str, Any]], now: float) -> Object:
    """As `endpoint_status`."""
    opened = [op for op in found.ops if op.state != "waiting"]
    last = opened[-1] if opened else None
    return {
        "observedGeneration": generation,
        "state": found.state,
        "op": last.name if last else "",
        "weight": percent(max((op.percent for op in opened if op.name != MIRROR), default=0.0)),
        "message": (found.message or (last.message if last else ""))[:MESSAGE],
        "startedAt": moment(found.started_at),
        "endedAt": moment(found.ended_at) if found.ended_at is not None else None,
        "revertedBy": found.reverted_by,
        "ops": [
            {"name": op.name, "state": op.state, "percent": percent(op.percent), "message": op.message[:MESSAGE]}
            for op in found.ops
        ],
        "conditions": _rollout_conditions(found, generation, before, now),
    }


def _rollout_conditions(
    found: RolloutStatus, generation: int, before: Sequence[Mapping[str, Any]], now: float
) -> list[Object]:
    known = {str(c.get("type")): c for c in before}
    wanted = {
        "Ready": found.state == "succeeded",
        "Reconciling": found.state in ("running", "paused"),
        "Stalled": found.state in ("failed", "aborted"),
    }
    reason = found.state.capitalize()
    return [
        _condition(name, on, reason, found.message if on else "", generation, known.get(name), now)
        for name, on in wanted.items()
    ]


def _heaviest(revisions: Iterable[RevisionStatus]) -> RevisionStatus | None:
    return max(revisions, key=lambda r: r.per_mille, default=None)


def _role(found: RevisionStatus | None) -> Object | None:
    """None takes it out of the status."""
    if found is None:
        return None
    return {
        "deployment": found.deployment,
        "revision": found.revision,
        "traffic": found.per_mille,
        "ready": found.ready,
        "instances": found.instances,
    }


def percent(value: float) -> str:
    return f"{value:g}%"


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def differs(wanted: Any, found: Any) -> bool:
    """Whether what is there says something else than what we want there; what is empty may be left out."""
    if isinstance(wanted, Mapping):
        there = found if isinstance(found, Mapping) else {}
        extra = any(_says(value) for key, value in there.items() if key not in wanted)
        return extra or any(differs(value, there.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        items = found if isinstance(found, list) else []
        return len(items) != len(wanted) or any(differs(a, b) for a, b in zip(wanted, items, strict=True))
    return bool(wanted != found and (_says(wanted) or _says(found)))


def _says(value: Any) -> bool:
    return value not in (None, "", [], {})


def restored(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Object:
    """A merge patch that makes `found` into `wanted`: what we do not want there is taken out."""
    return {**{key: None for key in found if key not in wanted}, **wanted}

"""What people and programs read of an endpoint: views of the record, the table and the counters. Nothing is decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from headgate import fault
from headgate.control import EndpointStatus, OpStatus, RevisionStatus, RolloutStatus
from headgate.evidence import PairKind, Result
from headgate.findings import Finding, Place, Severity
from headgate.phases import DEPLOY, MIRROR, SMOKE
from headgate.rollout import Head, OpEnd, OpRecord, Rollout, State
from headgate.table import EndpointRoute
from headgate.workload import Purpose, Replica, ReplicaState

REQUESTS = "candidate_requests"  # figure of a verdict


def endpoint_status(
    head: Head,
    *,
    url: str,
    route: EndpointRoute | None,
    acked: int,
    replicas: Sequence[Replica],
    observed: Mapping[str, int],
) -> EndpointStatus:
    state, message = _state(head, replicas)
    if state in ("Healthy", "Drained", "RolledBack") and (lag := _lag(head, route, acked)):
        state, message = "Progressing", lag
    return EndpointStatus(
        name=head.endpoint,
        url=url,
        state=state,
        sync=_sync(head),
        commit=head.commit,
        generation=route.generation if route else 0,
        acked=acked,
        message=message,
        revisions=tuple(_revisions(head, route, replicas, observed)),
        rollout=rollout_status(head.rollout, head) if head.rollout else None,
        findings=(*head.findings, *_later(head), *_faults(head)),
    )


def _faults(head: Head) -> list[Finding]:
    op = head.active.running if head.active else None
    return [fault.finding(head.endpoint, op.name, op.held)] if op is not None and op.held is not None else []


def _later(head: Head) -> list[Finding]:
    """A rollout goes by the rollout.yml that it was planned by, whatever was committed since."""
    rollout, asked = head.active, head.asked
    if rollout is None or asked is None or asked.process == rollout.target.process:
        return []
    return [
        Finding(
            code="process-later",
            message=f"rollout.yml of {asked.commit[:10]} counts from the next rollout on",
            why=f"{rollout.id} goes by that of {rollout.commit[:10]}: its plan was made from it",
            fix=f"let it end; or `headgate rollout abort {head.endpoint}`, and commit what it asked for again",
            place=Place(f"endpoints/{head.endpoint}"),
            severity=Severity.WARNING,
        )
    ]


def _lag(head: Head, route: EndpointRoute | None, acked: int) -> str:
    """Why callers may not see yet what the record says; empty: every leased router worker serves it."""
    if (route.split if route else {}) != dict(head.traffic):
        return "the route table is about to change"
    if route is not None and acked < route.generation:
        return f"router workers are taking generation {route.generation}" if acked else "no router worker is heard of"
    return ""


def _sync(head: Head) -> str:
    if any(f.is_error for f in head.findings):
        return "Rejected"
    if head.asked is None:
        return "Synced" if not head.traffic else "OutOfSync"
    return "Synced" if dict(head.asked.traffic) == dict(head.traffic) and not head.active else "OutOfSync"


def _state(head: Head, replicas: Sequence[Replica]) -> tuple[str, str]:
    if head.removing_since is not None:
        return "Removing", "its folder is gone from git; it serves on until the grace is over"
    rollout = head.active
    if rollout is not None:
        return _progress(rollout, replicas)
    if head.switch is not None:
        return "Progressing", "going back to a known-good state"
    last = head.rollout
    if last is not None and last.state in (State.FAILED, State.ABORTED) and _still_failed(head, last):
        return "RolledBack" if head.traffic else "Degraded", last.message
    if not head.traffic:
        return ("Drained" if head.asked else "Pending"), ""
    dead = [r for r in head.traffic if not _ready(replicas, r)]
    if dead:
        names = ", ".join(head.revisions[r].deployment.name for r in dead)
        return "Degraded", ": ".join(filter(None, (f"no ready replica of {names}", _first_trouble(replicas, dead))))
    owed = head.undo is not None and head.undo.state == "wanted"
    return "Healthy", "traffic is back; the revert in git is still to be made" if owed else ""


def agrees_with_git(head: Head) -> bool:
    """Whether git and the record are to say the same now: nothing is under way, and nothing recorded says why not."""
    last, asked = head.rollout, head.asked
    if asked is None or head.active or head.switch or head.removing_since is not None:
        return False
    if any(f.is_error for f in head.findings):
        return False
    if head.undo is not None and head.undo.failed.digest == asked.digest:
        return False  # traffic went back first; the commit follows, or waits for a person
    return last is None or last.state not in (State.FAILED, State.ABORTED) or not _still_failed(head, last)


def _still_failed(head: Head, last: Rollout) -> bool:
    return bool(head.asked and head.asked.digest == last.target.digest)


def _progress(rollout: Rollout, replicas: Sequence[Replica]) -> tuple[str, str]:
    op = rollout.running
    if rollout.paused:
        return "Paused", "paused by a person"
    if op is not None and op.verb == MIRROR:
        return "Mirroring", held(op)
    if (
        op is not None
        and op.held is None
        and op.verb in (SMOKE, DEPLOY)
        and (said := _first_trouble(replicas, rollout.plan.revisions))
    ):
        return "Progressing", f"{op.name}: {said}"
    return "Progressing", held(op) if op else rollout.message or "waiting for the workflow's next op"


def held(op: OpRecord) -> str:
    """Why an op still holds, in one line."""
    if op.held is not None:
        return f"{op.name}: waits for the installation: {op.held.said.partition(chr(10))[0]}"
    if op.verdicts:
        waiting = [v for v in op.verdicts if v.result is not Result.PASS]
        if any(v.figures.get(REQUESTS) == 0 for v in waiting):
            return f"{op.name}: no request to judge by yet; with none until max_soak it goes back"
        return f"{op.name}: " + ("; ".join(f"{v.gate}: {v.missing or v.explanation}" for v in waiting) or "soaking")
    return f"{op.name}: " + (op.message or "waiting" if op.live_at is None else op.message or "waiting for evidence")


def _revisions(
    head: Head, route: EndpointRoute | None, replicas: Sequence[Replica], observed: Mapping[str, int]
) -> list[RevisionStatus]:
    total = sum(observed.values())
    mirrors = {m.revision: m.per_mille for m in route.mirrors if m.kind is PairKind.COMPARE} if route else {}
    asked = head.asked.revisions if head.asked else {}
    tried = {head.active.plan.candidate, *head.active.plan.revisions} if head.active else set()  # anew: it may pass now
    found = []
    for revision, state in sorted(head.revisions.items(), key=lambda i: (-head.traffic.get(i[0], 0), i[0])):
        if not (state.running or revision in head.traffic or revision in asked):
            continue
        deployment = asked.get(revision, state.deployment)
        found.append(
            RevisionStatus(
                revision=revision,
                deployment=deployment.name,
                role=_role(head, revision),
                per_mille=head.traffic.get(revision, 0),
                mirror_per_mille=mirrors.get(revision, 0),
                observed=round(observed.get(revision, 0) / total, 4) if total else None,
                ready=_ready(replicas, revision),
                instances=head.instances(revision),
                known_good=state.known_good,
                message=("" if revision in tried else state.failed) or _trouble(replicas, revision),
            )
        )
    return found


def _role(head: Head, revision: str) -> str:
    if head.active and revision == head.active.plan.candidate:
        return "candidate"
    # What the rollout goes back to stays the stable at 100 %, where it has no traffic.
    begun = head.active.start.get(revision) if head.active else 0
    if head.traffic.get(revision) or (begun and head.revisions[revision].running):
        return "stable"
    return "warm" if head.revisions[revision].warm_until is not None else "idle"


def _ready(replicas: Sequence[Replica], revision: str) -> int:
    return sum(
        r.revision == revision and r.purpose is Purpose.SERVE and r.state is ReplicaState.READY for r in replicas
    )


def _first_trouble(replicas: Sequence[Replica], revisions: Iterable[str]) -> str:
    """In one line."""
    return next((said.splitlines()[0] for r in revisions if (said := _trouble(replicas, r))), "")


def _trouble(replicas: Sequence[Replica], revision: str) -> str:
    return next((r.message for r in replicas if r.revision == revision and r.message), "")


def rollout_status(rollout: Rollout, head: Head | None = None) -> RolloutStatus:
    """A rollout as people read it. `head`, when it is that endpoint's, tells what became of its revert."""
    undo = head.undo if head else None
    reverted = undo.result if undo and undo.op_key == f"{rollout.id}/revert" and undo.state == "done" else ""
    opened = {op.name: op for op in rollout.ops}
    ops = [
        _op(opened[o.name]) if o.name in opened else OpStatus(o.name, "waiting", o.percent) for o in rollout.plan.ops
    ]
    return RolloutStatus(
        id=rollout.id,
        endpoint=rollout.target.endpoint,
        commit=rollout.commit,
        attempt=rollout.attempt,
        state="paused" if rollout.paused else str(rollout.state),
        candidate=rollout.plan.candidate,
        started_at=rollout.started_at,
        ended_at=rollout.ended_at,
        message=rollout.message,
        ops=tuple(ops),
        reverted_by=reverted,
        plan_hash=rollout.plan.hash,
    )


def _op(op: OpRecord) -> OpStatus:
    message = held(op) if op.state is OpEnd.RUNNING else op.message
    return OpStatus(op.name, str(op.state), op.percent, op.opened_at, op.ended_at, message, op.verdicts)

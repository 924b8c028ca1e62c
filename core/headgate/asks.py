"""What an op may do: `ask(draft, request)`, pure. The workflow only asks; the record decides.

Answers are the same however often an op asks, and whatever died in between: the effect of an op is recorded once,
under its name in the rollout that its key names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headgate import capacity, codec, handover
from headgate.capacity import Answer, Fit
from headgate.control import OpReply, OpRequest, OpState
from headgate.draft import Draft
from headgate.evidence import PairKind
from headgate.findings import Finding, Place
from headgate.outcome import UNDRAINED_GRACE_S, fail
from headgate.phases import BUILD, BY_VERB, CLOSE, DEPLOY, MIRROR, SMOKE, STEP, may_follow
from headgate.plan import Op
from headgate.rollout import OpEnd, OpRecord, Rollout, State
from headgate.surge import PARALLEL, SWAP
from headgate.table import Mirror
from headgate.traffic import WHOLE, between
from headgate.workload import Artifact

NEED_ROOM = (SMOKE, DEPLOY)  # ops that start replicas


def ask(draft: Draft, verb: str, request: OpRequest, room: Fit | None = None) -> OpReply:
    """Args:
    room: whether the rollout's replicas can start now; None: nobody knows, or this op starts none.
    """
    workflow, _, name = request.op_key.rpartition("/")
    rollout = draft.head.rollout
    if rollout is None or rollout.id != workflow:
        if verb == CLOSE:
            return OpReply(OpState.DONE, "an earlier rollout; nothing to close")
        return OpReply(OpState.NO, f"{workflow} is not the rollout of {draft.head.endpoint}: it was superseded")
    if verb == CLOSE:
        return _close(draft, rollout, request)
    known = rollout.op(name)
    if known is not None:
        return _again(draft, rollout, known, request)
    if rollout.state is not State.RUNNING:
        return OpReply(OpState.NO, f"the rollout {rollout.state}: {rollout.message}")
    if rollout.paused:
        return OpReply(OpState.WAIT, "paused by a person")
    if rollout.running:
        return OpReply(OpState.LATER, f"{rollout.running.name} is still running")
    blocked = _no_room(draft, rollout, verb, room) if room else None
    return blocked or _open(draft, draft.head.rollout or rollout, verb, name, request)


def _no_room(draft: Draft, rollout: Rollout, verb: str, room: Fit) -> OpReply | None:
    """Refused before anything is built; it waits in line before anything starts."""
    if room.answer is Answer.REFUSE:
        found = capacity.finding(draft.head.endpoint, room)
        fail(draft, f"capacity: {room.text}")
        draft.set(findings=(*draft.head.findings, found))
        return OpReply(OpState.NO, found.message)
    if room.answer is Answer.START or verb not in NEED_ROOM:
        if rollout.queued_at is not None:
            draft.rollout(queued_at=None, message="")
        if verb == SMOKE and not rollout.way and room.way != PARALLEL:
            draft.rollout(way=room.way)
            draft.say("room.shared", f"{room.way}: {room.text}" if room.text else room.way)
        return None
    _end_warmth(draft)
    message = f"waits for room, number {room.position} in line: {room.text}"
    if rollout.queued_at is None:
        draft.rollout(queued_at=draft.now)
        draft.say("rollout.queued", message)
    if rollout.message != message:
        draft.rollout(message=message)
    return OpReply(OpState.WAIT, message)


def _end_warmth(draft: Draft) -> None:
    """What the endpoint keeps warm stands in the way of what it is asked for."""
    soon = draft.now + UNDRAINED_GRACE_S
    for revision, state in draft.head.revisions.items():
        if state.warm_until is not None and state.warm_until > soon and revision not in draft.head.traffic:
            draft.revision(revision, warm_until=soon)
            draft.say(
                "warmth.ended", f"{state.deployment.name}@{revision[:10]} is kept warm no longer: its room is needed"
            )


def _close(draft: Draft, rollout: Rollout, request: OpRequest) -> OpReply:
    if not rollout.closed:
        status = str(request.arguments.get("status", "unknown"))
        draft.rollout(closed=status)
        draft.say("workflow.closed", f"the workflow ended: {status}")
    rollout = draft.head.rollout or rollout
    if rollout.state is State.RUNNING:
        # The workflow is over, so nobody will ask for the next op: the rollout cannot go on.
        fail(draft, f"its workflow ended ({rollout.closed}) before the rollout did", state=State.ABORTED, git=False)
    return OpReply(OpState.DONE, f"rollout {draft.head.rollout.state if draft.head.rollout else ''}")


def _again(draft: Draft, rollout: Rollout, op: OpRecord, request: OpRequest) -> OpReply:
    if op.arguments != _digest(request):
        return OpReply(OpState.NO, f"{request.op_key} was asked before with other arguments")
    if op.state is OpEnd.PASSED:
        return OpReply(OpState.DONE, op.message)
    if op.state is not OpEnd.RUNNING:
        return OpReply(OpState.NO, op.message or f"the rollout {rollout.state}")
    if op.verb == BUILD:
        return _build(draft, rollout, request)
    return OpReply(OpState.WAIT, "held by a person" if rollout.paused else _running(op))


def _running(op: OpRecord) -> str:
    """For a workflow's log and Argo's UI; figures are in the record, and change too often for that."""
    told = ", ".join(f"{verdict.gate} {verdict.result}" for verdict in op.verdicts)
    return f"{op.name} is running{': ' if told else ''}{told}"


def _open(draft: Draft, rollout: Rollout, verb: str, name: str, request: OpRequest) -> OpReply:
    if verb not in BY_VERB or not may_follow(verb, rollout.passed, unproven=bool(rollout.plan.revisions)):
        done = ", ".join(rollout.passed) or "nothing yet"
        return OpReply(OpState.NO, f"{verb} is not legal here: passed so far: {done}")
    planned = _planned(rollout, verb, name, request)
    if isinstance(planned, str):
        return OpReply(OpState.NO, planned)
    record = OpRecord(name, verb, planned.percent, _digest(request), draft.now)
    draft.rollout(ops=(*rollout.ops, record))
    draft.say("op.opened", BY_VERB[verb].says.format(**_words(rollout, planned)), op=name)
    _effect(draft, rollout, planned)
    return _again(draft, draft.head.rollout or rollout, record, request)


def _planned(rollout: Rollout, verb: str, name: str, request: OpRequest) -> Op | str:
    """The op as the plan has it, or why it may not be. A step must be the next of the plan: none is left out."""
    opened = {op.name for op in rollout.ops}
    rest = [op for op in rollout.plan.ops if op.name not in opened]
    following = next((op for op in rest if op.verb == verb), None)
    if following is None:
        return f"the plan {rollout.plan.hash[:10]} has no further {verb}"
    if verb == STEP and following.name != name:
        return f"the next step of the plan is {following.name}"
    if verb == "finalize" and any(op.verb in (STEP, MIRROR) for op in rest):
        return "steps of the plan are still to come"
    if verb == STEP and any(op.verb == MIRROR for op in rest):
        return "the plan mirrors before it moves traffic"
    return following


def _words(rollout: Rollout, op: Op) -> dict[str, Any]:
    names = {revision: d.name for revision, d in rollout.target.revisions.items()}
    return {
        "revisions": ", ".join(sorted(names[r] for r in rollout.plan.revisions)),
        "candidate": names.get(rollout.plan.candidate, "the candidate"),
        "percent": op.percent,
        "status": rollout.closed,
    }


def _effect(draft: Draft, rollout: Rollout, op: Op) -> None:
    """What opening an op decides. What must be done for it follows from the head."""
    if op.verb == SMOKE and rollout.way == SWAP:
        handover.clear(draft, rollout)
    elif op.verb == DEPLOY:
        handover.enter(draft, rollout)
    elif op.verb == MIRROR:
        draft.set(mirrors=_mirrors(rollout, op.percent))
    elif op.verb == STEP:
        split = between(rollout.start, rollout.plan.traffic, op.percent)
        draft.move(split, f"{op.percent:g} % of the way", op.name)


def _mirrors(rollout: Rollout, percent: float) -> tuple[Mirror, ...]:
    """Copies to the candidate, and echoes to every live revision to learn its noise."""
    share = round(percent * WHOLE / 100)
    echo = round(share * rollout.target.process.mirror.echo)
    compare = Mirror(rollout.plan.candidate, share, PairKind.COMPARE)
    echoes = tuple(Mirror(revision, echo, PairKind.ECHO) for revision in sorted(rollout.start))
    return (compare, *echoes) if echo else (compare,)


def _digest(request: OpRequest) -> str:
    return codec.digest(dict(request.arguments))


# --- build: the one verb whose work is done inside its op ------------------------------------------------------------


def _build(draft: Draft, rollout: Rollout, request: OpRequest) -> OpReply:
    if request.result is not None:
        return _built(draft, rollout, request.result)
    builds = [
        {
            "revision": revision,
            "source": codec.to_data(rollout.target.revisions[revision].source),
            "files_url": f"/sources/{draft.head.endpoint}/{revision}.tar",
        }
        for revision in rollout.plan.revisions
        if draft.head.revisions[revision].artifact is None
    ]
    if not builds:
        return _built(draft, rollout, {"artifacts": {}})
    return OpReply(OpState.WORK, f"{len(builds)} to build", work={"builds": builds})


def _built(draft: Draft, rollout: Rollout, result: Mapping[str, Any]) -> OpReply:
    broken = str(result.get("broken") or "")
    if broken:  # no commit's fault, so none is reverted
        fail(draft, f"build: {broken}", state=State.ABORTED, git=False)
        return OpReply(OpState.NO, broken)
    failed = result.get("failed") or {}
    if failed:
        revision, data = next(iter(sorted(failed.items())))
        finding = _finding(data)
        name = rollout.target.revisions[revision].name
        fail(draft, f"build: {name}: {finding.message}\n{finding}")
        draft.set(findings=(*draft.head.findings, finding))
        return OpReply(OpState.NO, finding.message)
    for revision, data in (result.get("artifacts") or {}).items():
        if revision in draft.head.revisions:
            draft.revision(revision, artifact=codec.decode(Artifact, data))
    missing = [r for r in rollout.plan.revisions if draft.head.revisions[r].artifact is None]
    if missing:
        return OpReply(OpState.LATER, f"not built yet: {', '.join(missing)}")
    message = "built"
    draft.op(state=OpEnd.PASSED, ended_at=draft.now, message=message)
    draft.say("op.passed", message, op=BUILD)
    return OpReply(OpState.DONE, message)


def _finding(data: Any) -> Finding:
    try:
        return codec.decode(Finding, data)
    except codec.CodecError:
        return Finding("build-failed", str(data), "", "see the build's log", Place("build"))

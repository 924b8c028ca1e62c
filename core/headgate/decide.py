"""What happens next to one endpoint: `step(draft, seen)`, pure.

A pass is: collect (`Seen`), decide, record, act. The head that comes out is recorded before anything is done; what must
be done follows from the head alone (`actions.py`), so a crash in between is repaired by the next pass.
Deciding twice is the same as deciding once.
"""

from __future__ import annotations

from collections.abc import Sequence

from headgate import handover
from headgate.draft import ENDED, Draft, Seen
from headgate.evidence import Result, Verdict
from headgate.fault import Held
from headgate.outcome import UNDRAINED_GRACE_S, end, fail, keep_release, release, spare, start, supersede
from headgate.phases import BUILD, DEPLOY, FINALIZE, MIRROR, SMOKE, STEP
from headgate.plan import Op
from headgate.planning import unproven
from headgate.rollout import KEPT_REVISIONS, Head, OpEnd, OpRecord, Rollout, State, kind_of
from headgate.surge import SWAP
from headgate.table import EndpointRoute
from headgate.target import Target
from headgate.workload import Purpose

# A candidate without one ready replica for this long is given up. A replica that is killed is back well before.
UNREADY_GRACE_S = 15.0


def step(draft: Draft, seen: Seen, *, removal_grace_s: float = 600.0) -> None:
    """Everything that time and observation alone can change."""
    still = tuple(name for name in draft.head.stopping if seen.workflows.get(name) not in (None, *ENDED))
    if still != draft.head.stopping:
        draft.set(stopping=still)
    _switch_when_ready(draft, seen)
    _remove_when_due(draft, removal_grace_s)
    if draft.head.active:
        _discount(draft, seen)
        _advance(draft, seen)
    _end_warmth(draft)
    _prune(draft)


def next_at(head: Head, now: float, *, removal_grace_s: float = 600.0) -> float | None:
    """When time alone changes something next, seconds since the epoch, after `now`. None: not before something else
    does; what depends on replicas, workers, evidence and people is told by them.
    """
    times = [state.warm_until for state in head.revisions.values() if state.warm_until is not None]
    if head.removing_since is not None:
        times.append(head.removing_since + removal_grace_s)
    rollout = head.active
    op = rollout.running if rollout else None
    if rollout is not None and op is not None and op.live_at is not None:
        process = rollout.target.process
        times += [op.live_at + (process.mirror.soak_s if op.verb == MIRROR else process.soak_s)]
        times += [op.live_at + process.max_soak_s + op.paused_s]
        if op.unready_since is not None:
            times.append(op.unready_since + UNREADY_GRACE_S)
    return min((at for at in times if at > now), default=None)


def _remove_when_due(draft: Draft, grace_s: float) -> None:
    head = draft.head
    if head.removing_since is None:
        return
    if head.traffic and draft.now < head.removing_since + grace_s:
        return
    supersede(draft, "the endpoint was removed from git")
    draft.move({}, "drained: the endpoint was removed from git")
    draft.set(asked=None, switch=None, undo=None, findings=())
    spare(draft, keep=set(), warm_s=0.0)
    soon = draft.now + UNDRAINED_GRACE_S
    for revision, state in draft.head.revisions.items():  # nor is there a way back that is worth the room
        if state.warm_until is not None and state.warm_until > soon:
            draft.revision(revision, warm_until=soon)
    if not any(state.running for state in draft.head.revisions.values()):
        draft.say("removed", "nothing of it runs any more")
        draft.head = Head(head.endpoint, head.commit, rollout=draft.head.rollout, stopping=draft.head.stopping)


def _switch_when_ready(draft: Draft, seen: Seen) -> None:
    """A rollback needs nothing but the old revision being alive."""
    target = draft.head.switch
    if target is None:
        return
    for revision in target.traffic:
        state = draft.head.revisions[revision]
        if not state.running or state.instances is not None:
            draft.revision(revision, running=True, warm_until=None, instances=None)
    if not all(seen.ready(revision) for revision in target.traffic):
        if handover.swaps(draft.head, target):
            _make_room(draft, seen, target)
        return
    before = set(draft.head.traffic)
    draft.move(target.traffic, f"rollback to {target.commit[:10]}" if target.traffic else "drained as asked")
    for revision in (before - set(target.traffic)) if target.traffic else ():
        draft.revision(revision, known_good=False)  # rolled away from: the way forward passes every gate again
    draft.set(switch=None)
    if target.traffic or not unproven(draft.head, target):
        _release_switched(draft, target)
    if unproven(draft.head, target):
        start(draft, target)


def _make_room(draft: Draft, seen: Seen, target: Target) -> None:
    """The two never fit at once: what serves ends first, once the other has a place to wait for."""
    for revision in sorted(set(draft.head.traffic) - set(target.traffic)):
        if draft.head.revisions[revision].instances != 0:
            draft.revision(revision, instances=0)
            draft.say(
                "room.made", f"{draft.head.revisions[revision].deployment.name} ends to make room for the way back"
            )


def _release_switched(draft: Draft, target: Target) -> None:
    keep_release(draft, target)
    spare(draft, keep=set(target.revisions), warm_s=target.process.keep_warm_s)
    draft.say("release", f"{target.commit[:10]} is live again", traffic=dict(target.traffic), commit=target.commit)


def _end_warmth(draft: Draft) -> None:
    for revision, state in list(draft.head.revisions.items()):
        if state.warm_until is not None and draft.now >= state.warm_until and revision not in draft.head.traffic:
            draft.revision(revision, running=False, warm_until=None)


def _prune(draft: Draft) -> None:
    """Idle revisions that no kept release names are forgotten, oldest first; their builds stay in the cache."""
    head = draft.head
    named = {r for release in head.releases for r in release.target.revisions}
    named |= set(head.traffic) | (set(head.asked.revisions) if head.asked else set())
    idle = sorted(
        (r for r, state in head.revisions.items() if not state.running and r not in named),
        key=lambda r: (head.revisions[r].asked_at, r),
    )
    if len(idle) > KEPT_REVISIONS:
        gone = set(idle[: len(idle) - KEPT_REVISIONS])
        draft.set(revisions={r: s for r, s in head.revisions.items() if r not in gone})


# --- the running op ----------------------------------------------------------------------------------------------


def _discount(draft: Draft, seen: Seen) -> None:
    """Time in which nobody looked counts for no soak and against no patience: a machine that slept, a controller that
    was away or a clock that jumped says nothing about the candidate."""
    rollout = draft.head.active
    op = rollout.running if rollout else None
    if op is None or not seen.unseen_s:
        return
    if op.live_at is not None:
        draft.op(live_at=min(op.live_at + seen.unseen_s, max(op.live_at, draft.now)))
    if op.unready_since is not None:
        draft.op(unready_since=min(op.unready_since + seen.unseen_s, max(op.unready_since, draft.now)))


def _advance(draft: Draft, seen: Seen) -> None:
    rollout = draft.head.active
    assert rollout is not None
    phase = seen.workflows.get(rollout.id)
    if phase in ENDED:
        fail(
            draft,
            f"its workflow ended ({phase}) before the rollout did: {seen.workflow_message}".rstrip(": "),
            state=State.ABORTED,
            git=False,
        )
        return
    op = rollout.running
    if op is None:
        return
    {SMOKE: _smoke, DEPLOY: _deploy, MIRROR: _judged, STEP: _judged, FINALIZE: _finalize, BUILD: _wait}[op.verb](
        draft, seen, rollout, op
    )


def _wait(draft: Draft, seen: Seen, rollout: Rollout, op: OpRecord) -> None:
    """A build reports by itself (`asks.py`)."""


def _pass(draft: Draft, message: str) -> None:
    op = draft.op(state=OpEnd.PASSED, ended_at=draft.now, message=message)
    draft.set(mirrors=())
    draft.say("op.passed", message, op=op.name)


def _smoke(draft: Draft, seen: Seen, rollout: Rollout, op: OpRecord) -> None:
    ours: Held | None = None
    for revision in rollout.plan.revisions:
        name = rollout.target.revisions[revision].name
        if not draft.head.revisions[revision].smoked:
            ours = ours or seen.held(revision, Purpose.SMOKE) or seen.unasked.get(revision)
        dead = seen.given_up(revision, Purpose.SMOKE)
        if dead:
            fail(draft, f"smoke: {name} does not start: {dead}")
            return
        verdict = seen.smokes.get(revision)
        if verdict is None or draft.head.revisions[revision].smoked:
            continue
        op = draft.op(verdicts=(*op.verdicts, verdict))
        if verdict.result is not Result.PASS:
            draft.say("verdict", verdict.explanation, op=op.name, gate=verdict.gate, result=verdict.result)
            fail(draft, f"smoke: {name}: {verdict.explanation}", verdicts=(verdict,))
            return
        draft.revision(revision, smoked=True)
    if all(draft.head.revisions[revision].smoked for revision in rollout.plan.revisions):
        _pass(draft, "started alone, answered the sample request")
    else:
        _hold(draft, rollout, op, ours)


def _deploy(draft: Draft, seen: Seen, rollout: Rollout, op: OpRecord) -> None:
    waiting = []
    for revision in rollout.plan.revisions:
        deployment = rollout.target.revisions[revision]
        dead = seen.given_up(revision)
        if dead:
            fail(draft, f"deploy: {deployment.name} does not get ready: {dead}")
            return
        ready, wanted = seen.ready(revision), draft.head.instances(revision)
        if ready < wanted:
            waiting.append(f"{deployment.name} {ready}/{wanted}")
    if not waiting:
        _pass(draft, "every replica is ready")
    else:
        _hold(draft, rollout, op, _ours(seen, rollout))


def _ours(seen: Seen, rollout: Rollout) -> Held | None:
    return next((held for revision in rollout.plan.revisions if (held := seen.held(revision))), None)


def _hold(draft: Draft, rollout: Rollout, op: OpRecord, ours: Held | None) -> None:
    """A fault of the installation is waited out, and the commit stays. Not where what served made room for what is to
    come: callers get no answer meanwhile, so traffic goes back, and the commit stays all the same."""
    if ours is not None and rollout.way == SWAP:
        fail(draft, f"{op.name}: {ours.said}", state=State.ABORTED, git=False)
    elif (op.held and op.held.fault) != (ours and ours.fault):  # its words may change with each look
        draft.op(held=ours)
        said = "what it waited for is mended" if ours is None else f"waits for the installation: {ours.said}"
        draft.say("op.held", said, op=op.name)


def _judged(draft: Draft, seen: Seen, rollout: Rollout, opened: OpRecord) -> None:
    op = _live(draft, seen, rollout, opened)
    if op is None:
        return
    kind = kind_of(rollout, op, draft.head.traffic)
    if not kind:
        _pass(draft, f"every router worker serves generation {op.generation}")
        return
    if _lost_candidate(draft, seen, rollout, op):
        return
    if seen.verdicts != op.verdicts and seen.verdicts:
        draft.op(verdicts=seen.verdicts)
        _say_verdicts(draft, seen.verdicts, op)
    assert op.live_at is not None
    process = rollout.target.process
    if seen.result is Result.FAIL:
        bad = [v for v in seen.verdicts if v.result is Result.FAIL]
        fail(draft, f"{bad[0].gate} failed at {op.name}: {bad[0].explanation}", verdicts=bad)
    elif draft.now >= op.live_at + process.max_soak_s + op.paused_s and not rollout.paused:
        held = [v for v in seen.verdicts if v.result is not Result.PASS]
        why = "; ".join(f"{v.gate}: {v.missing or v.explanation}" for v in held) or op.message or "no evidence came"
        late = f"{op.name} got no pass within {process.max_soak_s:g} s"
        if ours := _ours(seen, rollout):
            fail(draft, f"{late}: {ours.said}", state=State.ABORTED, git=False)
        else:
            fail(draft, f"{late}: {why}", verdicts=held)
    elif seen.result is Result.PASS and not rollout.paused:
        soak_s = process.mirror.soak_s if op.verb == MIRROR else process.soak_s
        if op.hurried or rollout.hurried or draft.now >= op.live_at + soak_s:
            short = handover.grow(draft, seen, rollout, _following(rollout, op))
            if short:
                if op.message != short:
                    draft.op(message=short)
                return
            _pass(draft, "; ".join(f"{v.gate} passed" for v in seen.verdicts))


def _following(rollout: Rollout, op: OpRecord) -> Op | None:
    names = [planned.name for planned in rollout.plan.ops]
    rest = rollout.plan.ops[names.index(op.name) + 1 :]
    return next((planned for planned in rest if planned.verb == STEP), None)


def _live(draft: Draft, seen: Seen, rollout: Rollout, op: OpRecord) -> OpRecord | None:
    """The op, once every leased router worker serves what it decided. Evidence before that is void."""
    if op.live_at is not None:
        return op
    if op.generation == 0:
        if seen.route is None or not _shows(seen.route, draft.head):
            return None
        op = draft.op(generation=seen.route.generation)
    if seen.acked < op.generation:
        return None
    op = draft.op(live_at=draft.now)
    draft.say(
        "op.live",
        f"every router worker serves generation {op.generation}",
        op=op.name,
        generation=op.generation,
        traffic=dict(draft.head.traffic),
    )
    handover.shrink(draft, rollout, op.name)
    return op


def _shows(route: EndpointRoute, head: Head) -> bool:
    return route.split == dict(head.traffic) and set(head.mirrors) <= set(route.mirrors)


def _lost_candidate(draft: Draft, seen: Seen, rollout: Rollout, op: OpRecord) -> bool:
    candidate = rollout.plan.candidate
    dead = seen.given_up(candidate)
    if dead:
        fail(draft, f"{op.name}: the candidate's replicas do not stay up: {dead}")
        return True
    if seen.ready(candidate):
        if op.unready_since is not None:
            draft.op(unready_since=None)
    elif op.unready_since is None:
        draft.op(unready_since=draft.now)
    elif draft.now >= op.unready_since + UNREADY_GRACE_S:
        fail(draft, f"{op.name}: the candidate had no ready replica for {UNREADY_GRACE_S:g} s")
        return True
    return False


def _say_verdicts(draft: Draft, verdicts: Sequence[Verdict], op: OpRecord) -> None:
    """Only a changed result is an event; the numbers of every look are in the op."""
    before = {v.gate: v.result for v in op.verdicts}
    for verdict in verdicts:
        if before.get(verdict.gate) is not verdict.result:
            draft.say("verdict", verdict.explanation, op=op.name, gate=verdict.gate, result=str(verdict.result))


def _finalize(draft: Draft, seen: Seen, rollout: Rollout, op: OpRecord) -> None:
    if rollout.paused:
        return
    _pass(draft, f"{rollout.commit[:10]} is the new stable")
    release(draft, rollout.target, f"{rollout.commit[:10]} is the new stable")
    end(draft, State.SUCCEEDED, f"{rollout.commit[:10]} is live")

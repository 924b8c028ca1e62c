"""How a rollout starts and ends, and what that does to traffic, revisions and git. Shared by all who decide."""

from __future__ import annotations

from collections.abc import Iterable

from headgate import handover
from headgate.draft import Draft
from headgate.evidence import Verdict
from headgate.plan import workflow_name
from headgate.planning import make_plan
from headgate.rollout import KEPT_RELEASES, Head, OpEnd, Release, Rollout, State, Undo
from headgate.surge import SWAP
from headgate.target import Target

SHORT = 120  # characters of a reason in one line: a subject, a column
KEPT_ATTEMPTS = 200  # commits: far more than a branch goes back
UNDRAINED_GRACE_S = 5.0  # a revision taken out of the route finishes what it was asked before its replicas end


def start(draft: Draft, target: Target) -> None:
    handover.whole(draft)
    planned = make_plan(draft.head, target)
    assert planned.plan is not None
    attempt = dict(draft.head.attempts).get(target.commit, 0) + 1
    others = tuple(known for known in draft.head.attempts if known[0] != target.commit)
    attempts = (*others, (target.commit, attempt))[-KEPT_ATTEMPTS:]
    rollout = Rollout(
        id=workflow_name(target.endpoint, target.commit, attempt),
        attempt=attempt,
        commit=target.commit,
        target=target,
        plan=planned.plan,
        start=dict(draft.head.traffic),
        started_at=draft.now,
        way=SWAP if planned.swaps else "",
        sizes={revision: draft.head.instances(revision) for revision in draft.head.traffic},
    )
    draft.set(rollout=rollout, attempts=attempts, undo=None)
    names = ", ".join(sorted(target.revisions[r].name for r in planned.plan.revisions)) or "traffic only"
    draft.say("rollout.started", f"{target.commit[:10]}: {names}", plan=planned.plan.hash)


def end(draft: Draft, state: State, message: str) -> None:
    rollout = draft.head.rollout
    assert rollout is not None
    if rollout.running:
        ends = {State.SUCCEEDED: OpEnd.PASSED, State.FAILED: OpEnd.FAILED}
        draft.op(state=ends.get(state, OpEnd.STOPPED), ended_at=draft.now, message=message)
    draft.set(mirrors=())
    draft.ended.append(draft.rollout(state=state, ended_at=draft.now, message=message, paused=False, paused_at=None))
    draft.say(f"rollout.{state}", message)


def supersede(draft: Draft, why: str) -> None:
    rollout = draft.head.active
    if rollout:
        if rollout.way:
            _give_up(draft, rollout)
        end(draft, State.SUPERSEDED, why)
        stop_workflow(draft)


def _give_up(draft: Draft, rollout: Rollout) -> None:
    """Where the two do not fit at once, what nobody is sent to makes room for what serves."""
    if dict(draft.head.traffic) == dict(rollout.start):
        handover.back(draft, rollout)
    for revision in rollout.plan.revisions:
        if draft.head.revisions[revision].running and revision not in draft.head.traffic:
            draft.revision(revision, warm_until=draft.now + UNDRAINED_GRACE_S)


def stop_workflow(draft: Draft) -> None:
    """The record says why first; then the engine is told, until it has ended."""
    assert draft.head.rollout is not None
    draft.set(stopping=(*draft.head.stopping, draft.head.rollout.id))


def fail(
    draft: Draft,
    message: str,
    *,
    verdicts: Iterable[Verdict] = (),
    state: State = State.FAILED,
    git: bool = True,
) -> None:
    """Traffic first, with the record; then git (`Undo`), unless the process says hold.

    `git=False`: what ended is not the commit's fault, so the commit stays.
    """
    rollout = draft.head.active
    assert rollout is not None
    op = rollout.running
    draft.move(rollout.start, f"back: {message}", op.name if op else "")
    handover.back(draft, rollout)
    end(draft, state, message)
    if state is State.ABORTED:
        stop_workflow(draft)
    for revision in {*rollout.plan.revisions, rollout.plan.candidate} - {""}:
        draft.revision(revision, failed=_short(message), known_good=False)
    spare(draft, keep=set(rollout.start), warm_s=0.0)
    mode = rollout.target.process.on_failure
    if git and mode != "hold":
        good = draft.head.stable.target if draft.head.stable else None
        found = tuple(verdicts)
        gates = ", ".join(v.gate for v in found)
        reason = f"{gates} failed at {op.name}" if found and op else _short(message)
        undo = Undo(
            f"{rollout.id}/revert", mode, _asking(draft.head, rollout), good, f"{draft.head.endpoint}: {reason}", found
        )
        draft.set(undo=undo)


def _asking(head: Head, rollout: Rollout) -> Target:
    """The newest commit that asks for what failed: one that came since changed other things, say rollout.yml, and as
    long as it stands git asks for the failed state."""
    asked = head.asked
    return asked if asked is not None and asked.digest == rollout.target.digest else rollout.target


def _short(message: str) -> str:
    line = message.splitlines()[0] if message else ""
    return line if len(line) <= SHORT else f"{line[: SHORT - 1]}…"


def keep_release(draft: Draft, target: Target) -> None:
    """The newest release last; asked again by another commit it is still one release."""
    older = [r for r in draft.head.releases if r.target.digest != target.digest]
    draft.set(releases=(*older, Release(target, draft.now))[-KEPT_RELEASES:])


def release(draft: Draft, target: Target, message: str) -> None:
    """The target is live: the new stable."""
    keep_release(draft, target)
    for revision in target.revisions:
        draft.revision(revision, known_good=True, failed="", running=True, warm_until=None)
    handover.settle(draft, target)
    spare(draft, keep=set(target.revisions), warm_s=target.process.keep_warm_s)
    draft.say("release", message, traffic=dict(target.traffic), commit=target.commit)


def spare(draft: Draft, keep: set[str], warm_s: float) -> None:
    """Revisions nobody asks for any more run on for a while, then end."""
    asked = set(draft.head.asked.revisions) if draft.head.asked else set()
    for revision, state in draft.head.revisions.items():
        if not state.running or state.warm_until is not None or revision in keep or revision in draft.head.traffic:
            continue
        if handover.stands_in_the_way(draft.head, revision):
            draft.revision(revision, warm_until=draft.now + UNDRAINED_GRACE_S)
        elif revision not in asked or state.failed:
            draft.revision(revision, warm_until=draft.now + max(warm_s, UNDRAINED_GRACE_S))

"""What git or a person asks of an endpoint: taken up, refused, or done at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headgate.draft import Draft
from headgate.findings import Finding, Place
from headgate.outcome import fail, release, spare, start, supersede
from headgate.planning import endpoint_file, is_known_good, known_release, make_plan, unproven
from headgate.rollout import Head, Release, RevisionState, Rollout, State, Undo
from headgate.target import Target


def accept(draft: Draft, target: Target, warnings: Sequence[Finding] = ()) -> None:
    """A commit was read without errors: take up what it asks."""
    head = draft.head
    if head.removing_since is not None:
        draft.set(removing_since=None)
        draft.say("removal.cancelled", f"the endpoint is back in git with {target.commit[:10]}")
    if head.asked is not None and head.asked.digest == target.digest and not _gone(head):
        if head.active and head.asked.process != target.process:
            draft.say("process.later", f"{target.commit[:10]}: its rollout.yml counts from the next rollout on")
        draft.set(commit=target.commit, asked=target, findings=tuple(warnings))
        return
    refusal = _removal_with_traffic(head, target)
    if refusal:
        reject(draft, target.commit, (refusal,))
        return
    planned = make_plan(head, target)
    if planned.plan is None:
        reject(draft, target.commit, planned.findings)
        return
    supersede(draft, f"superseded by {target.commit[:10]}")
    draft.set(commit=target.commit, asked=target, findings=(*warnings, *planned.findings), switch=None)
    adopt(draft, target)
    if dict(target.traffic) == dict(head.traffic) and not unproven(draft.head, target):
        release(draft, target, f"{target.commit[:10]} asks for what is live; settings applied in place")
    elif dict(target.traffic) != dict(head.traffic) and (not target.traffic or known_release(draft.head, target)):
        draft.set(switch=target)
        draft.say("rollback.started", f"{target.commit[:10]} asks for a known-good state", traffic=dict(target.traffic))
    else:
        start(draft, target)
    spare(draft, keep=set(target.revisions), warm_s=target.process.keep_warm_s)


def reject(draft: Draft, commit: str, findings: Sequence[Finding]) -> None:
    """A commit that cannot be acted on: the last good state serves on."""
    draft.set(commit=commit, findings=tuple(findings))
    first = next((f for f in findings if f.is_error), findings[0])
    draft.say("commit.rejected", f"{commit[:10]}: {first.message}", findings=[str(f) for f in findings])


def forget(draft: Draft, commit: str) -> None:
    """The endpoint's folder is gone from git."""
    if draft.head.asked is None:
        draft.set(commit=commit, findings=())
    elif draft.head.removing_since is None:
        draft.set(commit=commit, findings=(), removing_since=draft.now)
        draft.say("removal.asked", "its folder is gone from git; it serves on until the grace is over")


def _gone(head: Head) -> bool:
    """Whether git asks for what a failed rollout left: only a new commit may try that again."""
    return bool(
        head.rollout
        and head.rollout.state in (State.FAILED, State.ABORTED)
        and head.asked
        and head.rollout.target.digest == head.asked.digest
        and dict(head.traffic) != dict(head.asked.traffic)
    )


def _removal_with_traffic(head: Head, target: Target) -> Finding | None:
    if known_release(head, target):
        return None
    names = {d.name for d in target.deployments.values()}
    live = [
        head.revisions[r].deployment.name
        for r in sorted(head.traffic)
        if head.revisions[r].deployment.name not in names
    ]
    candidate = head.active.plan.candidate if head.active else ""
    live = [n for n in live if not (candidate and head.revisions[candidate].deployment.name == n)]
    if not live or not target.deployments:
        return None
    return Finding(
        code="removal-with-traffic",
        message=f"deployment {live[0]} is removed while it carries live traffic",
        why="the rollout away from it, and the way back, need it to be there",
        fix=f"commit `traffic` without {live[0]} first and keep its file; remove it once that rollout has finished",
        place=Place(endpoint_file(target)),
    )


def adopt(draft: Draft, target: Target) -> None:
    """The record knows every revision that the target names, with its settings of now."""
    states = dict(draft.head.revisions)
    for revision, deployment in target.revisions.items():
        known = states.get(revision)
        if known is None:
            states[revision] = RevisionState(deployment, target.commit, asked_at=draft.now)
        else:
            states[revision] = replace(known, deployment=deployment, warm_until=None, asked_at=draft.now)
    draft.set(revisions=states)


def operate(
    draft: Draft, action: str, *, who: str, why: str, to: str = "", full: bool = False, git_only: bool = False
) -> str:
    """pause, resume, promote, abort, rollback. Returns what was done, or raises `ValueError` with why it cannot be."""
    rollout = draft.head.active
    said = f"{action} by {who}" + (f": {why}" if why else "")
    if action == "rollback":
        return _roll_back(draft, to, said, git_only)
    if rollout is None:
        raise ValueError(f"{draft.head.endpoint} has no running rollout")
    if action == "pause":
        draft.rollout(paused=True, paused_at=rollout.paused_at if rollout.paused else draft.now)
    elif action == "resume":
        _go_on(draft, rollout)
    elif action == "promote":
        if rollout.running and not full:
            draft.op(hurried=True)
        draft.rollout(hurried=rollout.hurried or full)
        _go_on(draft, rollout)
    elif action == "abort":
        fail(draft, said, state=State.ABORTED)
        return f"{rollout.id} aborted, traffic is back"
    else:
        raise ValueError(f"unknown action {action}")
    draft.say(f"operator.{action}", said, op=rollout.running.name if rollout.running else "")
    return said


def _go_on(draft: Draft, rollout: Rollout) -> None:
    """After a pause: what was held has as long left to find a pass as it had before."""
    op = rollout.running
    if rollout.paused_at is not None and op is not None and op.live_at is not None:
        draft.op(paused_s=op.paused_s + max(0.0, draft.now - max(rollout.paused_at, op.live_at)))
    draft.rollout(paused=False, paused_at=None)


def release_to(head: Head, to: str) -> Release:
    """The release a rollback goes to: by revision, by commit, or the newest known-good one that is not live."""
    for past in reversed(head.releases):
        target = past.target
        if not target.traffic or not is_known_good(head, target):
            continue
        named = to and (any(r.startswith(to) for r in target.traffic) or target.commit.startswith(to))
        if named or (not to and dict(target.traffic) != dict(head.traffic)):
            return past
    asked = f"{to} is" if to else "there is"
    raise ValueError(f"{asked} no known-good state of {head.endpoint} to go back to")


def _roll_back(draft: Draft, to: str, said: str, git_only: bool) -> str:
    """Traffic now, the commit follows; with `git_only` only the commit, and traffic follows from it."""
    head = draft.head
    back = release_to(head, to)
    asked = head.asked
    if not git_only:
        supersede(draft, said)
        draft.set(switch=back.target)
    if asked is not None and asked.digest != back.target.digest:
        key = f"rollback-{back.target.commit[:10]}-from-{asked.commit[:10]}/revert"
        draft.set(undo=Undo(key, asked.process.on_failure, asked, back.target, f"{head.endpoint}: {said}"))
    draft.say("operator.rollback", said, to=back.target.commit)
    return f"{head.endpoint} goes back to {back.target.commit[:10]}"

"""What must be done so that the world is as the head says: derived from the head and what is seen, nothing else.

Every action is safe to repeat, so a crash between recording and acting needs no memory: the next pass derives it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from headgate.draft import Seen
from headgate.phases import SMOKE
from headgate.rollout import Head
from headgate.workload import Purpose


@dataclass(frozen=True, slots=True)
class Run:
    """Have as many replicas of it as its deployment asks for."""

    revision: str


@dataclass(frozen=True, slots=True)
class End:
    """End the replicas that serve it."""

    revision: str


@dataclass(frozen=True, slots=True)
class StartSmoke:
    revision: str


@dataclass(frozen=True, slots=True)
class AskSmoke:
    """Send the sample request to the replica that was started alone, and record the verdict."""

    revision: str
    address: str


@dataclass(frozen=True, slots=True)
class EndSmoke:
    revision: str


@dataclass(frozen=True, slots=True)
class Submit:
    workflow: str


@dataclass(frozen=True, slots=True)
class StopWorkflow:
    workflow: str


@dataclass(frozen=True, slots=True)
class Revert:
    op_key: str


Action = Run | End | StartSmoke | AskSmoke | EndSmoke | Submit | StopWorkflow | Revert


def actions(head: Head, seen: Seen) -> tuple[Action, ...]:
    return (*_replicas(head, seen), *_smokes(head, seen), *_workflow(head, seen), *_git(head))


def _replicas(head: Head, seen: Seen) -> list[Action]:
    wanted = {r for r, state in head.revisions.items() if state.running and state.artifact is not None}
    running = {r.revision for r in seen.replicas if r.purpose is Purpose.SERVE}
    # A revision leaves the route first, and every worker has to have seen that, before its replicas end.
    routed = {r.revision for r in seen.route.revisions} if seen.route else set()
    left = seen.route is None or (seen.acked >= seen.route.generation)
    ended = [r for r in sorted(running - wanted) if r not in routed and r not in head.traffic and left]
    return [*(Run(r) for r in sorted(wanted)), *(End(r) for r in ended)]


def _smokes(head: Head, seen: Seen) -> list[Action]:
    rollout = head.active
    op = rollout.running if rollout else None
    asked: set[str] = set()
    found: list[Action] = []
    if rollout and op and op.verb == SMOKE:
        asked = {r for r in rollout.plan.revisions if not head.revisions[r].smoked and head.revisions[r].artifact}
    for revision in sorted(asked):
        alone = seen.of(revision, Purpose.SMOKE)
        found.append(StartSmoke(revision))
        if seen.ready(revision, Purpose.SMOKE) and revision not in seen.smokes:
            found.append(AskSmoke(revision, alone[0].address))
    over = {r.revision for r in seen.replicas if r.purpose is Purpose.SMOKE} - asked
    return [*found, *(EndSmoke(revision) for revision in sorted(over))]


def _workflow(head: Head, seen: Seen) -> list[Action]:
    # A failed rollout's workflow ends by itself: its op is told no.
    found: list[Action] = [StopWorkflow(name) for name in head.stopping]
    if head.active and head.active.id not in seen.workflows:
        found.append(Submit(head.active.id))
    return found


def _git(head: Head) -> list[Action]:
    return [Revert(head.undo.op_key)] if head.undo and head.undo.state == "wanted" else []

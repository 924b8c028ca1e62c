"""What leaves makes room for what comes: the numbers of `surge.py`, put into the record as the rollout goes on.

A revision's `instances` say how many it has while another needs the room. Nothing here moves traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from headgate.capacity import Need, Way, by_turns, need
from headgate.draft import Draft, Seen
from headgate.phases import DEPLOY
from headgate.plan import Op
from headgate.process import Settings
from headgate.rollout import Head, Rollout
from headgate.surge import PARALLEL, PARTIAL, SWAP, Sides, Stage, peak, says, stage_of, stages
from headgate.target import Target


def sides(head: Head, rollout: Rollout) -> Sides | None:
    """Who leaves for whom; None: nobody does, or an autoscaler has the say."""
    target = rollout.target
    leaving = {r: rollout.sizes.get(r, head.instances(r)) for r in leaves(rollout.start, target)}
    coming = {r: target.revisions[r].run.instance_count for r in rollout.plan.revisions}
    deployments = [*(head.revisions[r].deployment for r in leaving), *(target.revisions[r] for r in coming)]
    if not (leaving and coming and rollout.judged) or any(d.run.scaling for d in deployments):
        return None
    return Sides(leaving, coming)


def leaves(start: Iterable[str], target: Target) -> tuple[str, ...]:
    """Revisions that serve and that git asks for no more; those it still asks for keep their instances."""
    return tuple(sorted(set(start) - set(target.revisions)))


def schedule(head: Head, rollout: Rollout) -> tuple[Stage, ...]:
    """Empty: both sides are there in whole."""
    found = sides(head, rollout) if rollout.way == PARTIAL else None
    return stages(rollout.start, rollout.plan, found) if found else ()


def kept(head: Head, rollout: Rollout) -> list[str]:
    """What serves until the rollout's end, and what it leads to that runs already."""
    every = {*rollout.start, *rollout.target.revisions} - set(rollout.plan.revisions)
    return [revision for revision in sorted(every) if revision in head.revisions]


def turns(head: Head, rollout: Rollout, settings: Settings, there: int) -> Way | None:
    """What the rollout asks for when one takes the other's place; None: none can, or it may not.

    Args:
        there: replicas of both sides that have a place now.
    """
    name = rollout.way or rollout.target.process.capacity
    found = sides(head, rollout) if name != PARALLEL else None
    if found is None:
        return None

    def asks(of: Mapping[str, int]) -> list[Need]:
        return [need(head.endpoint, head.revisions[r].deployment, settings, count) for r, count in of.items()]

    made = stages(rollout.start, rollout.plan, found)
    most = peak(made) if name == PARTIAL else max(sum(found.leaving.values()), sum(found.coming.values()))
    rest = {r: head.instances(r) for r in kept(head, rollout) if r not in found.leaving}
    way = by_turns(name, asks(found.leaving), asks(found.coming), most, there, asks(rest))
    return replace(way, says=says(made)) if way and name == PARTIAL else way


def clear(draft: Draft, rollout: Rollout) -> None:
    """Swap: what leaves ends, though callers still want it."""
    gone = leaves(rollout.start, rollout.target)
    for revision in gone:
        draft.revision(revision, instances=0)
    names = ", ".join(sorted({draft.head.revisions[r].deployment.name for r in gone}))
    draft.say("room.made", f"{names} ends to make room: callers get 503 with Retry-After until the next is ready")


def enter(draft: Draft, rollout: Rollout) -> None:
    """The deploy begins: as many as the first share of traffic needs."""
    stage = stage_of(schedule(draft.head, rollout), DEPLOY)
    for revision in rollout.plan.revisions:
        count = stage.before[revision] if stage else None
        draft.revision(revision, running=True, warm_until=None, instances=_limit(draft.head, revision, count))


def grow(draft: Draft, seen: Seen, rollout: Rollout, following: Op | None) -> str:
    """What comes has what the next step needs, before it opens; else why not yet."""
    stage = stage_of(schedule(draft.head, rollout), following.name) if following else None
    waiting = []
    for revision in rollout.plan.revisions if stage else ():
        count = stage.before[revision] if stage else 0
        if draft.head.instances(revision) < count:
            draft.revision(revision, instances=_limit(draft.head, revision, count))
        ready = seen.ready(revision)
        if ready < count:
            waiting.append(f"{draft.head.revisions[revision].deployment.name} {ready}/{count}")
    return f"starts more for {following.name}: {', '.join(waiting)}" if waiting and following else ""


def shrink(draft: Draft, rollout: Rollout, op: str) -> None:
    """Every router worker splits by the step: what leaves keeps what its share needs."""
    stage = stage_of(schedule(draft.head, rollout), op)
    for revision in leaves(rollout.start, rollout.target) if stage else ():
        assert stage is not None
        draft.revision(revision, instances=_limit(draft.head, revision, stage.after[revision]))


def back(draft: Draft, rollout: Rollout) -> None:
    """As it was when the rollout began; what came ends, and so makes room."""
    for revision, count in rollout.sizes.items() if rollout.way else ():
        draft.revision(revision, instances=_limit(draft.head, revision, count))


def whole(draft: Draft) -> None:
    """A swap that was given up left nobody where callers are sent."""
    for revision in draft.head.traffic:
        if draft.head.revisions[revision].instances == 0:
            draft.revision(revision, instances=None)


def settle(draft: Draft, target: Target) -> None:
    """The target is live: in whole. What was swapped away is not there to be kept warm."""
    for revision in target.revisions:
        draft.revision(revision, instances=None)
    for revision, state in draft.head.revisions.items():
        if state.running and state.instances == 0 and revision not in target.revisions:
            draft.revision(revision, running=False, warm_until=None, instances=None)


def stands_in_the_way(head: Head, revision: str) -> bool:
    """Whether it came in the place of what serves again now, which waits for that place."""
    last = head.rollout
    return bool(last and last.way and revision in last.plan.revisions)


def swaps(head: Head, target: Target) -> bool:
    """Whether the endpoint is one whose revisions never fit beside each other, by where it comes from or goes to."""
    return SWAP in (target.process.capacity, head.rollout.target.process.capacity if head.rollout else PARALLEL)


def _limit(head: Head, revision: str, count: int | None) -> int | None:
    asked = head.asked.revisions if head.asked else {}
    whole = asked.get(revision, head.revisions[revision].deployment).run.instance_count
    return None if count is None or count >= whole else count

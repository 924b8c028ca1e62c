"""How many instances each side of a rollout has, op by op, when there is no room for both in whole. Pure.

`parallel`: both in whole, side by side. `partial`: instances follow the traffic, so that what leaves makes room for
what comes. `swap`: what leaves ends first, and callers are not answered until the other is ready.
Refuses to take more from a side than its traffic leaves over: at no moment has it fewer instances than its share, to a
twentieth of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headgate.phases import DEPLOY, MIRROR, STEP
from headgate.plan import Plan
from headgate.traffic import WHOLE, between

SLACK = 0.05  # of an instance: a third is 33 % or 34 %, and must not take one more on either side
PARALLEL, PARTIAL, SWAP = "parallel", "partial", "swap"


@dataclass(frozen=True, slots=True)
class Sides:
    """Instances by revision: of those that leave, when it begins; of those that come, as git asks for them."""

    leaving: Mapping[str, int]
    coming: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Stage:
    op: str
    before: Mapping[str, int]  # ready before its traffic moves, the old split still standing
    after: Mapping[str, int]  # once every router worker splits by it
    left: frozenset[str] = frozenset()  # of both, the revisions that leave


def stages(start: Mapping[str, int], plan: Plan, sides: Sides) -> tuple[Stage, ...]:
    """Of the deploy and of each step.

    Args:
        start: the traffic that the rollout leads away from, per mille.
    """
    came = _coming(sides, plan, _first_share(plan, start))
    gone = frozenset(sides.leaving)
    found = [Stage(DEPLOY, {**sides.leaving, **came}, {**sides.leaving, **came}, gone)]
    for op in plan.ops:
        if op.verb != STEP:
            continue
        split = between(start, plan.traffic, op.percent)
        last = found[-1].after
        came = {r: max(n, last[r]) for r, n in _coming(sides, plan, split).items()}
        left = {r: _share(n, split.get(r, 0), start.get(r, 0)) for r, n in sides.leaving.items()}
        found.append(Stage(op.name, {**last, **came}, {**left, **came}, gone))
    return tuple(found)


def peak(found: tuple[Stage, ...]) -> int:
    """Instances at once, at most; the way back needs no more."""
    return max(sum(stage.before.values()) for stage in found)


def says(found: tuple[Stage, ...]) -> str:
    """Who has how many once each op is through, those that leave first: `step-25 3 + 1`."""
    first = found[0].before

    def split(stage: Stage) -> str:
        left = sum(n for r, n in stage.after.items() if r in stage.left)
        return f"{stage.op} {left} + {sum(stage.after.values()) - left}"

    whole = sum(first[r] for r in found[0].left) + sum(n for r, n in found[-1].after.items() if r not in found[0].left)
    return f"instances follow traffic, {peak(found)} at once instead of {whole}: {', '.join(map(split, found))}"


def stage_of(found: tuple[Stage, ...], op: str) -> Stage | None:
    return next((stage for stage in found if stage.op == op), None)


def _first_share(plan: Plan, start: Mapping[str, int]) -> Mapping[str, int]:
    """What the candidate has to bear before it is looked at again: the first step, or the copies before it."""
    first = next((op for op in plan.ops if op.verb == STEP), None)
    split = between(start, plan.traffic, first.percent) if first else {}
    copied = next((op.percent for op in plan.ops if op.verb == MIRROR), 0.0)
    return {**split, plan.candidate: max(split.get(plan.candidate, 0), round(copied * WHOLE / 100))}


def _coming(sides: Sides, plan: Plan, split: Mapping[str, int]) -> dict[str, int]:
    """What is asked for at 0 % is there in whole, because its share says nothing about it."""
    whole = plan.traffic
    return {r: _share(n, split.get(r, 0), whole[r]) if whole.get(r) else n for r, n in sides.coming.items()}


def _share(count: int, part: int, whole: int) -> int:
    """Of so many instances for `whole`, those that `part` needs: rounded up, one at least, all at most."""
    return count if not whole else min(count, max(1, math.ceil(count * part / whole - SLACK)))

"""Instances that follow traffic: whatever the sizes and steps, each side has its share and the pool is not exceeded."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate import handover
from headgate.capacity import Answer, Fit
from headgate.evidence import Result
from headgate.phases import DEPLOY, STEP
from headgate.rollout import State
from headgate.surge import PARTIAL, SLACK, SWAP, peak, stages
from headgate.testing import FAST, World, deployment, target
from headgate.traffic import between
from headgate.workload import Purpose, ReplicaState

FEW = settings(max_examples=40, deadline=None)
SIZES = st.integers(1, 12)
STEPS = st.lists(st.integers(1, 99), unique=True, max_size=5).map(lambda found: (*sorted(map(float, found)), 100.0))


def rolling(before: int, after: int, steps: tuple[float, ...], way: str, pool: int = 1_000) -> World:
    """An endpoint whose one deployment is edited in place, at its first phase that is judged."""
    world = World(pool=pool, room=Fit(Answer.START, way=way))
    world.commit(target("b1", [deployment("blue", "1", instances=before)], {"blue": 100}))
    process = replace(FAST, steps=steps, capacity=way)
    return world.commit(target("a2", [deployment("blue", "2", instances=after)], {"blue": 100}, process=process))


def needed(before: int, after: int, steps: tuple[float, ...]) -> int:
    world = rolling(before, after, steps, PARTIAL)
    assert world.head.active
    found = handover.sides(world.head, world.head.active)
    assert found is not None
    return peak(stages(world.head.active.start, world.head.active.plan, found))


@FEW
@given(SIZES, SIZES, STEPS)
def test_each_side_has_its_share_whenever_traffic_moves(before: int, after: int, steps: tuple[float, ...]) -> None:
    world = rolling(before, after, steps, PARTIAL)
    rollout = world.head.active
    assert rollout is not None
    sides = handover.sides(world.head, rollout)
    assert sides is not None
    (old,), (new,) = sides.leaving, sides.coming
    last = dict(rollout.start)
    found = stages(rollout.start, rollout.plan, sides)
    assert [stage.op for stage in found] == [DEPLOY, *(op.name for op in rollout.plan.ops if op.verb == STEP)]
    for stage, percent in zip(found, (0.0, *steps), strict=True):
        split = between(rollout.start, rollout.plan.traffic, percent)
        for traffic, counts in ((last, stage.before), (split, stage.before), (split, stage.after)):
            assert counts[old] + SLACK >= before * traffic.get(old, 0) / 1000
            assert counts[new] + SLACK >= after * traffic.get(new, 0) / 1000
        assert min(*stage.before.values(), *stage.after.values()) >= 1, "the way back needs the old one alive"
        last = split
    assert found[-1].after[new] == after
    assert peak(found) >= max(before + 1, after + 1), "so the way back fits too"
    assert peak(found) <= before + after


@FEW
@given(st.integers(1, 6), st.integers(1, 6), STEPS)
def test_a_pool_of_just_the_peak_is_never_exceeded_and_it_comes_through(
    before: int, after: int, steps: tuple[float, ...]
) -> None:
    pool = needed(before, after, steps)
    world = rolling(before, after, steps, PARTIAL, pool)
    world.result = Result.PASS
    for _ in range(len(steps) + 2):
        world.wait(10)
        assert sum(r.purpose is Purpose.SERVE for r in world.replicas.values()) <= pool
    assert world.state is State.SUCCEEDED
    (live,) = world.head.traffic
    assert (world.head.instances(live), world.head.revisions[live].instances) == (after, None)


@FEW
@given(st.integers(1, 6), st.integers(1, 6), STEPS, st.integers(0, 6), st.sampled_from([PARTIAL, SWAP]))
def test_the_way_back_fits_from_every_point(
    before: int, after: int, steps: tuple[float, ...], failing: int, way: str
) -> None:
    pool = needed(before, after, steps) if way == PARTIAL else max(before, after)
    world = rolling(before, after, steps, way, pool)
    (old,) = world.head.active.start if world.head.active else ()
    world.result = Result.PASS
    for _ in range(failing):
        world.wait(10)
    if world.state is State.RUNNING:
        world.result = Result.FAIL
        world.wait(10)
        assert world.state is State.FAILED
    else:
        world.operate("rollback")
    for _ in range(4):
        world.wait(10)
    assert dict(world.head.traffic) == {old: 1000}
    ready = [r for r in world.replicas.values() if r.revision == old and r.state is ReplicaState.READY]
    assert len(ready) == before

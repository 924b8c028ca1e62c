"""Making room: the record of an endpoint whose pool cannot hold both sides in whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate import handover
from headgate.capacity import Answer, Fit
from headgate.evidence import Result
from headgate.planning import make_plan
from headgate.process import InstanceType, Settings
from headgate.rollout import State
from headgate.surge import PARALLEL, PARTIAL, SWAP, says
from headgate.testing import FAST, World, deployment, target
from headgate.workload import Purpose, ReplicaState, Scaling

OLD, NEW = deployment("blue", "1", instances=4), deployment("blue", "2", instances=4)
PROCESS = replace(FAST, mirror=replace(FAST.mirror, percent=20.0), steps=(25.0, 50.0, 75.0, 100.0))
GPU = Settings(instance_types={"small": InstanceType(gpus=1, node_pool="gpu")})


def rolling(way: str, pool: int = 5) -> World:
    world = World(pool=pool, room=Fit(Answer.START, "by parts", way=way))
    world.commit(target("b1", [OLD], {"blue": 100}))
    return world.commit(target("a2", [NEW], {"blue": 100}, process=replace(PROCESS, capacity=way)))


def counts(world: World) -> tuple[int, int]:
    """Replicas that serve: of what leaves, of what comes."""
    serving = [r.revision for r in world.replicas.values() if r.purpose is Purpose.SERVE]
    return serving.count(OLD.revision), serving.count(NEW.revision)


def kinds(world: World) -> list[str]:
    return [event.kind for event in world.events]


def test_instances_follow_traffic_and_the_schedule_says_so() -> None:
    world = rolling(PARTIAL)
    assert world.head.active
    found = handover.schedule(world.head, world.head.active)
    assert says(found) == (
        "instances follow traffic, 5 at once instead of 8: "
        "deploy 4 + 1, step-25 3 + 1, step-50 2 + 2, step-75 1 + 3, step-100 1 + 4"
    )
    world.result = Result.PASS
    seen = []
    for _ in range(5):
        seen.append((world.head.traffic.get(NEW.revision, 0), *counts(world)))
        world.wait(10)
    assert seen == [(0, 4, 1), (250, 3, 1), (500, 2, 2), (750, 1, 3), (1000, 1, 4)]
    assert world.state is State.SUCCEEDED
    assert "room.shared" in kinds(world)


def test_the_next_step_waits_until_what_it_needs_is_ready() -> None:
    world = rolling(PARTIAL, pool=5)
    world.pool = 4  # somebody else took the place that was free
    world.result = Result.PASS
    world.wait(10)
    world.wait(10)
    assert world.head.active
    assert world.head.active.running
    assert (world.head.active.running.name, world.head.active.running.message) == (
        "step-25",
        "starts more for step-50: blue 1/2",
    )
    world.pool = 5
    world.run()
    assert world.head.active.running.name == "step-50"


def test_a_verdict_against_it_gives_the_place_back() -> None:
    world = rolling(PARTIAL)
    world.result = Result.PASS
    world.wait(10)
    world.wait(10)
    assert counts(world) == (2, 2)
    world.result = Result.FAIL
    world.run()
    assert dict(world.head.traffic) == {OLD.revision: 1000}, "traffic first"
    world.wait(6)
    assert counts(world) == (4, 0)
    assert all(r.state is ReplicaState.READY for r in world.replicas.values())


def test_a_revert_while_it_rolls_goes_back_at_once() -> None:
    world = rolling(PARTIAL)
    world.result = Result.PASS
    world.wait(10)
    world.wait(10)
    world.commit(target("c3", [OLD], {"blue": 100}))
    assert dict(world.head.traffic) == {OLD.revision: 1000}
    world.wait(6)
    assert counts(world) == (4, 0)


def test_a_swap_ends_what_serves_before_it_starts_what_comes() -> None:
    world = World(pool=1)
    one, two = deployment("blue", "1"), deployment("blue", "2")
    world.commit(target("b1", [one], {"blue": 100}))
    world.commit(target("a2", [two], {"blue": 100}, process=replace(PROCESS, capacity=SWAP)))
    assert world.head.active
    assert [op.name for op in world.head.active.plan.ops] == ["build", "smoke", "deploy", "step-100", "finalize"]
    assert "callers get 503 with Retry-After" in world.head.active.plan.notes[0]
    assert "room.made" in kinds(world)
    assert [r.revision for r in world.replicas.values()] == [two.revision]
    world.result = Result.PASS
    world.wait(10)
    assert (world.state, dict(world.head.traffic)) == (State.SUCCEEDED, {two.revision: 1000})
    world.operate("rollback").run()
    world.wait(6)
    assert [r.revision for r in world.replicas.values()] == [one.revision], "the way back swaps too"
    assert dict(world.head.traffic) == {one.revision: 1000}


def test_a_swap_given_up_for_another_commit_puts_back_what_served() -> None:
    world = World(pool=1)
    one, two = deployment("blue", "1"), deployment("blue", "2")
    world.commit(target("b1", [one], {"blue": 100}))
    world.pool = 0  # the new one waits for its place for ever
    world.commit(target("a2", [two], {"blue": 100}, process=replace(PROCESS, capacity=SWAP)))
    assert world.head.instances(one.revision) == 0
    world.pool = 1
    world.commit(target("c3", [one], {"blue": 100}))
    world.wait(6)
    ready = [r.revision for r in world.replicas.values() if r.state is ReplicaState.READY]
    assert (ready, world.head.instances(one.revision)) == ([one.revision], 1)


@pytest.mark.parametrize(
    ("old", "new", "split"),
    [
        pytest.param(OLD, replace(NEW, run=replace(NEW.run, scaling=Scaling(1, 8))), {"blue": 100}, id="autoscaled"),
        pytest.param(deployment("green"), NEW, {"green": 100, "blue": 0}, id="nothing moves"),
    ],
)
def test_who_has_its_own_number_takes_nobodys_place(old: object, new: object, split: dict[str, int]) -> None:
    world = World(room=Fit(Answer.START, way=PARTIAL))
    world.commit(target("b1", [old], {next(iter(split)): 100}))  # type: ignore[list-item]
    both = [d for d in (old, new) if d is new or d.name not in new.name]  # type: ignore[attr-defined]
    world.commit(target("a2", both, {k: v for k, v in split.items() if v}, process=replace(PROCESS, capacity=PARTIAL)))  # type: ignore[arg-type]
    rollout = world.head.rollout
    assert rollout is not None
    assert handover.sides(world.head, rollout) is None
    assert handover.schedule(world.head, rollout) == ()


def test_what_stays_in_git_keeps_its_instances() -> None:
    blue, green = deployment("blue", instances=2), deployment("green", instances=2)
    world = World().commit(target("b1", [blue], {"blue": 100}))
    wanted = target("a2", [blue, green], {"green": 100}, process=replace(PROCESS, capacity=SWAP))
    assert not make_plan(world.head, wanted).swaps
    assert handover.leaves(world.head.traffic, wanted) == ()


def test_the_way_says_how_many_more_places_it_needs() -> None:
    world = rolling(PARALLEL)
    rollout = world.head.active
    assert rollout is not None
    rollout = replace(rollout, target=replace(rollout.target, process=replace(PROCESS, capacity=PARTIAL)))
    way = handover.turns(world.head, rollout, GPU, there=4)
    assert way is not None
    assert [(n.what, n.count, n.pool) for n in way.needs] == [("fraud/blue by turns", 1, "gpu")]
    assert [(n.what, n.count) for n in way.beside] == [("fraud/blue by turns", 4)]


def test_what_is_kept_warm_makes_room_for_who_waits() -> None:
    world = World().commit(target("b1", [OLD], {"blue": 100}))
    slow = replace(PROCESS, keep_warm_s=3600.0)
    world.commit(target("a2", [NEW], {"blue": 100}, process=slow))
    world.result = Result.PASS
    for _ in range(6):
        world.wait(10)
    assert counts(world) == (4, 4)
    world.room = Fit(Answer.WAIT, "full", position=1)
    world.commit(target("c3", [deployment("blue", "3", instances=4)], {"blue": 100}, process=slow))
    world.wait(6)
    assert counts(world) == (0, 4)
    assert "warmth.ended" in kinds(world)

"""The edges of a running op: who is waited for, what resets a clock, what a pause holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from headgate.decide import UNREADY_GRACE_S, next_at, step
from headgate.evidence import Result
from headgate.intent import accept
from headgate.process import MirrorPhase
from headgate.rollout import KEPT_REVISIONS, OpEnd, OpRecord, State
from headgate.target import Target
from headgate.testing import FAST, World, deployment, target
from headgate.workload import Purpose, ReplicaState

BLUE, GREEN, TEAL = deployment("blue"), deployment("green"), deployment("teal")
GREEN_TOO = target("a2", [BLUE, GREEN], {"green": 100})
REPLICA = (GREEN.revision, Purpose.SERVE, 0)


def serving() -> World:
    return World().commit(target("b1", [BLUE], {"blue": 100}))


def mirroring() -> World:
    return serving().commit(GREEN_TOO)


def at_first_step() -> World:
    world = mirroring()
    world.result = Result.PASS
    world.wait(10)
    world.result = Result.INCONCLUSIVE
    return world


def promoted() -> World:
    world = mirroring()
    world.result = Result.PASS
    for _ in range(6):
        world.wait(10)
    assert world.state is State.SUCCEEDED
    return world


def last(world: World) -> OpRecord:
    assert world.head.rollout
    return world.head.rollout.ops[-1]


def until(world: World, condition: Callable[[], bool]) -> None:
    for _ in range(60):
        if condition():
            return
        world.step()
    raise AssertionError("it never came to that")


def begun(world: World, wanted: Target, verb: str) -> World:
    """The first moment at which an op of this verb runs."""
    draft = world.draft()
    accept(draft, wanted)
    world.keep(draft)
    until(world, lambda: bool(world.head.rollout and world.head.rollout.ops and last(world).verb == verb))
    return world


def state(world: World, key: tuple[str, Purpose, int], found: ReplicaState) -> None:
    world.replicas[key] = replace(world.replicas[key], state=found)


def test_deploy_waits_for_every_instance() -> None:
    two = deployment("green", "2", instances=2)
    world = begun(serving(), target("a2", [BLUE, two], {"green": 100}), "deploy")
    second = (two.revision, Purpose.SERVE, 1)
    until(world, lambda: second in world.replicas)
    state(world, second, ReplicaState.STARTING)
    world.run()
    assert (last(world).verb, last(world).state) == ("deploy", OpEnd.RUNNING)
    state(world, second, ReplicaState.READY)
    world.run()
    assert last(world).verb == "mirror"


def test_a_router_one_generation_behind_is_waited_for() -> None:
    world = mirroring()
    world.result = Result.PASS
    world.acking = False
    world.wait(10)
    assert last(world).name == "step-5"
    world.acked = last(world).generation - 1
    world.run()
    assert last(world).live_at is None
    world.acked += 1
    world.run()
    assert last(world).live_at == world.now


def test_a_route_that_does_not_show_the_mirror_is_not_this_ops() -> None:
    world = mirroring()
    assert world.route
    for route, generation in ((replace(world.route, mirrors=()), 0), (world.route, world.route.generation)):
        draft = world.draft()
        draft.op(generation=0, live_at=None)
        step(draft, replace(world.seen(), route=route))
        assert draft.head.rollout
        assert draft.head.rollout.ops[-1].generation == generation


def test_a_pause_is_not_counted_against_max_soak() -> None:
    world = at_first_step().operate("pause")
    world.wait(FAST.max_soak_s * 5)
    assert world.state is State.RUNNING
    world.operate("resume").run()
    assert world.state is State.RUNNING
    world.wait(FAST.max_soak_s - 1)
    assert world.state is State.RUNNING
    world.wait(1)
    assert world.state is State.FAILED


def test_each_pause_of_an_op_is_left_out_and_a_second_word_for_pause_begins_none() -> None:
    world = at_first_step()
    for _ in range(2):
        world.operate("pause")
        world.wait(FAST.max_soak_s)
        world.operate("pause")
        world.wait(FAST.max_soak_s)
        world.operate("resume").run()
    assert last(world).paused_s == 4 * FAST.max_soak_s
    world.operate("resume").wait(FAST.max_soak_s - 1)
    assert world.state is State.RUNNING
    assert next_at(world.head, world.now) == world.now + 1


def away(world: World, seconds: float) -> None:
    """Nobody looks for so long."""
    world.now += seconds
    draft = world.draft()
    step(draft, replace(world.seen(), unseen_s=seconds))
    world.keep(draft)


@pytest.mark.parametrize("seconds", [FAST.max_soak_s * 5, -FAST.max_soak_s * 5], ids=["on", "back"])
def test_time_that_nobody_watched_is_no_soak_and_is_not_counted_against_patience(seconds: float) -> None:
    world = at_first_step()
    world.result = Result.PASS
    before = world.now - (last(world).live_at or 0.0)
    away(world, seconds)
    assert (world.state, last(world).name) == (State.RUNNING, "step-5")
    assert world.now - (last(world).live_at or 0.0) == before
    world.result = Result.INCONCLUSIVE
    world.wait(FAST.max_soak_s - before - 1)
    assert world.state is State.RUNNING
    world.wait(1)
    assert world.state is State.FAILED


def test_a_candidate_that_was_not_ready_before_a_gap_is_given_the_rest_of_its_grace_after_it() -> None:
    world = at_first_step()
    state(world, REPLICA, ReplicaState.RESTARTING)
    world.run()
    away(world, 3_600.0)
    assert (world.state, world.now - (last(world).unready_since or 0.0)) == (State.RUNNING, 0.0)
    world.wait(UNREADY_GRACE_S)
    assert world.state is State.FAILED


def test_the_mirror_has_a_soak_of_its_own() -> None:
    process = replace(FAST, mirror=MirrorPhase(percent=50, soak_s=30), soak_s=10)
    world = serving().commit(target("a2", [BLUE, GREEN], {"green": 100}, process=process))
    world.result = Result.PASS
    world.wait(29)
    assert last(world).name == "mirror"
    world.wait(1)
    assert last(world).name == "step-5"
    world.wait(10)
    assert last(world).name == "step-50"


def test_a_replica_that_comes_back_has_its_whole_grace_again() -> None:
    world = at_first_step()
    for _ in range(3):
        state(world, REPLICA, ReplicaState.RESTARTING)
        world.run()
        world.wait(UNREADY_GRACE_S - 5)
        state(world, REPLICA, ReplicaState.READY)
        world.run()
        assert last(world).unready_since is None
    assert world.state is State.RUNNING


def test_a_mirror_ends_with_its_op() -> None:
    assert mirroring().head.mirrors
    assert at_first_step().head.mirrors == ()


def test_a_pause_holds_finalize_too() -> None:
    world = at_first_step()
    world.result = Result.PASS
    while last(world).verb != "finalize":
        world.now += FAST.soak_s
        world.step()
    world.operate("pause").run()
    assert (last(world).verb, world.state) == ("finalize", State.RUNNING)
    world.operate("resume").run()
    assert world.state is State.SUCCEEDED


def test_only_a_changed_result_is_an_event_but_every_number_is_kept() -> None:
    world = at_first_step()
    world.run()
    seen = world.seen()
    more = tuple(replace(v, explanation="2 more requests, as inconclusive as before") for v in seen.verdicts)
    draft = world.draft()
    step(draft, replace(seen, verdicts=more))
    assert draft.head.rollout
    assert draft.head.rollout.ops[-1].verdicts == more
    assert [e.kind for e in draft.events] == []


def test_promoted_in_full_no_soak_holds_any_step_but_every_gate_does() -> None:
    world = at_first_step().operate("promote", full=True)
    world.run()
    assert last(world).name == "step-5"
    world.result = Result.PASS
    world.run()
    assert world.state is State.SUCCEEDED


def test_each_model_is_smoked_once_however_long_another_takes() -> None:
    world = begun(serving(), target("a2", [BLUE, GREEN, TEAL], {"blue": 100}), "smoke")
    slow = (TEAL.revision, Purpose.SMOKE, 0)
    until(world, lambda: slow in world.replicas)
    state(world, slow, ReplicaState.STARTING)
    world.smokes = {key: v for key, v in world.smokes.items() if key[1] != TEAL.revision}
    world.run()
    assert len(last(world).verdicts) == 1
    state(world, slow, ReplicaState.READY)
    world.run()
    assert world.state is State.SUCCEEDED
    assert world.head.rollout
    assert [len(op.verdicts) for op in world.head.rollout.ops if op.verb == "smoke"] == [2]


def test_warmth_never_ends_a_revision_that_has_traffic_again() -> None:
    world = promoted()
    assert world.head.revisions[BLUE.revision].warm_until is None, "blue is still asked, at 0 %"
    world.commit(target("a3", [GREEN], {"green": 100}))
    assert world.head.revisions[BLUE.revision].warm_until is not None
    world.operate("rollback").run()
    assert world.shares() == {"blue": 1000}
    world.wait(10_000)
    assert world.head.revisions[BLUE.revision].running
    assert (BLUE.revision, Purpose.SERVE, 0) in world.replicas


def test_only_so_many_idle_revisions_are_remembered() -> None:
    world = serving()
    world.result = Result.FAIL
    for number in range(KEPT_REVISIONS + 5):
        world.commit(target(f"a{number}", [BLUE, deployment("green", f"v{number}")], {"green": 100}))
        world.wait(10)
    asked = deployment("green", f"v{KEPT_REVISIONS + 4}").revision
    idle = [r for r, s in world.head.revisions.items() if not s.running and r not in (BLUE.revision, asked)]
    assert len(idle) == KEPT_REVISIONS
    assert asked in world.head.revisions

"""One endpoint's life, told through the world of `headgate.testing`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate import codec
from headgate.control import OpState
from headgate.decide import UNREADY_GRACE_S, next_at
from headgate.evidence import Result
from headgate.intent import accept, forget, operate
from headgate.rollout import KEPT_RELEASES, KEPT_REVISIONS, State
from headgate.target import RunSettings
from headgate.testing import FAST, World, deployment, target
from headgate.workload import Purpose, ReplicaState

BLUE = deployment("blue")
GREEN = deployment("green")
BLUE_ONLY = target("b1", [BLUE], {"blue": 100})
GREEN_TOO = target("a2", [BLUE, GREEN], {"green": 100})


def commit(world: World, wanted: object) -> World:
    draft = world.draft()
    accept(draft, wanted)  # type: ignore[arg-type]
    world.keep(draft)
    return world.run()


def serving_blue() -> World:
    return commit(World(), BLUE_ONLY)


def mirroring_green() -> World:
    return commit(serving_blue(), GREEN_TOO)


def at_first_step() -> World:
    world = mirroring_green()
    world.result = Result.PASS
    world.wait(10)
    world.result = Result.INCONCLUSIVE
    return world


def promoted() -> World:
    world = mirroring_green()
    world.result = Result.PASS
    for _ in range(6):
        world.wait(10)
    return world


def opened(world: World) -> list[str]:
    assert world.head.rollout
    return [op.name for op in world.head.rollout.ops]


def test_a_first_commit_is_built_smoked_and_served_in_one_move() -> None:
    world = serving_blue()
    assert opened(world) == ["build", "smoke", "deploy", "step-100", "finalize"]
    assert world.state is State.SUCCEEDED
    assert world.shares() == {"blue": 1000}


def test_a_better_model_waits_in_the_mirror_until_gates_pass() -> None:
    world = mirroring_green()
    world.wait(50)
    assert opened(world)[-1] == "mirror"
    assert world.shares() == {"blue": 1000}
    assert world.route
    assert [m.per_mille for m in world.route.mirrors] == [500, 50]


def test_steps_open_one_by_one_and_the_last_makes_it_stable() -> None:
    world = at_first_step()
    assert opened(world)[-1] == "step-5"
    assert world.shares() == {"blue": 950, "green": 50}
    world = promoted()
    assert world.state is State.SUCCEEDED
    assert world.shares() == {"green": 1000}
    assert world.head.stable
    assert world.head.stable.target.commit == GREEN_TOO.commit


def test_an_inconclusive_analysis_holds_the_step() -> None:
    world = at_first_step()
    world.wait(90)
    assert opened(world)[-1] == "step-5"


def test_a_step_without_a_pass_fails_closed_at_max_soak() -> None:
    world = at_first_step()
    world.wait(FAST.max_soak_s + 1)
    assert world.state is State.FAILED
    assert world.shares() == {"blue": 1000}
    assert "more requests" in (world.head.rollout.message if world.head.rollout else "")


def test_silence_is_not_a_pass() -> None:
    world = mirroring_green()
    world.result = None
    world.wait(FAST.max_soak_s + 1)
    assert world.state is State.FAILED
    assert world.shares() == {"blue": 1000}


@pytest.mark.parametrize("result", [Result.FAIL])
def test_a_failed_gate_moves_traffic_back_and_owes_git_a_revert(result: Result) -> None:
    world = at_first_step()
    world.result = result
    world.run()
    assert world.state is State.FAILED
    assert world.shares() == {"blue": 1000}
    assert len(world.reverted) == 1
    assert world.head.undo
    assert world.head.undo.good
    assert world.head.undo.good.commit == BLUE_ONLY.commit


def test_traffic_is_back_before_git_is_touched() -> None:
    world = at_first_step()
    world.result = Result.FAIL
    world.stuck = True
    world.step()
    assert world.shares() == {"blue": 1000}
    assert world.head.undo
    assert world.head.undo.state == "wanted"
    world.stuck = False
    world.run()
    assert len(world.reverted) == 1


def test_the_bots_revert_commit_changes_no_traffic_and_starts_no_rollout() -> None:
    world = at_first_step()
    world.result = Result.FAIL
    world.run()
    before = world.head.rollout
    commit(world, replace(BLUE_ONLY, commit="c3".ljust(40, "0")))
    assert world.head.rollout == before
    assert world.shares() == {"blue": 1000}
    assert world.head.asked
    assert world.head.asked.commit.startswith("c3")


def test_a_failed_commit_is_not_tried_again_but_a_new_one_is() -> None:
    world = at_first_step()
    world.result = Result.FAIL
    world.run()
    failed = world.head.rollout
    world.result = Result.INCONCLUSIVE
    world.wait(500)
    assert world.head.rollout == failed
    commit(world, replace(GREEN_TOO, commit="d4".ljust(40, "0")))
    assert world.head.active
    assert world.head.active.commit.startswith("d4")


def test_a_revert_of_a_good_release_switches_at_once_without_a_workflow() -> None:
    world = promoted()
    rollouts = len(world.workflows)
    world.acking = False
    draft = world.draft()
    accept(draft, replace(BLUE_ONLY, commit="e5".ljust(40, "0")))
    world.keep(draft)
    world.step()
    assert world.shares() == {"blue": 1000}
    assert len(world.workflows) == rollouts


def test_a_revert_of_a_revert_passes_every_gate_again_but_is_not_built_again() -> None:
    world = promoted()
    commit(world, replace(BLUE_ONLY, commit="e5".ljust(40, "0")))
    world.result = None
    commit(world, replace(GREEN_TOO, commit="f6".ljust(40, "0")))
    assert world.head.active
    assert opened(world) == ["build", "smoke", "deploy", "mirror"]
    assert world.shares() == {"blue": 1000}


def test_a_rollback_to_a_cold_revision_starts_it_first_then_switches() -> None:
    world = commit(promoted(), target("d9", [GREEN], {"green": 100}))
    world.wait(FAST.keep_warm_s + 1)
    assert not [k for k in world.replicas if k[0] == BLUE.revision]
    world.broken.add(BLUE.revision)
    commit(world, replace(BLUE_ONLY, commit="e5".ljust(40, "0")))
    assert world.shares() == {"green": 1000}
    world.broken.clear()
    world.replicas = {k: replace(r, state=ReplicaState.READY) for k, r in world.replicas.items()}
    world.run()
    assert world.shares() == {"blue": 1000}


def test_a_newer_commit_supersedes_and_the_old_workflow_is_stopped() -> None:
    world = at_first_step()
    first = world.head.rollout.id if world.head.rollout else ""
    teal = deployment("teal")
    world.result = None
    commit(world, target("a7", [BLUE, GREEN, teal], {"teal": 100}))
    assert world.workflows[first] == "Failed"
    assert world.head.active
    assert world.head.active.plan.candidate == teal.revision
    assert world.head.active.start == {BLUE.revision: 950, GREEN.revision: 50}
    assert not world.reverted


def test_a_revert_during_a_step_goes_back_at_once() -> None:
    world = at_first_step()
    commit(world, replace(BLUE_ONLY, commit="e5".ljust(40, "0")))
    assert world.shares() == {"blue": 1000}
    assert world.state is State.SUPERSEDED
    assert not world.reverted


def test_a_smoke_test_that_fails_never_deploys() -> None:
    world = serving_blue()
    world.smoke_result = Result.FAIL
    commit(world, GREEN_TOO)
    assert world.state is State.FAILED
    assert opened(world) == ["build", "smoke"]
    assert not [k for k in world.replicas if k[0] == GREEN.revision]


def test_a_model_that_does_not_start_fails_in_smoke_with_its_reason() -> None:
    world = serving_blue()
    world.broken.add(GREEN.revision)
    commit(world, GREEN_TOO)
    assert world.state is State.FAILED
    assert "no luck" in (world.head.rollout.message if world.head.rollout else "")


def test_a_candidate_that_stays_unready_is_given_up_but_a_killed_replica_is_not() -> None:
    world = at_first_step()
    key = (GREEN.revision, Purpose.SERVE, 0)
    world.replicas[key] = replace(world.replicas[key], state=ReplicaState.RESTARTING)
    world.wait(1)
    world.replicas[key] = replace(world.replicas[key], state=ReplicaState.READY)
    world.wait(1)
    assert world.state is State.RUNNING
    world.replicas[key] = replace(world.replicas[key], state=ReplicaState.RESTARTING)
    world.wait(1)
    world.wait(UNREADY_GRACE_S + 1)
    assert world.state is State.FAILED
    assert world.shares() == {"blue": 1000}


def test_unreadiness_never_changes_the_split() -> None:
    world = serving_blue()
    key = (BLUE.revision, Purpose.SERVE, 0)
    world.replicas[key] = replace(world.replicas[key], state=ReplicaState.UNREADY)
    world.run()
    assert world.shares() == {"blue": 1000}
    assert world.route
    assert world.route.revisions[0].upstreams == ()


def test_no_step_is_live_before_every_router_acked_it() -> None:
    world = mirroring_green()
    world.result = Result.PASS
    world.acking = False
    world.wait(10)
    assert opened(world)[-1] == "step-5"
    world.wait(500)
    assert opened(world)[-1] == "step-5"
    assert world.head.rollout
    assert world.head.rollout.ops[-1].live_at is None


def test_a_paused_rollout_opens_nothing_but_still_fails() -> None:
    world = mirroring_green()
    draft = world.draft()
    operate(draft, "pause", who="ada", why="lunch")
    world.keep(draft)
    world.result = Result.PASS
    world.wait(500)
    assert opened(world)[-1] == "mirror"
    world.result = Result.FAIL
    world.run()
    assert world.state is State.FAILED


def test_promote_skips_the_soak_not_the_gate() -> None:
    world = at_first_step()
    draft = world.draft()
    operate(draft, "promote", who="ada", why="")
    world.keep(draft)
    world.run()
    assert opened(world)[-1] == "step-5"
    world.result = Result.PASS
    world.run()
    assert opened(world)[-1] == "step-50"


def test_abort_by_a_person_goes_back_and_reverts() -> None:
    world = at_first_step()
    draft = world.draft()
    operate(draft, "abort", who="ada", why="no")
    world.keep(draft)
    world.run()
    assert world.state is State.ABORTED
    assert world.shares() == {"blue": 1000}
    assert len(world.reverted) == 1


def test_an_operators_rollback_is_traffic_now_and_the_commit_follows() -> None:
    world = promoted()
    draft = world.draft()
    operate(draft, "rollback", who="ada", why="night")
    world.keep(draft)
    world.run()
    assert world.shares() == {"blue": 1000}
    assert len(world.reverted) == 1
    commit(world, replace(BLUE_ONLY, commit="e5".ljust(40, "0")))
    assert world.shares() == {"blue": 1000}


def test_a_workflow_that_is_lost_is_submitted_again() -> None:
    world = at_first_step()
    world.workflows.clear()
    world.run()
    assert list(world.workflows.values()) == ["Running"]
    assert world.state is State.RUNNING


def test_a_workflow_that_was_terminated_ends_the_rollout_but_leaves_git_alone() -> None:
    world = at_first_step()
    world.workflows = dict.fromkeys(world.workflows, "Failed")
    world.run()
    assert world.state is State.ABORTED
    assert world.shares() == {"blue": 1000}
    assert not world.reverted


def test_an_endpoint_taken_out_of_git_serves_until_its_grace_is_over() -> None:
    world = serving_blue()
    draft = world.draft()
    forget(draft, "9" * 40)
    world.keep(draft)
    world.wait(599)
    assert world.shares() == {"blue": 1000}
    world.wait(2)
    world.wait(10)
    assert world.shares() == {}
    world.run()
    assert not world.replicas
    assert world.route is None


def test_a_revert_inside_the_grace_changes_nothing() -> None:
    world = serving_blue()
    draft = world.draft()
    forget(draft, "9" * 40)
    world.keep(draft)
    world.wait(100)
    rollouts = len(world.workflows)
    commit(world, replace(BLUE_ONLY, commit="e5".ljust(40, "0")))
    world.wait(1000)
    assert world.shares() == {"blue": 1000}
    assert len(world.workflows) == rollouts


def test_removing_a_deployment_that_has_traffic_is_refused() -> None:
    world = serving_blue()
    commit(world, target("a2", [GREEN], {"green": 100}))
    assert [f.code for f in world.head.findings] == ["removal-with-traffic"]
    assert world.shares() == {"blue": 1000}


def test_two_new_candidates_in_one_commit_are_refused() -> None:
    world = serving_blue()
    commit(world, target("a2", [BLUE, GREEN, deployment("teal")], {"green": 50, "teal": 50}))
    assert [f.code for f in world.head.findings] == ["two-candidates"]


def test_run_settings_are_applied_in_place() -> None:
    world = serving_blue()
    rollouts = len(world.workflows)
    more = replace(BLUE, run=RunSettings(instance_count=3))
    commit(world, target("a2", [more], {"blue": 100}))
    assert len([k for k in world.replicas if k[1] is Purpose.SERVE]) == 3
    assert len(world.workflows) == rollouts


def test_a_deployment_at_zero_percent_is_built_and_ready_no_more() -> None:
    world = serving_blue()
    commit(world, target("a2", [BLUE, GREEN], {"blue": 100}))
    assert opened(world) == ["build", "smoke", "deploy", "finalize"]
    assert world.state is State.SUCCEEDED
    assert world.shares() == {"blue": 1000}
    assert (GREEN.revision, Purpose.SERVE, 0) in world.replicas


def test_draining_an_endpoint_is_one_move() -> None:
    world = serving_blue()
    commit(world, target("a2", [BLUE], {}))
    assert world.shares() == {}


def test_a_deployment_edited_in_place_is_a_rollout_between_two_revisions_of_one_name() -> None:
    world = serving_blue()
    edited = deployment("blue", "2")
    commit(world, target("a2", [edited], {"blue": 100}))
    assert world.head.active
    assert world.head.active.plan.candidate == edited.revision
    assert world.head.active.start == {BLUE.revision: 1000}


def test_an_op_asked_twice_answers_the_same_and_with_other_arguments_no() -> None:
    world = mirroring_green()
    first = world.ask("deploy", percent="0")
    assert (first.state, first) == (OpState.DONE, world.ask("deploy", percent="0"))
    assert world.ask("deploy", percent="7").state is OpState.NO


def test_an_op_out_of_order_is_told_no() -> None:
    world = mirroring_green()
    assert world.ask("step-100", "step", percent="100").state is OpState.LATER
    world = serving_blue()
    assert world.ask("mirror").state is OpState.NO


def test_a_step_cannot_be_left_out() -> None:
    world = mirroring_green()
    world.workflows = dict.fromkeys(world.workflows, "Pending")
    world.result = Result.PASS
    world.wait(10)
    reply = world.ask("step-100", "step", percent="100")
    assert (reply.state, "step-5" in reply.message) == (OpState.NO, True)


def test_the_head_survives_being_stored_and_read() -> None:
    world = promoted()
    assert codec.digest(world.head) == codec.digest(codec.decode(type(world.head), codec.canonical(world.head)))


def test_a_proven_deployment_that_gets_traffic_again_is_mirrored_and_stepped_without_a_build() -> None:
    world = commit(promoted(), target("c3", [BLUE, GREEN], {"blue": 50, "green": 50}))
    world.result = Result.PASS
    for _ in range(6):
        world.wait(10)
    assert opened(world) == ["mirror", "step-5", "step-50", "step-100", "finalize"]
    assert world.state is State.SUCCEEDED
    assert world.shares() == {"blue": 500, "green": 500}


def test_a_revert_of_a_drain_is_traffic_at_once() -> None:
    world = serving_blue()
    commit(world, target("d2", [BLUE], {}))
    assert world.shares() == {}
    rollouts = len(world.workflows)
    commit(world, replace(BLUE_ONLY, commit="e5".ljust(40, "0")))
    assert world.shares() == {"blue": 1000}
    assert len(world.workflows) == rollouts


def test_an_endpoint_drained_and_removed_in_one_look_comes_to_rest() -> None:
    world = serving_blue()
    draft = world.draft()
    accept(draft, target("d2", [BLUE], {}))
    forget(draft, "9" * 40)
    world.keep(draft)
    world.wait(1)
    world.wait(20)
    assert world.shares() == {}
    assert not world.replicas


def test_the_oldest_idle_revisions_are_forgotten_first() -> None:
    world = serving_blue()
    for number in range(KEPT_RELEASES + KEPT_REVISIONS + 5):
        world.now += 1_000
        commit(world, target(f"{number:x}e", [BLUE, deployment("extra", str(number))], {"blue": 100}))
        world.wait(FAST.keep_warm_s + 1)
    contents = {deployment("extra", str(n)).revision: n for n in range(KEPT_RELEASES + KEPT_REVISIONS + 5)}
    kept = sorted(contents[r] for r in world.head.revisions if r in contents)
    assert kept[-1] == KEPT_RELEASES + KEPT_REVISIONS + 4
    assert kept == list(range(kept[0], kept[-1] + 1))
    assert kept[0] > 0


def test_the_same_commit_again_is_another_attempt_with_another_workflow() -> None:
    world = at_first_step()
    first = world.head.rollout.id if world.head.rollout else ""
    draft = world.draft()
    operate(draft, "abort", who="ada", why="")
    world.keep(draft)
    world.run()
    commit(world, GREEN_TOO)
    assert world.head.active
    assert world.head.active.id == first.replace("-1", "-2")


def test_the_next_moment_is_the_end_of_the_soak_then_of_patience_then_none() -> None:
    world = mirroring_green()
    op = world.head.rollout.ops[-1] if world.head.rollout else None
    assert op is not None
    assert op.live_at is not None
    soak_s = GREEN_TOO.process.mirror.soak_s
    assert next_at(world.head, world.now) == op.live_at + soak_s
    assert next_at(world.head, op.live_at + soak_s) == op.live_at + GREEN_TOO.process.max_soak_s
    assert next_at(world.head, op.live_at + GREEN_TOO.process.max_soak_s) is None


def test_the_next_moment_of_what_is_kept_warm_is_its_end() -> None:
    world = commit(serving_blue(), target("b2", [deployment("blue", "2")], {"blue": 100}))
    world.result = Result.PASS
    for _ in range(6):
        world.wait(10)
    warm = [s.warm_until for s in world.head.revisions.values() if s.warm_until is not None]
    assert next_at(world.head, world.now) == min(warm)


def test_the_next_moment_of_an_endpoint_at_rest_is_none() -> None:
    world = serving_blue()
    assert next_at(world.head, world.now) is None
    world.forget()
    assert next_at(world.head, world.now, removal_grace_s=600) == world.now + 600

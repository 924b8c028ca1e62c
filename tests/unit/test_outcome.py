"""How a rollout ends, and what that does to traffic, revisions and git."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.evidence import Result
from headgate.outcome import SHORT, UNDRAINED_GRACE_S, fail, spare
from headgate.rollout import KEPT_RELEASES, State
from headgate.testing import FAST, World, deployment, target, verdict

BLUE, GREEN = deployment("blue"), deployment("green")
BLUE_ONLY = target("b1", [BLUE], {"blue": 100})
GREEN_TOO = target("a2", [BLUE, GREEN], {"green": 100})


def mirroring(on_failure: str = "revert") -> World:
    process = replace(FAST, on_failure=on_failure)
    world = World(result=Result.INCONCLUSIVE).commit(BLUE_ONLY)
    return world.commit(replace(GREEN_TOO, process=process))


def test_each_attempt_of_a_commit_is_a_workflow_of_its_own() -> None:
    world = mirroring()
    first = world.head.rollout
    world.operate("abort").run()
    world.commit(BLUE_ONLY).commit(GREEN_TOO)
    assert first
    assert world.head.rollout
    assert (first.attempt, world.head.rollout.attempt) == (1, 2)
    assert first.id != world.head.rollout.id


@pytest.mark.parametrize(("mode", "owed"), [("revert", "revert"), ("revert-pr", "revert-pr"), ("hold", None)])
def test_what_is_owed_to_git_is_the_processes_choice_and_traffic_goes_back_always(mode: str, owed: str | None) -> None:
    world = mirroring(mode)
    world.result = Result.FAIL
    world.run()
    assert (world.state, world.shares()) == (State.FAILED, {"blue": 1000})
    assert (world.head.undo.mode if world.head.undo else None) == owed


def test_a_commit_that_asks_for_the_same_with_another_process_is_taken_back_with_what_failed() -> None:
    world = mirroring()
    newer = replace(GREEN_TOO, commit="a3".ljust(40, "0"), process=replace(FAST, soak_s=1.0))
    world.commit(newer).operate("abort").run()
    assert world.head.undo
    assert world.head.undo.failed == newer
    assert world.head.undo.op_key.startswith("ro-fraud-a2")


def test_a_workflow_that_ended_early_is_not_the_commits_fault() -> None:
    world = mirroring()
    draft = world.draft()
    fail(draft, "its workflow ended", state=State.ABORTED, git=False)
    assert draft.head.undo is None
    assert draft.head.rollout
    assert draft.head.stopping == (draft.head.rollout.id,)


def test_a_new_attempt_forgets_what_an_old_one_owed() -> None:
    world = mirroring()
    world.result = Result.FAIL
    world.run()
    assert world.head.undo
    world.result = Result.INCONCLUSIVE
    world.commit(replace(GREEN_TOO, commit="a3".ljust(40, "0")))
    assert (world.state, world.head.undo) == (State.RUNNING, None)


def test_a_failed_revision_is_not_known_good_even_when_it_was() -> None:
    """A candidate that was live before and fails now, though nothing of it was built again."""
    both = target("b1", [BLUE, GREEN], {"blue": 50, "green": 50})
    world = World(result=Result.PASS).commit(both)
    world.result = Result.FAIL
    world.commit(target("a2", [BLUE, GREEN], {"blue": 10, "green": 90}))
    assert world.state is State.FAILED
    assert world.head.revisions[GREEN.revision].known_good is False
    assert world.head.revisions[GREEN.revision].failed.startswith("error-rate failed at step-5")
    assert world.head.revisions[BLUE.revision].known_good is True


def test_a_failed_candidate_ends_after_a_moment_to_finish_although_git_still_asks_for_it() -> None:
    world = mirroring("hold")
    world.result = Result.FAIL
    world.run()
    state = world.head.revisions[GREEN.revision]
    assert (state.running, state.warm_until) == (True, world.now + UNDRAINED_GRACE_S)
    world.wait(UNDRAINED_GRACE_S)
    assert world.head.revisions[GREEN.revision].running is False


def test_what_is_kept_warm_for_no_time_still_finishes_what_it_was_asked() -> None:
    world = World().commit(BLUE_ONLY)
    draft = world.draft()
    draft.set(traffic={}, asked=None)
    spare(draft, keep=set(), warm_s=0.0)
    assert draft.head.revisions[BLUE.revision].warm_until == draft.now + UNDRAINED_GRACE_S


def test_a_success_clears_what_a_revision_failed_of() -> None:
    world = mirroring()
    world.result = Result.FAIL
    world.run()
    assert world.head.revisions[GREEN.revision].failed
    world.result = Result.PASS
    world.commit(replace(GREEN_TOO, commit="a3".ljust(40, "0")))
    for _ in range(7):
        world.wait(10)
    assert world.state is State.SUCCEEDED
    assert world.head.revisions[GREEN.revision].failed == ""


def test_releases_are_kept_newest_last_each_once_and_not_for_ever() -> None:
    world = World(result=Result.PASS)
    for number in range(KEPT_RELEASES + 3):
        world.commit(target(f"c{number}", [BLUE], {"blue": 100}, process=replace(FAST, soak_s=float(number))))
    assert len(world.head.releases) == 1, "the same state asked by many commits is one release"
    for number in range(KEPT_RELEASES + 3):
        world.commit(target(f"d{number}", [deployment("blue", instances=number + 2)], {"blue": 100}))
    assert len(world.head.releases) == KEPT_RELEASES
    assert world.head.stable
    assert world.head.stable.target.commit.startswith(f"d{KEPT_RELEASES + 2}")


def test_a_state_that_is_live_again_is_the_newest_release_and_not_a_second_one() -> None:
    world = World(result=Result.PASS).commit(BLUE_ONLY).commit(GREEN_TOO)
    for _ in range(7):
        world.wait(10)
    assert [r.target.commit for r in world.head.releases] == [BLUE_ONLY.commit, GREEN_TOO.commit]
    world.commit(replace(BLUE_ONLY, commit="b9".ljust(40, "0")))
    assert [r.target.commit[:2] for r in world.head.releases] == ["a2", "b9"]


def test_a_reason_is_one_short_line() -> None:
    world = mirroring()
    draft = world.draft()
    fail(draft, "x" * 500 + "\nand a log", verdicts=())
    assert draft.head.undo
    assert draft.head.undo.reason == f"fraud: {'x' * (SHORT - 1)}…"
    draft = world.draft()
    fail(draft, "long", verdicts=(verdict(Result.FAIL, "latency-p99"), verdict(Result.FAIL)))
    assert draft.head.undo
    assert draft.head.undo.reason == "fraud: latency-p99, error-rate failed at mirror"

"""What git and people may ask for: taken up, refused, done at once, or taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.decide import step
from headgate.draft import Draft
from headgate.evidence import Result
from headgate.findings import Finding, Place, Severity
from headgate.intent import accept, forget, operate, reject, release_to
from headgate.rollout import Head, State
from headgate.testing import World, deployment, target

BLUE, GREEN, TEAL = deployment("blue"), deployment("green"), deployment("teal")
BLUE_ONLY = target("b1", [BLUE], {"blue": 100})
GREEN_TOO = target("a2", [BLUE, GREEN], {"green": 100})
BAD = Finding(
    "traffic-sum", "adds up to 95", "a request would fall in a gap", "make it 100", Place("endpoint.yml", 3, 1)
)


def promoted(*targets: object) -> World:
    world = World(result=Result.PASS)
    for wanted in targets:
        world.commit(wanted)  # type: ignore[arg-type]
        for _ in range(7):
            world.wait(10)
        assert world.state is State.SUCCEEDED
    return world


def test_a_removal_is_done_when_its_grace_is_over_and_not_before() -> None:
    world = promoted(BLUE_ONLY).forget()
    world.wait(599.5)
    assert world.shares() == {"blue": 1000}
    world.wait(0.5)
    assert world.shares() == {}


def test_a_removed_endpoint_keeps_nothing_warm() -> None:
    warm = replace(GREEN_TOO.process, keep_warm_s=7_200)
    world = promoted(BLUE_ONLY, GREEN_TOO).commit(target("a3", [GREEN], {"green": 100}, process=warm)).forget()
    for _ in range(2):
        world.wait(600)  # the grace; then what was open is answered
    assert [state for state in world.head.revisions.values() if state.running] == []


def test_a_removed_endpoint_owes_git_nothing() -> None:
    world = promoted(BLUE_ONLY).commit(GREEN_TOO)
    world.result = Result.FAIL
    world.run()
    assert world.head.undo
    draft = world.draft()
    draft.set(undo=replace(world.head.undo, state="wanted"), removing_since=world.now - 600)
    step(draft, world.seen())
    assert draft.head.undo is None


def test_asking_again_for_the_removal_does_not_begin_the_grace_anew() -> None:
    world = promoted(BLUE_ONLY).forget()
    since = world.head.removing_since
    world.wait(300)
    assert world.forget().head.removing_since == since


def test_an_endpoint_never_taken_up_is_forgotten_at_once() -> None:
    draft = Draft(Head("fraud"), 1.0)
    reject(draft, "c1", (BAD,))
    forget(draft, "c2")
    assert (draft.head.findings, draft.head.removing_since) == ((), None)


def test_a_rejected_commit_names_its_first_error() -> None:
    draft = Draft(Head("fraud"), 1.0)
    reject(draft, "c" * 40, (replace(BAD, message="beware", severity=Severity.WARNING), BAD))
    assert (draft.head.commit, len(draft.head.findings)) == ("c" * 40, 2)
    assert [(e.kind, e.message) for e in draft.events] == [("commit.rejected", "cccccccccc: adds up to 95")]


def test_draining_waits_for_no_workflow() -> None:
    world = promoted(BLUE_ONLY)
    world.stuck = True  # whatever is decided beyond the record is not done
    world.commit(target("a2", [BLUE], {}))
    assert world.shares() == {}


def test_a_revision_asked_for_again_is_no_longer_only_warm() -> None:
    world = promoted(BLUE_ONLY, GREEN_TOO).commit(target("a3", [GREEN], {"green": 100}))
    assert world.head.revisions[BLUE.revision].warm_until is not None
    draft = world.draft()
    accept(draft, target("a4", [BLUE, GREEN], {"blue": 50, "green": 50}))
    assert draft.head.active
    assert draft.head.revisions[BLUE.revision].warm_until is None


def test_a_rollback_goes_to_the_newest_known_good_state_that_is_not_live() -> None:
    last = target("a3", [BLUE, GREEN, TEAL], {"teal": 100})
    world = promoted(BLUE_ONLY, GREEN_TOO, last)
    assert release_to(world.head, "").target.commit == GREEN_TOO.commit
    world.operate("rollback").run()
    assert world.shares() == {"green": 1000}


@pytest.mark.parametrize("to", [BLUE.revision, BLUE.revision[:8], BLUE_ONLY.commit, "b1"])
def test_a_rollback_goes_where_it_is_told(to: str) -> None:
    world = promoted(BLUE_ONLY, GREEN_TOO, target("a3", [BLUE, GREEN, TEAL], {"teal": 100}))
    assert world.operate("rollback", to=to).run().shares() == {"blue": 1000}


def test_a_rollback_to_nowhere_is_refused_with_why() -> None:
    world = promoted(BLUE_ONLY)
    with pytest.raises(ValueError, match="there is no known-good state of fraud to go back to"):
        world.operate("rollback")
    with pytest.raises(ValueError, match="cafe is no known-good state of fraud"):
        world.operate("rollback", to="cafe")


def test_a_rollback_of_git_only_moves_no_traffic_by_itself() -> None:
    world = promoted(BLUE_ONLY, GREEN_TOO).operate("rollback", git_only=True)
    assert (world.head.switch, world.head.undo is not None) == (None, True)
    assert world.run().shares() == {"green": 1000}


def test_a_rollback_to_what_git_asks_owes_no_commit() -> None:
    world = promoted(BLUE_ONLY, GREEN_TOO)
    draft = world.draft()
    draft.set(traffic={BLUE.revision: 1000}, undo=None)
    operate(draft, "rollback", who="ada", why="")
    assert (draft.head.switch, draft.head.undo) == (GREEN_TOO, None)


def test_promoted_in_full_stays_so() -> None:
    world = promoted(BLUE_ONLY)
    world.result = Result.INCONCLUSIVE
    world.commit(GREEN_TOO).operate("promote", full=True).operate("promote")
    assert world.head.active
    assert world.head.active.hurried


@pytest.mark.parametrize("action", ["pause", "resume", "promote", "abort"])
def test_without_a_rollout_there_is_nothing_to_act_on(action: str) -> None:
    with pytest.raises(ValueError, match="fraud has no running rollout"):
        promoted(BLUE_ONLY).operate(action)


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown action explode"):
        promoted(BLUE_ONLY).commit(GREEN_TOO).operate("explode")


def test_the_candidate_of_a_running_rollout_may_be_taken_out_again() -> None:
    world = promoted(BLUE_ONLY).commit(GREEN_TOO)
    world.wait(10)
    world.result = Result.INCONCLUSIVE
    assert world.shares() == {"blue": 950, "green": 50}
    draft = world.draft()
    accept(draft, target("c3", [BLUE, TEAL], {"blue": 50, "teal": 50}))
    assert draft.head.findings == ()
    assert draft.head.active
    assert draft.head.active.plan.candidate == TEAL.revision


def test_asking_for_what_is_live_after_a_failure_is_no_new_attempt() -> None:
    world = promoted(BLUE_ONLY)
    drained = target("a2", [BLUE, GREEN], {"blue": 100})
    world.broken.add(GREEN.revision)
    world.commit(drained)
    assert world.state is State.FAILED
    failed = world.head.rollout
    world.commit(replace(drained, commit="a3".ljust(40, "0")))
    assert world.head.rollout == failed


def test_a_newer_commit_takes_back_a_switch_that_waits() -> None:
    world = promoted(BLUE_ONLY, GREEN_TOO)
    draft = world.draft()
    draft.set(switch=BLUE_ONLY)
    accept(draft, target("c3", [BLUE, GREEN, TEAL], {"teal": 100}))
    assert (draft.head.switch, draft.head.active is not None) == (None, True)

"""What must be done so that the world is as the head says."""

from __future__ import annotations

from dataclasses import replace

from headgate.actions import AskSmoke, End, EndSmoke, Revert, Run, StartSmoke, StopWorkflow, Submit, actions
from headgate.draft import Seen
from headgate.evidence import Result
from headgate.testing import World, deployment, target, verdict
from headgate.workload import Artifact, Purpose, Replica, ReplicaState

BLUE, GREEN = deployment("blue"), deployment("green")


def serving() -> World:
    return World().commit(target("b1", [BLUE], {"blue": 100}))


def mirroring() -> World:
    return serving().commit(target("a2", [BLUE, GREEN], {"green": 100}))


def replica(revision: str, purpose: Purpose = Purpose.SERVE, state: ReplicaState = ReplicaState.READY) -> Replica:
    return Replica("fraud", "x", revision, 0, purpose, state, "http://r")


def test_at_rest_what_runs_is_asked_for_again_and_nothing_else() -> None:
    world = serving()
    assert actions(world.head, world.seen()) == (Run(BLUE.revision),)


def test_nothing_that_is_not_built_is_started() -> None:
    world = serving()
    draft = world.draft()
    draft.revision(BLUE.revision, artifact=None)
    assert Run(BLUE.revision) not in actions(draft.head, world.seen())


def test_replicas_end_only_once_every_router_has_seen_them_leave() -> None:
    world = serving()
    assert world.route
    stray = replica("r-old")
    routed = replace(world.route, generation=7, revisions=(replace(world.route.revisions[0], revision="r-old"),))
    gone = replace(world.route, generation=8)
    for route, acked, ends in ((routed, 7, False), (gone, 7, False), (gone, 8, True), (None, 0, True)):
        seen = replace(world.seen(), replicas=(stray,), route=route, acked=acked)
        assert (End("r-old") in actions(world.head, seen)) is ends, (route, acked)


def test_what_has_traffic_never_ends_whatever_else_is_said() -> None:
    world = serving()
    draft = world.draft()
    draft.revision(BLUE.revision, running=False)
    assert actions(draft.head, replace(world.seen(), route=None)) == ()


def test_a_smoke_test_is_started_asked_once_and_ended() -> None:
    world = mirroring()
    draft = world.draft()
    assert draft.head.rollout
    op = replace(draft.head.rollout.ops[0], name="smoke", verb="smoke", state=draft.head.rollout.ops[-1].state)
    draft.rollout(ops=(op,))
    draft.revision(GREEN.revision, smoked=False, running=False, artifact=Artifact("g", "x"))
    name = GREEN.revision
    starting = replica(name, Purpose.SMOKE, ReplicaState.STARTING)
    ready = replica(name, Purpose.SMOKE)

    seen = replace(world.seen(), smokes={})

    def smokes(seen: Seen) -> list[object]:
        return [a for a in actions(draft.head, seen) if isinstance(a, StartSmoke | AskSmoke | EndSmoke)]

    assert smokes(replace(seen, replicas=())) == [StartSmoke(name)]
    assert smokes(replace(seen, replicas=(starting,))) == [StartSmoke(name)]
    assert smokes(replace(seen, replicas=(ready,))) == [StartSmoke(name), AskSmoke(name, "http://r")]
    answered = replace(seen, replicas=(ready,), smokes={name: verdict(Result.PASS)})
    assert smokes(answered) == [StartSmoke(name)]
    draft.revision(name, smoked=True)
    assert smokes(answered) == [EndSmoke(name)]


def test_a_workflow_is_submitted_until_the_engine_knows_it() -> None:
    world = mirroring()
    assert world.head.active
    name = world.head.active.id
    assert Submit(name) in actions(world.head, replace(world.seen(), workflows={}))
    assert Submit(name) not in actions(world.head, replace(world.seen(), workflows={name: "Pending"}))


def test_what_is_owed_is_done_until_it_is_recorded() -> None:
    world = mirroring()
    world.result = Result.FAIL
    world.run()
    assert world.head.undo
    owed = replace(world.head, undo=replace(world.head.undo, state="wanted"), stopping=("ro-old-1",))
    found = actions(owed, world.seen())
    assert found[-2:] == (StopWorkflow("ro-old-1"), Revert(world.head.undo.op_key))
    for state in ("done", "refused"):
        undo = replace(world.head.undo, state=state)
        assert not [a for a in actions(replace(owed, undo=undo), world.seen()) if isinstance(a, Revert)]

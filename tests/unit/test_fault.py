"""A fault of the installation holds a rollout with a finding, and never reverts a commit. What the revision itself
does, does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.evidence import Result
from headgate.fault import CODE, FIX, Fault, Held, finding
from headgate.rollout import State
from headgate.surge import SWAP
from headgate.target import Target
from headgate.testing import FAST, World, deployment, target
from headgate_controllers.status import endpoint_status

BLUE, GREEN = deployment("blue"), deployment("green")
EDITED = deployment("blue", content="another")


def serving() -> World:
    return World(result=Result.INCONCLUSIVE).commit(target("b1", [BLUE], {"blue": 100}))


def codes(world: World) -> list[str]:
    found = endpoint_status(
        world.head, url="", route=world.route, acked=world.acked, replicas=tuple(world.replicas.values()), observed={}
    )
    return [one.code for one in found.findings]


def both() -> Target:
    return target("a2", [BLUE, GREEN], {"green": 100})


@pytest.mark.parametrize("fault", list(Fault))
def test_each_fault_holds_a_smoke_test_and_lets_go_of_it_when_it_is_mended(fault: Fault) -> None:
    world = serving()
    world.broken, world.fault = {GREEN.revision}, fault
    world.commit(both())
    assert (world.state, codes(world)) == (State.RUNNING, [CODE])
    world.wait(10_000)
    assert (world.state, world.head.undo, world.shares()) == (State.RUNNING, None, {"blue": 1000})
    said = finding("fraud", "smoke", Held(fault, "why\nand more"))
    assert (said.message, FIX[fault] in said.fix) == ("smoke waits: why", True)
    world.broken = set()
    world.replicas.clear()
    world.run()
    op = world.head.active.running if world.head.active else None
    assert op is not None
    assert (op.verb, codes(world)) == ("mirror", [])


def test_a_replica_that_dies_by_itself_takes_its_commit_back() -> None:
    world = serving()
    world.broken = {GREEN.revision}
    world.commit(both())
    assert world.state is State.FAILED
    assert world.reverted, "the same but for the fault"


def test_a_sample_request_that_gets_to_nobody_is_waited_for() -> None:
    world = serving()
    world.unasked = Held(Fault.CERTIFICATES, "its certificate was refused")
    world.commit(both())
    assert (world.state, codes(world), world.reverted) == (State.RUNNING, [CODE], [])
    assert [e.message for e in world.events if e.kind == "op.held"] == [
        "waits for the installation: its certificate was refused"
    ]
    world.unasked = None
    world.run()
    assert (codes(world), [e.kind for e in world.events].count("op.held")) == ([], 2)


def test_deploy_is_held_too() -> None:
    world = serving()
    world.pool = 2
    world.commit(target("a2", [BLUE, deployment("green", instances=2)], {"green": 100}))
    world.broken, world.fault, world.pool = {GREEN.revision}, Fault.IMAGE, 100
    world.wait(10_000)
    op = world.head.active.running if world.head.active else None
    assert op is not None
    assert (op.verb, codes(world), world.reverted) == ("deploy", [CODE], [])


def test_a_swap_that_cannot_be_tried_goes_back_and_leaves_the_commit() -> None:
    process = replace(FAST, capacity=SWAP)
    world = World(result=Result.INCONCLUSIVE).commit(target("b1", [BLUE], {"blue": 100}, process=process))
    world.broken, world.fault = {EDITED.revision}, Fault.IMAGE
    world.commit(target("a2", [EDITED], {"blue": 100}, process=process))
    assert (world.state, world.reverted, world.head.undo) == (State.ABORTED, [], None)
    assert dict(world.head.traffic) == {BLUE.revision: 1000}
    assert {r.revision for r in world.replicas.values()} == {BLUE.revision}, "callers are answered again"


def test_a_newer_commit_ends_the_wait() -> None:
    world = serving()
    world.broken, world.fault = {GREEN.revision}, Fault.IMAGE
    world.commit(both())
    world.commit(target("a3", [BLUE], {"blue": 100}))
    assert (codes(world), world.shares(), world.reverted) == ([], {"blue": 1000}, [])

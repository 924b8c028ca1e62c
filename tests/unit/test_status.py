"""What people read of an endpoint, in each of its states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from headgate.control import EndpointStatus
from headgate.evidence import Result, Verdict
from headgate.findings import Finding, Place
from headgate.rollout import Head
from headgate.testing import FAST, World, deployment, target
from headgate.workload import ReplicaState
from headgate_controllers.status import agrees_with_git, endpoint_status, held

BLUE, GREEN = deployment("blue"), deployment("green")
B, G = BLUE.revision, GREEN.revision
GREEN_TOO = target("a2", [BLUE, GREEN], {"green": 100})


def serving() -> World:
    return World(result=Result.INCONCLUSIVE).commit(target("b1", [BLUE], {"blue": 100}))


def mirroring() -> World:
    return serving().commit(GREEN_TOO)


def read(world: World, head: Head | None = None, observed: Mapping[str, int] | None = None) -> EndpointStatus:
    return endpoint_status(
        head or world.head,
        url="http://r/endpoints/fraud/score",
        route=world.route,
        acked=world.acked,
        replicas=tuple(world.replicas.values()),
        observed=observed or {},
    )


def test_an_endpoint_at_rest_is_healthy_and_synced() -> None:
    status = read(serving(), observed={B: 300})
    assert (status.state, status.sync, status.message) == ("Healthy", "Synced", "")
    (row,) = status.revisions
    assert (row.role, row.per_mille, row.observed, row.ready, row.instances) == ("stable", 1000, 1.0, 1, 1)


def test_a_mirror_says_what_it_waits_for() -> None:
    status = read(mirroring(), observed={B: 3, G: 1})
    assert (status.state, status.sync) == ("Mirroring", "OutOfSync")
    assert status.message == "mirror: error-rate: more requests"
    assert {r.deployment: (r.role, r.mirror_per_mille, r.observed) for r in status.revisions} == {
        "blue": ("stable", 0, 0.75),
        "green": ("candidate", 500, 0.25),
    }
    assert status.rollout
    assert [op.state for op in status.rollout.ops] == ["passed"] * 3 + ["running"] + ["waiting"] * 4


def test_an_op_without_a_request_says_so_instead_of_what_each_gate_lacks() -> None:
    world = mirroring()
    none = {"candidate_requests": 0.0}
    unheard = Verdict("minimum-evidence", "1", "mirror", {}, 0.01, Result.INCONCLUSIVE, "0 were seen", none)
    rollout = world.head.rollout
    assert rollout
    op = replace(rollout.ops[-1], verdicts=(unheard,))
    said = held(op)
    assert said.startswith("mirror: no request to judge by yet")
    assert held(replace(op, verdicts=(replace(unheard, figures={"candidate_requests": 7.0}),))) == (
        "mirror: minimum-evidence: 0 were seen"
    )


def test_a_step_progresses_and_a_pause_is_said() -> None:
    world = mirroring()
    world.result = Result.PASS
    world.wait(10)
    assert (read(world).state, read(world).message) == ("Progressing", "step-5: soaking")
    paused = read(world.operate("pause"))
    assert paused.rollout
    assert (paused.state, paused.rollout.state) == ("Paused", "paused")


def test_what_a_rollout_would_go_back_to_is_the_stable_also_without_traffic() -> None:
    world = mirroring()
    world.result = Result.PASS
    for _ in range(3):
        world.wait(10)
    rollout = world.head.active
    assert rollout
    assert (rollout.ops[-1].name, world.shares()) == ("step-100", {"green": 1000})
    assert {r.deployment: (r.role, r.per_mille) for r in read(world).revisions} == {
        "green": ("candidate", 1000),
        "blue": ("stable", 0),
    }


def test_a_rollback_whose_commit_is_still_to_come_says_so() -> None:
    world = mirroring()
    world.result = Result.PASS
    for _ in range(6):
        world.wait(10)
    world.operate("rollback").run()
    owed = world.head.undo
    assert owed
    status = read(world, replace(world.head, undo=replace(owed, state="wanted", result="")))
    assert (status.state, status.message) == ("Healthy", "traffic is back; the revert in git is still to be made")


def test_a_rollout_yml_that_comes_while_a_rollout_runs_is_said_to_count_later() -> None:
    world = mirroring()
    first = world.head.rollout
    asked = target("a3", [BLUE, GREEN], {"green": 100}, process=replace(FAST, soak_s=1.0))
    status = read(world.commit(asked))
    assert (world.head.rollout, status.sync, status.commit) == (first, "OutOfSync", asked.commit)
    (finding,) = status.findings
    assert (finding.code, finding.is_error) == ("process-later", False)
    assert finding.message == f"rollout.yml of {asked.commit[:10]} counts from the next rollout on"
    assert "process.later" in [event.kind for event in world.events]
    assert read(mirroring().commit(replace(GREEN_TOO, commit="a3".ljust(40, "0")))).findings == ()


def test_a_failure_is_rolled_back_and_names_its_revert() -> None:
    world = mirroring()
    world.result = Result.FAIL
    world.run()
    status = read(world)
    assert status.rollout
    assert (status.state, status.sync, status.rollout.reverted_by) == ("RolledBack", "OutOfSync", "revert-commit")
    assert "error-rate failed at mirror" in status.message
    assert [r.message for r in status.revisions if r.deployment == "green"] == [world.head.revisions[G].failed]


def test_what_failed_before_is_not_said_of_what_is_tried_again() -> None:
    world = mirroring()
    world.operate("abort").run()
    assert [r.message for r in read(world).revisions if r.deployment == "green"] == ["abort by ada"]
    world.commit(replace(GREEN_TOO, commit="a3".ljust(40, "0")))
    assert "abort by ada" not in [r.message for r in read(world).revisions]


def test_a_live_revision_without_a_ready_replica_is_degraded() -> None:
    world = serving()
    world.replicas = {
        k: replace(r, state=ReplicaState.RESTARTING, message="out of memory") for k, r in world.replicas.items()
    }
    status = read(world)
    assert (status.state, status.message) == ("Degraded", "no ready replica of blue: out of memory")
    assert (status.revisions[0].ready, status.revisions[0].message) == (0, "out of memory")


def test_what_keeps_a_new_revision_from_starting_is_said_while_it_is_waited_for() -> None:
    world = serving()
    world.pool = 1
    world.commit(GREEN_TOO)
    assert world.head.active is not None
    assert world.head.active.running is not None
    world.replicas = {
        k: replace(r, message="its image cannot be pulled: not found\nat the registry") if r.revision == G else r
        for k, r in world.replicas.items()
    }
    status = read(world)
    assert (status.state, status.message) == ("Progressing", "smoke: its image cannot be pulled: not found")


def test_at_rest_is_said_only_when_every_router_worker_serves_what_is_recorded() -> None:
    world = serving()
    world.acked -= 1
    assert (read(world).state, read(world).message) == (
        "Progressing",
        f"router workers are taking generation {world.generation}",
    )
    world.acked = 0
    assert (read(world).state, read(world).message) == ("Progressing", "no router worker is heard of")
    moved = replace(serving().head, traffic={G: 1000}, revisions=mirroring().head.revisions)
    assert read(mirroring(), replace(moved, rollout=None)).message == "the route table is about to change"


def test_states_of_an_endpoint_that_serves_nobody() -> None:
    world = World()
    assert read(world, Head("fraud", commit="c")).state == "Pending"
    assert (read(world, Head("fraud", commit="c")).sync, read(world).generation) == ("Synced", 0)
    drained = serving().commit(target("a2", [BLUE], {}))
    assert read(drained).state == "Drained"


def test_removal_and_going_back_are_said_before_all_else() -> None:
    world = serving()
    assert read(world.forget()).state == "Removing"
    head = replace(serving().head, switch=target("b0", [BLUE], {"blue": 100}))
    assert read(world, head).message == "going back to a known-good state"


def test_a_rejected_commit_is_not_synced() -> None:
    world = serving()
    finding = Finding("traffic-sum", "adds up to 95", "", "", Place("endpoint.yml"))
    status = read(world, replace(world.head, findings=(finding,)))
    assert (status.sync, status.state, status.findings) == ("Rejected", "Healthy", (finding,))


def test_git_and_record_are_to_agree_only_when_nothing_explains_a_difference() -> None:
    assert agrees_with_git(serving().head)
    assert not agrees_with_git(mirroring().head)
    failed = mirroring()
    failed.result = Result.FAIL
    failed.run()
    assert not agrees_with_git(failed.head)
    reverted = failed.commit(replace(target("b1", [BLUE], {"blue": 100}), commit="c" * 40))
    assert agrees_with_git(reverted.head)
    error = Finding("yaml-syntax", "not YAML", "", "", Place("endpoint.yml"))
    assert not agrees_with_git(replace(serving().head, findings=(error,)))

"""What an op is told: done, wait, later, no, or do this work. The same however often it asks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headgate import codec
from headgate.asks import ask
from headgate.control import OpReply, OpRequest, OpState
from headgate.draft import Draft
from headgate.evidence import PairKind, Result
from headgate.findings import Finding, Place
from headgate.intent import accept
from headgate.rollout import OpEnd, State
from headgate.testing import World, deployment, target
from headgate.testing.values import verdict
from headgate.workload import Artifact

BLUE, GREEN, TEAL = deployment("blue"), deployment("green"), deployment("teal")
GREEN_TOO = target("a2", [BLUE, GREEN], {"green": 100})


def serving() -> World:
    return World().commit(target("b1", [BLUE], {"blue": 100}))


def mirroring() -> World:
    return serving().commit(GREEN_TOO)


def begun(world: World, wanted: Any = GREEN_TOO) -> Draft:
    """A rollout of which no op was opened."""
    draft = world.draft()
    accept(draft, wanted)
    return draft


def asked(draft: Draft, op: str, verb: str = "", result: Any = None, **arguments: str) -> OpReply:
    assert draft.head.rollout
    request = OpRequest(f"{draft.head.rollout.id}/{op}", "fraud", arguments, result=result)
    return ask(draft, verb or op.partition("-")[0], request)


def built(*deployments: Any) -> dict[str, Any]:
    return {"artifacts": {d.revision: codec.to_data(Artifact(d.revision, "bundles/x")) for d in deployments}}


def test_an_op_of_another_rollout_is_told_no_and_closing_one_is_done() -> None:
    draft = begun(serving())
    before = draft.head
    stale = OpRequest("ro-fraud-of-old-1/build", "fraud")
    assert ask(draft, "build", stale).state is OpState.NO
    assert ask(draft, "close", stale).state is OpState.DONE
    assert draft.head == before


def test_a_pause_keeps_the_next_op_waiting() -> None:
    draft = begun(serving())
    draft.rollout(paused=True)
    assert asked(draft, "build").state is OpState.WAIT
    assert draft.head.rollout
    assert draft.head.rollout.ops == ()


@pytest.mark.parametrize("verb", ["explode", "smoke", "deploy", "mirror", "step", "finalize"])
def test_nothing_comes_before_the_build(verb: str) -> None:
    reply = asked(begun(serving()), verb, verb)
    assert (reply.state, reply.message) == (OpState.NO, f"{verb} is not legal here: passed so far: nothing yet")


def test_a_build_names_only_what_was_not_built() -> None:
    draft = begun(serving(), target("a2", [BLUE, GREEN, TEAL], {"green": 100}))
    draft.revision(TEAL.revision, artifact=Artifact("t", "bundles/t"))
    reply = asked(draft, "build")
    assert reply.state is OpState.WORK
    assert reply.work
    assert [b["revision"] for b in reply.work["builds"]] == [GREEN.revision]
    assert reply.work["builds"][0]["files_url"] == f"/sources/fraud/{GREEN.revision}.tar"
    assert asked(draft, "build") == reply


def test_what_was_built_before_is_not_built_again() -> None:
    draft = begun(serving())
    draft.revision(GREEN.revision, artifact=Artifact("g", "bundles/g"))
    assert asked(draft, "build").state is OpState.DONE
    assert asked(draft, "build").message == "built"


def test_a_build_is_done_when_all_of_it_is() -> None:
    draft = begun(serving(), target("a2", [BLUE, GREEN, TEAL], {"green": 100}))
    assert asked(draft, "build", result=None).state is OpState.WORK
    half = asked(draft, "build", result=built(GREEN))
    assert (half.state, half.message) == (OpState.LATER, f"not built yet: {TEAL.revision}")
    assert asked(draft, "build", result=built(TEAL)).state is OpState.DONE
    assert draft.head.revisions[GREEN.revision].artifact == Artifact(GREEN.revision, "bundles/x")


def test_an_artifact_of_somebody_elses_revision_is_left_out() -> None:
    draft = begun(serving())
    asked(draft, "build")
    assert asked(draft, "build", result=built(TEAL)).state is OpState.LATER
    assert TEAL.revision not in draft.head.revisions


def test_a_build_that_failed_is_a_finding_of_the_endpoint_and_the_end() -> None:
    finding = Finding(
        "package-missing", "no such package nunpy", "the installer says so", "numpy?", Place("c.yml", 3, 1)
    )
    draft = begun(serving())
    asked(draft, "build")
    reply = asked(draft, "build", result={"failed": {GREEN.revision: codec.to_data(finding)}})
    assert (reply.state, reply.message) == (OpState.NO, "no such package nunpy")
    assert draft.head.findings[-1] == finding
    assert draft.head.rollout
    assert draft.head.rollout.state is State.FAILED
    assert draft.head.rollout.message.startswith("build: green: no such package nunpy")
    assert draft.head.undo
    assert asked(draft, "build").state is OpState.NO


def test_a_machine_that_cannot_build_ends_the_rollout_with_its_words_and_reverts_nothing() -> None:
    draft = begun(serving())
    asked(draft, "build")
    reply = asked(draft, "build", result={"broken": "error[base-missing]: no base image"})
    assert (reply.state, reply.message) == (OpState.NO, "error[base-missing]: no base image")
    rollout = draft.head.rollout
    assert rollout is not None
    assert (rollout.state, rollout.message) == (State.ABORTED, "build: error[base-missing]: no base image")
    assert draft.head.undo is None
    assert draft.head.stopping == (rollout.id,)


def test_a_failed_build_that_says_no_finding_is_one_all_the_same() -> None:
    draft = begun(serving())
    asked(draft, "build")
    asked(draft, "build", result={"failed": {GREEN.revision: "killed"}})
    assert (draft.head.findings[-1].code, draft.head.findings[-1].message) == ("build-failed", "killed")


def test_a_rollout_that_is_over_opens_nothing() -> None:
    draft = mirroring().operate("abort").draft()
    reply = asked(draft, "step-5", percent="5")
    assert reply.state is OpState.NO
    assert "aborted" in reply.message
    assert asked(draft, "mirror", percent="50").state is OpState.NO


def test_a_step_waits_for_the_mirror_that_was_planned() -> None:
    world = mirroring()
    draft = world.draft()
    rollout = draft.head.rollout
    assert rollout
    draft.rollout(ops=tuple(op for op in rollout.ops if op.verb != "mirror"))
    reply = asked(draft, "step-5", percent="5")
    assert (reply.state, reply.message) == (OpState.NO, "the plan mirrors before it moves traffic")


def test_finalize_waits_for_every_step() -> None:
    world = mirroring()
    world.result = Result.PASS
    world.wait(10)
    draft = world.draft()
    draft.op(state=OpEnd.PASSED)
    reply = asked(draft, "finalize")
    assert (reply.state, reply.message) == (OpState.NO, "steps of the plan are still to come")


def test_a_verb_the_plan_has_no_more_of_is_told_no() -> None:
    world = mirroring()
    world.result = Result.PASS
    world.wait(10)
    draft = world.draft()
    draft.op(state=OpEnd.PASSED)
    assert draft.head.rollout
    draft.rollout(
        ops=(*draft.head.rollout.ops, *(replace(draft.head.rollout.ops[-1], name=n) for n in ("step-50", "step-100")))
    )
    reply = asked(draft, "step-7", percent="7")
    assert reply.state is OpState.NO
    assert "has no further step" in reply.message


def test_a_step_is_a_part_of_the_way_from_where_the_rollout_began() -> None:
    world = mirroring()
    world.result = Result.PASS
    shares = []
    for _ in range(3):
        world.wait(10)
        shares.append(world.head.traffic.get(GREEN.revision))
    assert shares == [50, 500, 1000]


def test_the_mirror_copies_to_the_candidate_and_echoes_to_what_is_live() -> None:
    mirrors = {(m.kind, m.revision): m.per_mille for m in mirroring().head.mirrors}
    assert mirrors == {(PairKind.COMPARE, GREEN.revision): 500, (PairKind.ECHO, BLUE.revision): 50}


def test_an_op_that_is_held_says_what_each_gate_says() -> None:
    draft = mirroring().draft()
    assert draft.head.rollout
    running = draft.head.rollout.ops[-1]
    verdicts = (verdict(Result.PASS), verdict(Result.INCONCLUSIVE, "latency-p99"))
    draft.rollout(ops=(*draft.head.rollout.ops[:-1], replace(running, verdicts=verdicts, arguments=codec.digest({}))))
    reply = asked(draft, "mirror")
    assert reply == OpReply(OpState.WAIT, "mirror is running: error-rate pass, latency-p99 inconclusive")


def test_closing_keeps_the_first_word_and_ends_a_rollout_that_still_runs() -> None:
    draft = mirroring().draft()
    assert asked(draft, "close", status="Terminated").state is OpState.DONE
    assert asked(draft, "close", status="Succeeded").state is OpState.DONE
    rollout = draft.head.rollout
    assert rollout
    assert (rollout.closed, rollout.state, draft.head.undo) == ("Terminated", State.ABORTED, None)
    assert rollout.message == "its workflow ended (Terminated) before the rollout did"
    assert [e.kind for e in draft.events].count("workflow.closed") == 1


def test_closing_a_rollout_that_ended_changes_only_how_its_workflow_ended() -> None:
    world = mirroring()
    world.result = Result.FAIL
    world.run()
    draft = world.draft()
    draft.rollout(closed="")
    before = draft.head
    asked(draft, "close", status="Failed")
    assert draft.head.rollout
    assert replace(draft.head, rollout=replace(draft.head.rollout, closed="")) == before

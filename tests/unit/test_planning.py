"""From a target and where the endpoint is to a plan."""

from __future__ import annotations

from dataclasses import replace

from headgate.plan import Plan, workflow_name
from headgate.planning import endpoint_file, make_plan
from headgate.process import MirrorPhase
from headgate.rollout import Head
from headgate.target import Target
from headgate.testing import FAST, World, deployment, target

BLUE, GREEN, TEAL = deployment("blue"), deployment("green"), deployment("teal")


def plan(head: Head, wanted: Target) -> Plan:
    planned = make_plan(head, wanted)
    assert planned.plan is not None
    return planned.plan


STEPS = ["step-5", "step-50", "step-100", "finalize"]


def ops(head: Head, wanted: Target) -> list[str]:
    return [op.name for op in plan(head, wanted).ops]


def serving() -> Head:
    return World().commit(target("b1", [BLUE], {"blue": 100})).head


def test_a_first_revision_is_built_and_moved_to_at_once() -> None:
    assert ops(Head("fraud"), target("c", [BLUE], {"blue": 100})) == [
        "build",
        "smoke",
        "deploy",
        "step-100",
        "finalize",
    ]


def test_a_candidate_is_mirrored_and_stepped() -> None:
    found = plan(serving(), target("c", [BLUE, GREEN], {"green": 100}))
    assert [op.name for op in found.ops] == ["build", "smoke", "deploy", "mirror", *STEPS]
    assert (found.candidate, found.revisions) == (GREEN.revision, (GREEN.revision,))


def test_without_a_mirror_the_plan_says_why() -> None:
    for process in (replace(FAST, mirror=MirrorPhase(percent=0)), replace(FAST, repeatable=False)):
        found = plan(serving(), target("c", [BLUE, GREEN], {"green": 100}, process=process))
        assert "mirror" not in [op.name for op in found.ops]
        assert any("no mirror phase" in note for note in found.notes)


def test_a_candidate_that_is_live_already_is_not_mirrored() -> None:
    head = World().commit(target("b1", [BLUE, GREEN], {"blue": 90, "green": 10})).head
    assert ops(head, target("c", [BLUE, GREEN], {"blue": 50, "green": 50})) == [
        "step-5",
        "step-50",
        "step-100",
        "finalize",
    ]


def test_what_gets_no_traffic_is_made_ready_and_nothing_moves() -> None:
    found = plan(serving(), target("c", [BLUE, GREEN], {"blue": 100}))
    assert [op.name for op in found.ops] == ["build", "smoke", "deploy", "finalize"]
    assert found.candidate == ""


def test_two_candidates_are_a_finding_at_the_endpoints_file() -> None:
    planned = make_plan(serving(), target("c", [BLUE, GREEN, TEAL], {"green": 50, "teal": 50}))
    (finding,) = planned.findings
    assert planned.plan is None
    assert (finding.code, finding.place.file) == ("two-candidates", "endpoints/fraud/endpoint.yml")
    assert "green and teal" in finding.message


def test_the_hash_is_of_what_is_asked_and_not_of_which_commit_asks() -> None:
    wanted = target("c", [BLUE, GREEN], {"green": 100})
    found = plan(serving(), wanted)
    assert plan(serving(), replace(wanted, commit="d" * 40)).hash == found.hash
    slower = replace(wanted, process=replace(FAST, soak_s=11))
    assert plan(serving(), slower).hash != found.hash
    other = target("c", [BLUE, deployment("green", "2")], {"green": 100})
    assert plan(serving(), other).hash != found.hash


def test_a_workflows_name_fits_and_tells_attempts_apart() -> None:
    names = {workflow_name("Fraud-" + "x" * 80, "c" * 40, attempt) for attempt in (1, 2)}
    assert len(names) == 2
    assert all(len(name) <= 63 and name == name.lower() for name in names)


def test_an_endpoints_file_may_be_called_yaml() -> None:
    wanted = target("c", [BLUE], {"blue": 100})
    assert (
        endpoint_file(replace(wanted, files={"endpoints/fraud/endpoint.yaml": "0"})) == "endpoints/fraud/endpoint.yaml"
    )
    assert endpoint_file(replace(wanted, files={})) == "endpoints/fraud/endpoint.yml"

"""What a custom resource says: conditions that other tools can wait for, and what counts as an edit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headgate.control import EndpointStatus, OpStatus, RevisionStatus, RolloutStatus
from headgate.findings import Finding, Place
from headgate_controllers import projection


def revision(role: str, per_mille: int, ready: int = 1) -> RevisionStatus:
    return RevisionStatus(f"r-{role}", f"{role}-deployment", role, per_mille, 0, None, ready, 1, True)


def endpoint(state: str, *revisions: RevisionStatus, **changes: Any) -> EndpointStatus:
    found = EndpointStatus("fraud", "http://r/endpoints/fraud/score", state, "Synced", "c", 7, 7, "", revisions, None)
    return replace(found, **changes)


def conditions(found: EndpointStatus) -> dict[str, str]:
    return {c["type"]: c["status"] for c in projection.conditions(found, 1, (), 0.0)}


STABLE, CANDIDATE = revision("stable", 950), revision("candidate", 50)
REJECTED = Finding("traffic-sum", "traffic adds up to 95", "", "", Place("endpoint.yml", 3, 1))


@pytest.mark.parametrize(
    ("found", "ready", "reconciling", "stalled"),
    [
        pytest.param(endpoint("Healthy", STABLE), "True", "False", "False", id="healthy"),
        pytest.param(endpoint("Progressing", STABLE, CANDIDATE), "True", "True", "False", id="a rollout serves on"),
        pytest.param(endpoint("Progressing", revision("candidate", 0)), "False", "True", "False", id="the first one"),
        pytest.param(endpoint("Degraded", revision("stable", 1000, 0)), "False", "False", "True", id="no replica"),
        pytest.param(endpoint("RolledBack", STABLE), "True", "False", "True", id="a person has to look"),
        pytest.param(endpoint("Drained"), "True", "False", "False", id="drained as asked"),
        pytest.param(
            endpoint("Healthy", STABLE, sync="Rejected", findings=(REJECTED,)), "True", "False", "True", id="refused"
        ),
    ],
)
def test_conditions_are_what_kstatus_waits_for(
    found: EndpointStatus, ready: str, reconciling: str, stalled: str
) -> None:
    assert conditions(found) == {"Ready": ready, "Reconciling": reconciling, "Stalled": stalled}


def test_a_refused_commit_says_why() -> None:
    found = endpoint("Healthy", STABLE, sync="Rejected", findings=(REJECTED,))
    stalled = projection.conditions(found, 1, (), 0.0)[2]
    assert (stalled["reason"], stalled["message"]) == ("Rejected", "traffic adds up to 95")


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    first = projection.conditions(endpoint("Healthy", STABLE), 1, (), 100.0)
    same = projection.conditions(endpoint("Healthy", STABLE), 2, first, 200.0)
    assert [c["lastTransitionTime"] for c in same] == ["1970-01-01T00:01:40Z"] * 3
    changed = projection.conditions(endpoint("Degraded", revision("stable", 1000, 0)), 2, first, 200.0)
    assert [c["lastTransitionTime"][-3:-1] for c in changed] == ["20", "40", "20"]


def test_the_weight_is_the_candidates_while_there_is_one() -> None:
    assert projection.endpoint_status(endpoint("Progressing", STABLE, CANDIDATE), 3, (), 0.0)["weight"] == "5%"
    status = projection.endpoint_status(endpoint("Healthy", revision("stable", 1000)), 3, (), 0.0)
    assert status["weight"] == "100%"
    assert status["candidate"] is None
    assert status["observedGeneration"] == 3


def test_a_rollout_shows_the_op_it_is_at() -> None:
    ops = (
        OpStatus("build", "passed"),
        OpStatus("mirror", "passed", 20.0),
        OpStatus("step-5", "running", 5.0, 1.0, None, "soaking"),
        OpStatus("x", "waiting"),
    )
    found = RolloutStatus("ro-1", "fraud", "c", 1, "running", "r", 0.0, None, "", ops)
    status = projection.rollout_status(found, 1, (), 0.0)
    assert (status["op"], status["weight"], status["message"], status["endedAt"]) == ("step-5", "5%", "soaking", None)


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1}, False, id="the same"),
        pytest.param({"a": ""}, {}, False, id="empty may be left out"),
        pytest.param({"a": None}, {}, False, id="nothing may be left out"),
        pytest.param({"a": 0}, {}, True, id="zero is a value"),
        pytest.param({"a": 1}, {"a": 1, "b": 2}, True, id="added"),
        pytest.param({"a": [1, 2]}, {"a": [1]}, True, id="a shorter list"),
        pytest.param({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, True, id="added in a list"),
        pytest.param({"a": {"b": 1}}, None, True, id="nothing there"),
    ],
)
def test_what_counts_as_an_edit(wanted: Any, found: Any, expected: bool) -> None:
    assert projection.differs(wanted, found) is expected


def test_restoring_takes_out_what_was_added() -> None:
    assert projection.restored({"a": 1}, {"a": 2, "b": 3}) == {"a": 1, "b": None}

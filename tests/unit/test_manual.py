from __future__ import annotations

import pytest

from headgate.evidence import Approval, Look, Result, Traffic
from headgate.params import parse
from headgate.testing import counts, look
from headgate_policies.gates.manual import ManualParams, gate

BUSY = [look(counts(500), counts(500), at=float(at)) for at in range(10)]


def said(who: str, *, approved: bool = True, to: str = "manual", why: str = "") -> Look:
    return Look("step", 1, 0.0, 0.0, approvals=(Approval(to, approved, who, why),))


def judge(looks: list[Look], **params: object) -> tuple[Result, str, str]:
    made, faults = parse(gate.params, params)
    assert made is not None, faults
    verdict = gate.judge(made, looks, 0.001)
    return verdict.result, verdict.explanation, verdict.missing


@pytest.mark.parametrize(
    "looks", [[], BUSY, [said("ada", to="manual-risk")]], ids=["nothing", "traffic", "another-gate"]
)
def test_without_a_person_it_holds_and_says_how_to_approve(looks: list[Look]) -> None:
    assert judge(looks) == (
        Result.INCONCLUSIVE, "nobody has approved yet", "a person: `headgate rollout approve ENDPOINT --gate manual`"
    )  # fmt: skip


def test_a_person_opens_it_and_is_named_with_the_reason() -> None:
    assert judge([*BUSY, said("ada", why="looked at 50 answers"), *BUSY]) == (
        Result.PASS, "approved by ada (looked at 50 answers)", ""
    )  # fmt: skip


def test_a_rejection_fails_and_stays() -> None:
    looks = [said("ada"), said("bob", approved=False, why="wrong units"), said("bob"), said("carol")]
    assert judge(looks)[:2] == (Result.FAIL, "rejected by bob (wrong units)")


def test_two_people_are_two_names() -> None:
    result, _, missing = judge([said("ada"), said("ada")], people=2)
    assert (result, missing.split(":")[0]) == (Result.INCONCLUSIVE, "1 more of 2 people")
    assert judge([said("ada"), said("bob")], people=2)[0] is Result.PASS


def test_a_second_gate_hears_its_own_name_only() -> None:
    assert judge([said("ada")], label="risk")[0] is Result.INCONCLUSIVE
    assert judge([said("ada", to="manual-risk")], label="risk")[0] is Result.PASS


def test_it_promises_nothing() -> None:
    assert gate.power(ManualParams(), Traffic(10), 0.001) is None

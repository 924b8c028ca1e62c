"""What people say becomes evidence of the op it was said for. On a real record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headgate.control import OperatorAction
from headgate.evidence import Result
from headgate.process import Process
from headgate.rollout import Head
from headgate.testing import World, deployment, target
from headgate_controllers.approvals import Approvals
from headgate_controllers.evidence import Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.judge import Judge
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_policies.gates.error_rate import gate as error_rate
from headgate_policies.gates.manual import gate as manual

BLUE, GREEN = deployment("blue"), deployment("green")
GATES = {"manual": manual, "error-rate": error_rate}
ADA = OperatorAction("ada", "looked at it")


class Desk:
    def __init__(self, folder: Path, gates: Mapping[str, Any]) -> None:
        self.record = SqliteRecord(folder / "record.db")
        process = Process(steps=(50, 100), soak_s=10, gates=gates)
        self.world = World(result=Result.INCONCLUSIVE).commit(target("b1", [BLUE], {"blue": 100}, process=process))
        self.world.commit(target("a2", [BLUE, GREEN], {"green": 100}, process=process))
        self.restart()

    def restart(self) -> None:
        self.heads = Heads(self.record, lambda: self.world.now)
        self.evidence = Evidence(self.record, self.heads, lambda: self.world.now)
        self.approvals = Approvals(self.evidence, GATES)
        self.judge = Judge(self.evidence, GATES)

    def head(self) -> Head:
        self.heads.change("fraud", lambda draft: setattr(draft, "head", self.world.head))
        return self.heads.get("fraud")

    def results(self) -> dict[str, Result]:
        verdicts, _ = self.judge.verdicts(self.head())
        return {verdict.gate: verdict.result for verdict in verdicts}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, {"manual": {}, "manual-risk": {"phases": ["bake"]}, "error-rate": {}})
    yield made
    made.record.close()


def test_an_approval_opens_its_gate_and_no_other_also_after_a_restart(desk: Desk) -> None:
    assert desk.results()["manual"] is Result.INCONCLUSIVE
    said, op = desk.approvals.sign(desk.head(), ADA, approved=True)
    assert (said, op) == ("manual at mirror approved by ada: looked at it", "mirror")
    for _ in range(2):
        assert desk.results() == {
            "minimum-evidence": Result.INCONCLUSIVE, "error-rate": Result.INCONCLUSIVE, "manual": Result.PASS
        }  # fmt: skip
        desk.restart()


def test_an_approval_is_for_the_op_that_runs(desk: Desk) -> None:
    desk.approvals.sign(desk.head(), ADA, approved=True)
    desk.world.result = Result.PASS
    while desk.world.head.rollout and desk.world.head.rollout.ops[-1].name != "step-50":
        desk.world.now += 600
        desk.world.step()
    desk.world.result = Result.INCONCLUSIVE
    desk.world.run()
    assert desk.results()["manual"] is Result.INCONCLUSIVE


def test_a_rejection_fails_the_gate(desk: Desk) -> None:
    desk.approvals.sign(desk.head(), ADA, approved=False)
    desk.approvals.sign(desk.head(), ADA, approved=True)
    assert desk.results()["manual"] is Result.FAIL


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (OperatorAction("ada", gate="manual-risk"), "manual-risk waits for no person at mirror; waiting are manual"),
        (OperatorAction("ada", gate="error-rate"), "error-rate waits for no person"),
        (OperatorAction(" "), "say who"),
    ],
    ids=["another-phase", "no-manual-gate", "nobody"],
)
def test_what_nobody_waits_for_is_refused(desk: Desk, asked: OperatorAction, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        desk.approvals.sign(desk.head(), asked, approved=True)
    assert desk.results()["manual"] is Result.INCONCLUSIVE


def test_which_gate_must_be_clear(tmp_path: Path) -> None:
    desk = Desk(tmp_path, {"manual-risk": {}, "manual-legal": {"people": 2}})
    with pytest.raises(ValueError, match="waiting are manual-legal, manual-risk: name one with --gate"):
        desk.approvals.sign(desk.head(), ADA, approved=True)
    desk.approvals.sign(desk.head(), OperatorAction("ada", gate="manual-risk"), approved=True)
    assert desk.results()["manual-risk"] is Result.PASS
    desk.record.close()


def test_what_is_said_before_every_router_follows_does_not_count(desk: Desk) -> None:
    draft = desk.world.draft()
    draft.op(live_at=None)
    desk.world.keep(draft)
    with pytest.raises(ValueError, match="not live on every router yet"):
        desk.approvals.sign(desk.head(), ADA, approved=True)


def test_without_a_rollout_there_is_nothing_to_say(desk: Desk) -> None:
    with pytest.raises(ValueError, match="nothing of idle is judged"):
        desk.approvals.sign(Head("idle"), ADA, approved=True)

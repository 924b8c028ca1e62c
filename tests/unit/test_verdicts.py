"""Verdicts read back from a real record, over the controller's API: listed, explained, the same bytes again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.codec import canonical
from headgate.control import ExchangeRequest
from headgate.evidence import Answer, Batch, Look, Pair, PairKind, Result, Verdict
from headgate.findings import FindingsError
from headgate.process import Process
from headgate.rollout import Head, Rollout
from headgate.testing import World, counts, deployment, target, verdict
from headgate_controllers import smoke
from headgate_controllers.evidence import Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.judge import Judge
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.verdicts import Verdicts
from headgate_policies.gates.error_rate import gate as error_rate
from headgate_policies.trace import read

BLUE, GREEN = deployment("blue"), deployment("green")
GATES = {"error-rate": error_rate}


class Desk:
    def __init__(self, folder: Path) -> None:
        self.record = SqliteRecord(folder / "record.db")
        self.now = 1_000.0
        self.heads = Heads(self.record, lambda: self.now)
        self.evidence = Evidence(self.record, self.heads, lambda: self.now)
        self.judge = Judge(self.evidence, GATES)
        self.verdicts = Verdicts(self.record, GATES, self.find)
        process = Process(steps=(5, 100), soak_s=10, gates={"error-rate": {"max_increase": 0.05}})
        self.world = World(result=Result.INCONCLUSIVE).commit(target("b1", [BLUE], {"blue": 100}, process=process))
        self.world.commit(target("a2", [BLUE, GREEN], {"green": 100}, process=process))
        self.keep(self.world.head)

    def keep(self, head: Head) -> None:
        self.heads.change("fraud", lambda draft: setattr(draft, "head", head))

    def find(self, rollout: str) -> Rollout | None:
        found = self.heads.get("fraud").rollout
        return found if found and found.id == rollout else None

    @property
    def rollout(self) -> Rollout:
        found = self.heads.get("fraud").rollout
        assert found
        return found

    def hear(self, first: int, last: int, bad: int = 0) -> None:
        generation = self.rollout.ops[-1].generation
        for number in range(first, last):
            self.now = 1_000.0 + number
            live = {BLUE.revision: counts(80)}
            batch = Batch("fraud", generation, 1.0, live, {GREEN.revision: counts(20 - bad, bad)})
            self.evidence.receive(ExchangeRequest("router-0", "b", number, None, (batch,)))

    def decide(self) -> None:
        """The verdicts as they are now go into the record."""
        head = self.heads.get("fraud")
        assert head.rollout
        found, _ = self.judge.verdicts(head)
        ops = (*head.rollout.ops[:-1], replace(head.rollout.ops[-1], verdicts=found))
        self.keep(replace(head, rollout=replace(head.rollout, ops=ops)))

    def id(self, gate: str = "error-rate") -> str:
        return f"{self.rollout.id}/{self.rollout.ops[-1].name}/{gate}"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.record.close()


@pytest.mark.parametrize(("bad", "result"), [(0, Result.PASS), (9, Result.FAIL)], ids=["pass", "fail"])
def test_a_verdict_is_the_same_bytes_again_from_the_record(desk: Desk, bad: int, result: Result) -> None:
    desk.hear(1, 60, bad)
    desk.decide()
    desk.hear(60, 70)
    found = desk.verdicts.replay(desk.id())
    assert (found.same, found.differences) == (True, ())
    assert 50 < found.looks == found.recorded.looks <= 59
    assert canonical(found.recorded) == canonical(found.recomputed)
    assert found.recorded.result is result


def test_every_gate_of_an_op_is_listed_with_an_id_that_finds_it(desk: Desk) -> None:
    desk.hear(1, 9)
    desk.decide()
    listed = desk.verdicts.of([desk.rollout])
    mirrored = [status for status in listed if status.op == "mirror"]
    assert [status.id for status in mirrored] == [desk.id("minimum-evidence"), desk.id("error-rate")]
    for status in mirrored:
        report = desk.verdicts.report(status.id)
        assert (report.status, report.kept) == (status, 8)
        assert report.course[-1].looks == status.verdict.looks


def answered(status: int) -> Look:
    said = Answer("r", status, "application/json", "{}")
    return Look("smoke", 0, 0.0, 0.0, pairs=(Pair(PairKind.COMPARE, "smoke", said, said),))


def smoked(desk: Desk, *verdicts: Verdict) -> None:
    ops = tuple(replace(op, verdicts=verdicts) if op.name == "smoke" else op for op in desk.rollout.ops)
    desk.keep(replace(desk.heads.get("fraud"), rollout=replace(desk.rollout, ops=ops)))


def test_smoke_verdicts_of_two_deployments_are_each_computed_again_from_their_answer(desk: Desk) -> None:
    looks = [answered(200), answered(500)]
    desk.record.add_looks(desk.rollout.id, "smoke", looks)
    smoked(desk, *(smoke.again(look) for look in looks))
    for status in desk.verdicts.of([desk.rollout]):
        if status.op == "smoke":
            assert desk.verdicts.replay(status.id).same
            assert desk.verdicts.report(status.id).kept >= status.verdict.looks
    smoked(desk, replace(smoke.again(looks[0]), explanation="all is well"))
    changed = desk.verdicts.replay(f"{desk.rollout.id}/smoke/smoke")
    assert [said.partition(":")[0] for said in changed.differences] == ["explanation"]


def test_two_smoke_verdicts_of_one_op_are_told_apart_and_without_an_answer_not_computed_again(desk: Desk) -> None:
    smoked(desk, verdict(Result.PASS, "smoke"), verdict(Result.FAIL, "smoke"))
    ids = [s.id for s in desk.verdicts.of([desk.rollout]) if s.op == "smoke"]
    assert ids == [f"{desk.rollout.id}/smoke/smoke", f"{desk.rollout.id}/smoke/smoke~2"]
    assert desk.verdicts.report(ids[1]).status.verdict.result is Result.FAIL
    with pytest.raises(FindingsError, match="is not kept"):
        desk.verdicts.replay(ids[1])


def test_evidence_that_was_touched_is_found_out(desk: Desk) -> None:
    desk.hear(1, 30)
    desk.decide()
    with desk.record.transaction() as database:
        database.execute("DELETE FROM look WHERE id = (SELECT MIN(id) FROM look)")
    desk.hear(60, 61, bad=1)
    found = desk.verdicts.replay(desk.id())
    assert not found.same
    assert any(line.startswith("evidence: ") for line in found.differences)


def test_a_verdict_without_its_evidence_is_shown_and_not_computed_again(desk: Desk) -> None:
    desk.hear(1, 30)
    desk.decide()
    with desk.record.transaction() as database:
        database.execute("DELETE FROM look")
    report = desk.verdicts.report(desk.id())
    assert (report.kept, report.course) == (0, ())
    with pytest.raises(FindingsError, match="evidence-gone"):
        desk.verdicts.replay(desk.id())


def test_a_trace_of_an_op_is_its_evidence(desk: Desk) -> None:
    desk.hear(1, 30)
    op = desk.rollout.ops[-1].name
    text = [line.decode() for line in desk.verdicts.trace(desk.rollout.id, op)]
    found = read(text, "t.jsonl")
    assert list(found.looks) == desk.evidence.looks(desk.rollout.id, op)
    assert (found.header.op, found.header.kind, found.header.phases) == ("mirror", "mirror", 3)
    assert found.header.process == desk.rollout.target.process


@pytest.mark.parametrize("wrong", ["nothing", "ro-x/mirror/error-rate", "{}/later/error-rate", "{}/mirror/nothing"])
def test_a_verdict_that_is_not_there_is_said(desk: Desk, wrong: str) -> None:
    with pytest.raises(FindingsError, match="unknown-verdict"):
        desk.verdicts.report(wrong.format(desk.rollout.id))


def test_a_rollout_that_another_took_the_place_of_is_told_at_its_end(desk: Desk) -> None:
    ended: list[str] = []
    desk.heads.listen_ends(lambda rollout: ended.append(f"{rollout.id} {rollout.state}"))
    before = desk.rollout.id
    third = target("c3", [BLUE, deployment("green", "3")], {"green": 100})

    def newer(draft: object) -> None:
        from headgate.intent import accept

        accept(draft, third)  # type: ignore[arg-type]

    desk.heads.change("fraud", newer)
    assert ended == [f"{before} superseded"]

"""Batches of router workers become looks of the running op, once. On a real record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.control import ExchangeRequest
from headgate.evidence import Answer, Batch, Counts, Outcome, Pair, PairKind, Result
from headgate.outcome import supersede
from headgate.process import Process
from headgate.rollout import Head
from headgate.testing import World, counts, deployment, target
from headgate_controllers.evidence import WINDOW_S, Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.judge import SAID_EVERY_S, Judge
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_policies.gates.error_rate import gate as error_rate

BLUE, GREEN = deployment("blue"), deployment("green")
B, G = BLUE.revision, GREEN.revision


class Desk:
    """Evidence and what it needs, with a clock set by hand."""

    def __init__(self, folder: Path) -> None:
        self.record = SqliteRecord(folder / "record.db")
        self.now = 1_000.0
        self.sequence = 0
        self.restart()

    def restart(self) -> None:
        self.heads = Heads(self.record, lambda: self.now)
        self.evidence = Evidence(self.record, self.heads, lambda: self.now)
        self.judge = Judge(self.evidence, {"error-rate": error_rate})

    def be(self, world: World) -> Head:
        self.heads.change("fraud", lambda draft: setattr(draft, "head", world.head))
        return self.heads.get("fraud")

    def receive(self, *batches: Batch, sequence: int = 0, boot: str = "b") -> tuple[str, ...]:
        self.sequence = sequence or self.sequence + 1
        return self.evidence.receive(ExchangeRequest("router-0", boot, self.sequence, None, batches))

    def held(self) -> list[str]:
        """What of the evidence's memory is not empty."""
        return sorted(name for name, value in vars(self.evidence).items() if isinstance(value, dict) and value)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.record.close()


def mirroring() -> World:
    process = Process(steps=(5, 100), soak_s=10, gates={"error-rate": {"max_increase": 0.05}})
    world = World(result=Result.INCONCLUSIVE).commit(target("b1", [BLUE], {"blue": 100}, process=process))
    return world.commit(target("a2", [BLUE, GREEN], {"green": 100}, process=process))


def op(head: Head) -> tuple[str, str, int]:
    assert head.rollout
    return head.rollout.id, head.rollout.ops[-1].name, head.rollout.ops[-1].generation


def test_a_mirrors_look_sets_copies_beside_live_answers(desk: Desk) -> None:
    rollout, name, generation = op(desk.be(mirroring()))
    answers = Answer(B, 200, "", "1"), Answer(G, 200, "", "2"), Answer("other", 200, "", "3")
    pairs = [Pair(PairKind.COMPARE, "1", answers[0], copy) for copy in answers[1:]]
    echo = Pair(PairKind.ECHO, "2", answers[0], answers[0])
    batch = Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(20, 2)}, (*pairs, echo))
    assert desk.receive(batch) == ("fraud",)
    (look,) = desk.evidence.looks(rollout, name)
    assert (look.phase, look.candidate, look.stable) == ("mirror", counts(20, 2), counts(80))
    assert look.pairs == (pairs[0], echo), "a pair of another revision says nothing of this candidate"


def test_a_batch_is_received_once_and_kept_over_a_restart(desk: Desk) -> None:
    rollout, name, generation = op(desk.be(mirroring()))
    batch = Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(20)})
    assert desk.receive(batch, sequence=1) == ("fraud",)
    assert desk.receive(batch, sequence=1) == ()
    assert len(desk.evidence.looks(rollout, name)) == 1
    assert desk.evidence.observed("fraud") == {B: 80}
    desk.restart()
    assert desk.receive(batch, sequence=1) == ()
    assert len(desk.evidence.looks(rollout, name)) == 1
    assert desk.receive(batch, sequence=1, boot="another") == ("fraud",)
    assert len(desk.evidence.looks(rollout, name)) == 2


def test_what_was_heard_is_let_go_and_read_again_from_the_record(desk: Desk) -> None:
    rollout, name, generation = op(desk.be(mirroring()))
    batch = Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(20)})
    desk.receive(batch, sequence=1)
    desk.receive(replace(batch, mirrored={G: counts(30)}), sequence=2)
    assert [look.candidate for look in desk.evidence.looks(rollout, name, 1)] == [counts(30)]
    desk.receive(replace(batch, mirrored={G: counts(40)}), sequence=3)
    assert [look.candidate for look in desk.evidence.looks(rollout, name, 1)] == [counts(30), counts(40)]
    assert desk.evidence.looks(rollout, name, 3) == []
    assert [look.candidate for look in desk.evidence.looks(rollout, name)] == [counts(20), counts(30), counts(40)]


def test_evidence_of_an_older_generation_is_counted_and_judges_nothing(desk: Desk) -> None:
    rollout, name, generation = op(desk.be(mirroring()))
    assert desk.receive(Batch("fraud", generation - 1, 1.0, {B: counts(80)}, {G: counts(20)})) == ()
    assert desk.evidence.looks(rollout, name) == []
    assert desk.evidence.observed("fraud") == {B: 80}


def test_evidence_before_every_worker_acked_is_void(desk: Desk) -> None:
    world = mirroring()
    draft = world.draft()
    draft.op(live_at=None)
    world.keep(draft)
    rollout, name, generation = op(desk.be(world))
    assert desk.receive(Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(20)})) == ()
    assert desk.evidence.looks(rollout, name) == []


def test_a_bake_is_judged_by_what_the_stable_did_before(desk: Desk) -> None:
    world = mirroring()
    rollout, _, generation = op(desk.be(world))
    desk.receive(Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(20)}))
    desk.receive(Batch("fraud", generation, 1.0, {B: counts(40, 1)}, {G: counts(10)}))
    world.result = Result.PASS
    while op(world.head)[1] != "step-5":
        world.now += 600
        world.step()
    world.result = Result.INCONCLUSIVE
    world.run()
    desk.receive(Batch("fraud", op(desk.be(world))[2], 1.0, {B: counts(95, 5), G: counts(5)}))
    world.result = Result.PASS
    while op(world.head)[1] != "step-100":
        world.now += 600
        world.step()
    world.result = Result.INCONCLUSIVE
    world.run()
    _, name, generation = op(desk.be(world))
    assert name == "step-100"
    desk.receive(Batch("fraud", generation, 1.0, {G: counts(100)}))
    (look,) = desk.evidence.looks(rollout, name)
    assert (look.phase, look.candidate, look.stable) == ("bake", counts(100), Counts())
    assert look.reference.outcomes == {Outcome.OK: 215, Outcome.MODEL_ERROR: 6}, "of every op before it"
    desk.receive(Batch("fraud", generation, 1.0, {G: counts(100)}))
    assert [found.reference for found in desk.evidence.looks(rollout, name)] == [look.reference] * 2


def test_shares_are_of_the_last_minute(desk: Desk) -> None:
    desk.be(mirroring())
    desk.receive(Batch("fraud", 1, 1.0, {B: counts(80)}))
    desk.now += WINDOW_S - 1
    desk.receive(Batch("fraud", 1, 1.0, {B: counts(10), G: counts(5, gone=3)}))
    assert desk.evidence.observed("fraud") == {B: 90, G: 5}
    desk.receive(Batch("fraud", 2, 1.0, {G: counts(7)}))
    assert desk.evidence.observed("fraud", since=2) == {G: 7}, "an older split says nothing of this one"
    desk.now += 2
    assert desk.evidence.observed("fraud") == {B: 10, G: 12}
    desk.now += WINDOW_S
    assert desk.evidence.observed("fraud") == {}
    assert desk.evidence.totals()[("fraud", G, "client_gone")] == 3


def test_a_split_is_of_one_generation_without_those_who_chose(desk: Desk) -> None:
    desk.be(mirroring())
    desk.receive(Batch("fraud", 4, 1.0, {B: counts(80), G: counts(30)}, chosen={G: 10}))
    desk.receive(Batch("fraud", 4, 1.0, {B: counts(20)}))
    assert desk.evidence.split("fraud", 4) == {B: 100, G: 20}
    desk.receive(Batch("fraud", 5, 1.0, {B: counts(1)}))
    desk.receive(Batch("fraud", 4, 1.0, {B: counts(9)}))
    assert (desk.evidence.split("fraud", 5), desk.evidence.split("fraud", 4)) == ({B: 1}, {})


def test_what_the_record_does_not_know_is_counted_by_nobody(desk: Desk) -> None:
    _, _, generation = op(desk.be(mirroring()))
    batch = Batch("fraud", generation, 1.0, {B: counts(80), G: counts(5)}, {G: counts(20)})
    desk.receive(batch, replace(batch, endpoint="another"))
    assert [(key[0], key[1]) for key in desk.evidence.totals()] == [("fraud", B), ("fraud", G)]
    head = desk.heads.get("fraud")
    kept = {revision: state for revision, state in head.revisions.items() if revision == B}
    desk.heads.change("fraud", lambda draft: draft.set(revisions=kept))
    assert [key[1] for key in desk.evidence.totals()] == [B], "a revision that is pruned leaves its counters"
    desk.heads.change("fraud", lambda draft: setattr(draft, "head", Head("fraud", head.commit, rollout=head.rollout)))
    desk.receive(batch)
    assert desk.evidence.observed("fraud") == {}
    assert desk.evidence.split("fraud", generation) == {}
    assert desk.evidence.totals() == {}
    assert desk.held() == []


def test_looks_of_a_rollout_that_ended_are_not_held(desk: Desk) -> None:
    rollout, name, generation = op(desk.be(mirroring()))
    desk.receive(Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(20)}))
    assert len(desk.evidence.looks(rollout, name)) == 1
    desk.heads.change("fraud", lambda draft: supersede(draft, "a newer one came"))
    assert desk.held() == ["_recent", "_split", "_totals"]
    assert len(desk.record.looks(rollout, name)) == 1, "the record has them"


def test_the_judge_says_nothing_where_nothing_is_judged(desk: Desk) -> None:
    assert desk.judge.verdicts(Head("fraud")) == ((), None)
    head = desk.be(World().commit(target("b1", [BLUE], {"blue": 100})))
    assert desk.judge.verdicts(head) == ((), None)


def test_verdicts_follow_the_evidence_and_are_the_same_after_a_restart(desk: Desk) -> None:
    head = desk.be(mirroring())
    _, _, generation = op(head)
    assert desk.judge.verdicts(head)[1] is Result.INCONCLUSIVE
    results = []
    for _ in range(40):
        desk.receive(Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(30, 10)}))
        results.append(desk.judge.verdicts(head)[1])
    assert results[0] is Result.INCONCLUSIVE
    assert results[-1] is Result.FAIL
    before = desk.judge.verdicts(head)
    desk.restart()
    assert desk.judge.verdicts(desk.heads.get("fraud")) == before


def test_words_are_new_when_a_conclusion_is_and_every_few_seconds(desk: Desk) -> None:
    head = desk.be(mirroring())
    _, _, generation = op(head)
    looks = []
    for number in range(1, 41):
        desk.now += 0.5
        desk.receive(Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(30)}))
        verdicts, result = desk.judge.verdicts(head)
        looks.append(verdicts[0].looks)
        assert result is Result.PASS or number < 40
        assert {verdict.looks for verdict in verdicts} == {looks[-1]}
    assert len(set(looks)) < 10
    assert all(number - said < 2 * SAID_EVERY_S for number, said in enumerate(looks, 1))
    at_once = Judge(desk.evidence, {"error-rate": error_rate})
    assert at_once.verdicts(head) == desk.judge.verdicts(head)


class Counting(SqliteRecord):
    """Counts how often it was asked what was received; holds who asks until `most` have."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path)
        self.asked = threading.Barrier(most)

    def received(self, worker: str, boot: str) -> int:
        known = super().received(worker, boot)
        with suppress(threading.BrokenBarrierError):
            self.asked.wait(1.0)
        return known


def test_a_batch_that_is_sent_again_while_it_is_stored_is_one_look(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    rollout, name, generation = op(desk.be(mirroring()))
    desk.record.close()
    desk.record = Counting(tmp_path / "record.db", 2)
    desk.restart()
    assert desk.evidence.looks(rollout, name) == []
    batch = Batch("fraud", generation, 1.0, {B: counts(80)}, {G: counts(20)})
    sent = [threading.Thread(target=desk.receive, args=(batch,), kwargs={"sequence": 1}) for _ in range(2)]
    for thread in sent:
        thread.start()
    for thread in sent:
        thread.join()
    heard, counted = desk.evidence.looks(rollout, name), desk.evidence.observed("fraud")
    desk.restart()
    assert len(heard) == len(desk.evidence.looks(rollout, name)) == 1
    assert counted == {B: 80}
    desk.record.close()

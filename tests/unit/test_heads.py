"""Heads in memory are what was recorded, and change in one way only. On a real record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.draft import Draft
from headgate.findings import ConflictError
from headgate.rollout import Event, Head
from headgate.testing import World, deployment, target
from headgate_controllers.heads import Heads
from headgate_controllers.records.sqlite import SqliteRecord


@pytest.fixture
def record(tmp_path: Path) -> Iterator[SqliteRecord]:
    made = SqliteRecord(tmp_path / "record.db")
    yield made
    made.close()


def seen(commit: str) -> object:
    def decide(draft: Draft) -> str:
        draft.set(commit=commit)
        draft.say("commit.seen", commit)
        return commit.upper()

    return decide


def test_a_change_is_recorded_then_shown_then_told(record: SqliteRecord) -> None:
    heads = Heads(record, lambda: 7.0)
    told: list[tuple[str, tuple[Event, ...], Head]] = []
    heads.listen(lambda endpoint, events: told.append((endpoint, events, record.load(endpoint)[0])))
    assert heads.change("fraud", seen("c1")) == "C1"  # type: ignore[arg-type]
    event = Event(7.0, "fraud", "commit.seen", "c1")
    assert told == [("fraud", (event,), Head("fraud", commit="c1"))]
    assert heads.get("fraud") == record.load("fraud")[0]
    assert [e for _, e in record.events("fraud")] == [event]


def test_a_decision_that_changes_nothing_writes_and_tells_nothing(record: SqliteRecord) -> None:
    heads = Heads(record, lambda: 0.0)
    told: list[str] = []
    heads.listen(lambda endpoint, _: told.append(endpoint))
    assert heads.change("fraud", lambda draft: draft.head.commit) == ""
    assert (told, record.heads(), heads.names()) == ([], [], ())


def test_a_decision_that_raises_changes_nothing(record: SqliteRecord) -> None:
    heads = Heads(record, lambda: 0.0)

    def decide(draft: Draft) -> None:
        draft.set(commit="half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        heads.change("fraud", decide)
    assert (heads.get("fraud"), record.load("fraud")) == (Head("fraud"), (Head("fraud"), 0))


def test_a_restart_goes_on_from_the_record(record: SqliteRecord) -> None:
    first = Heads(record, lambda: 0.0)
    for name in ("fraud", "churn"):
        first.change(name, seen("c1"))  # type: ignore[arg-type]
    again = Heads(record, lambda: 0.0)
    assert again.names() == ("churn", "fraud")
    assert {h.endpoint: h for h in again.all()} == {n: Head(n, commit="c1") for n in ("fraud", "churn")}
    again.change("fraud", seen("c2"))  # type: ignore[arg-type]
    assert record.load("fraud")[1] == 2


def test_a_second_controller_is_found_out_and_memory_stays(record: SqliteRecord) -> None:
    ours, theirs = Heads(record, lambda: 0.0), Heads(record, lambda: 0.0)
    theirs.change("fraud", seen("theirs"))  # type: ignore[arg-type]
    with pytest.raises(ConflictError):
        ours.change("fraud", seen("ours"))  # type: ignore[arg-type]
    assert ours.get("fraud") == Head("fraud")
    assert record.load("fraud")[0].commit == "theirs"


def test_changes_from_many_threads_are_one_after_the_other(record: SqliteRecord) -> None:
    heads = Heads(record, lambda: 0.0)

    def count(draft: Draft) -> None:
        draft.set(commit=str(int(draft.head.commit or 0) + 1))

    threads = [threading.Thread(target=lambda: [heads.change("fraud", count) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (heads.get("fraud").commit, record.load("fraud")[1]) == ("40", 40)


def test_an_endpoint_is_found_by_its_last_rollout_only(record: SqliteRecord) -> None:
    heads = Heads(record, lambda: 0.0)
    world = World().commit(target("c1", [deployment("blue")], {"blue": 100}))
    first = world.head
    world.commit(target("c2", [deployment("blue"), deployment("green")], {"green": 100}))
    second = world.head
    assert first.rollout is not None
    assert second.rollout is not None
    assert first.rollout.id != second.rollout.id
    heads.change("fraud", lambda draft: setattr(draft, "head", first))
    assert heads.endpoint_of(first.rollout.id) == "fraud"
    heads.change("fraud", lambda draft: setattr(draft, "head", second))
    assert (heads.endpoint_of(first.rollout.id), heads.endpoint_of(second.rollout.id)) == ("", "fraud")
    assert Heads(record, lambda: 0.0).endpoint_of(second.rollout.id) == "fraud"

"""The record on a real SQLite file: compare-and-swap, all or nothing, a full disk, another process, retention."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.evidence import Counts, Look
from headgate.findings import ConflictError, TerminalError, TransientError
from headgate.rollout import Event, Head
from headgate_controllers.records.sqlite import SqliteRecord


@pytest.fixture
def record(tmp_path: Path) -> Iterator[SqliteRecord]:
    opened = SqliteRecord(tmp_path / "record.db")
    yield opened
    opened.close()


def event(endpoint: str, number: int, rollout: str = "") -> Event:
    return Event(float(number), endpoint, "tick", f"event {number}", rollout, "", {"n": number})


def look(number: int) -> Look:
    return Look("step", number, float(number), 1.0, Counts({"ok": number}, {number: 1}))


def test_a_head_comes_back_as_it_was_committed(record: SqliteRecord, tmp_path: Path) -> None:
    head = Head("fraud", commit="c" * 40, traffic={"blue-1": 950, "green-1": 50}, removing_since=1.5)
    assert record.commit("fraud", head, [event("fraud", 1)], 0) == 1
    assert record.load("fraud") == (head, 1)
    assert record.heads() == [("fraud", head, 1)]
    assert record.events("fraud") == [(1, event("fraud", 1))]
    record.close()
    again = SqliteRecord(tmp_path / "record.db")
    assert again.load("fraud") == (head, 1)
    again.close()


def test_only_one_of_many_writers_wins_a_version(record: SqliteRecord) -> None:
    record.commit("fraud", Head("fraud"), [], 0)
    won: list[int] = []

    def write(number: int) -> None:
        try:
            record.commit("fraud", Head("fraud", commit=str(number)), [event("fraud", number)], 1)
        except ConflictError:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert record.load("fraud")[0].commit == str(won[0])
    assert [e.data["n"] for _, e in record.events("fraud")] == won


def test_a_conflict_leaves_no_event_behind(record: SqliteRecord) -> None:
    for expect in (3, 7):
        with pytest.raises(ConflictError):
            record.commit("fraud", Head("fraud"), [event("fraud", 1)], expect)
    record.commit("fraud", Head("fraud"), [], 0)
    with pytest.raises(ConflictError):
        record.commit("fraud", Head("fraud"), [event("fraud", 1)], 0)
    assert record.events() == []


def test_writes_inside_one_transaction_are_there_together_or_not_at_all(record: SqliteRecord) -> None:
    def both(fail: bool) -> None:
        with record.transaction():
            record.commit("fraud", Head("fraud", commit="1"), [event("fraud", 1)], 0)
            record.meta_set("generation", "7")
            if fail:
                raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        both(fail=True)
    assert record.load("fraud") == (Head("fraud"), 0)
    assert record.meta_get("generation") is None
    both(fail=False)
    assert record.load("fraud")[1] == 1
    assert record.meta_get("generation") == "7"


def test_an_exchange_is_received_once(record: SqliteRecord) -> None:
    looks = {("ro-1", "step-5"): [look(1), look(2)], ("ro-2", "mirror"): [look(3)]}
    assert record.receive("router-0", "boot-a", 4, looks) == 4
    assert record.receive("router-0", "boot-a", 4, looks) == 4
    assert record.receive("router-0", "boot-a", 3, looks) == 4
    assert record.looks("ro-1", "step-5") == [look(1), look(2)]
    assert record.receive("router-0", "boot-b", 1, {("ro-1", "step-5"): [look(9)]}) == 1
    assert record.looks("ro-1", "step-5") == [look(1), look(2), look(9)]
    assert (record.received("router-0", "boot-a"), record.received("router-1", "boot-a")) == (4, 0)


def test_events_are_read_from_an_id_on_or_the_newest(record: SqliteRecord) -> None:
    record.commit("a", Head("a"), [event("a", n) for n in range(1, 6)], 0)
    record.commit("b", Head("b"), [event("b", 6)], 0)
    assert [i for i, _ in record.events(limit=2)] == [5, 6]
    assert [i for i, _ in record.events(after=2, limit=2)] == [3, 4]
    assert [i for i, _ in record.events("a", limit=2)] == [4, 5]
    assert record.events("a", kind="tock") == []


def test_old_events_looks_and_rollouts_are_forgotten(record: SqliteRecord) -> None:
    for number in range(1, 6):
        rollout = f"ro-{number}"
        record.commit("a", Head("a"), [event("a", number, rollout)], number - 1)
        record.add_looks(rollout, "mirror", [look(number)])
        record.meta_set(f"rollout:{rollout}", "{}")
    record.commit("b", Head("b"), [event("b", 9, "other-1")], 0)
    record.add_looks("other-1", "mirror", [look(9)])
    record.add_looks("not-yet-in-events", "mirror", [look(9)])
    record.meta_set("generation", "1")
    record.collect(keep_events=3, keep_rollouts=2)
    assert [e.data["n"] for _, e in record.events("a")] == [3, 4, 5]
    assert [bool(record.looks(f"ro-{n}", "mirror")) for n in range(1, 6)] == [False, False, False, True, True]
    assert [record.meta_get(f"rollout:ro-{n}") for n in (3, 4)] == [None, "{}"]
    record.add_looks("no-event-left", "mirror", [look(9)])
    record.meta_set("rollout:no-event-left", "{}")
    record.collect(keep_events=3, keep_rollouts=2)
    assert (record.looks("no-event-left", "mirror"), record.meta_get("rollout:no-event-left")) == ([], None)
    assert record.looks("other-1", "mirror")
    assert record.looks("not-yet-in-events", "mirror")
    assert record.meta_get("generation") == "1"


def test_a_full_disk_is_said_and_loses_nothing(record: SqliteRecord, tmp_path: Path) -> None:
    record.commit("fraud", Head("fraud", commit="good"), [], 0)
    with record.transaction() as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    record._database.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own way to have a small disk
    with pytest.raises(TransientError, match="no space left"):
        record.put(os.urandom(100_000))

    def write_both() -> None:
        with record.transaction():
            record.commit("fraud", Head("fraud", commit="half"), [], 1)
            record.put(os.urandom(100_000))

    with pytest.raises(TransientError, match="no space left"):
        write_both()
    assert record.load("fraud")[0].commit == "good"
    record._database.execute("PRAGMA max_page_count = 1000000")
    record.commit("fraud", Head("fraud", commit="next"), [], 1)
    assert record._database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_file_that_is_no_record_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "record.db"
    path.write_bytes(b"not a database, but somebody's only copy of something" * 50)
    before = path.read_bytes()
    with pytest.raises(TerminalError, match="not a record or is damaged"):
        SqliteRecord(path)
    assert path.read_bytes() == before


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    SqliteRecord(tmp_path / "record.db").close()
    database = sqlite3.connect(tmp_path / "record.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(TerminalError, match="newer Headgate"):
        SqliteRecord(tmp_path / "record.db")


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from headgate.rollout import Event, Head
        from headgate_controllers.records.sqlite import SqliteRecord
        record = SqliteRecord(Path(sys.argv[1]))
        version = 0
        while True:
            number = str(version + 1)
            version = record.commit("a", Head("a", commit=number), [Event(0.0, "a", "k", number)], version)
            print(version, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "record.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(20)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout.read().splitlines() if line]
    record = SqliteRecord(tmp_path / "record.db")
    head, version = record.load("a")
    assert version >= acknowledged[-1]
    assert head.commit == str(version)
    assert [e.message for _, e in record.events("a")][-1] == str(version)
    record.close()

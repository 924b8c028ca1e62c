"""What every record promises, whatever it is kept in. Subject: an empty `Record`."""

from __future__ import annotations

from headgate.evidence import Result
from headgate.findings import ConflictError
from headgate.ports import Record
from headgate.rollout import Event, Head
from headgate.testing.suite import Suite, raises
from headgate.testing.values import deployment, target
from headgate.testing.world import World

RECORD: Suite[Record] = Suite()


@RECORD
def _an_unknown_endpoint_has_an_empty_head_at_version_0(record: Record) -> None:
    assert record.load("fraud") == (Head("fraud"), 0)


@RECORD
def _each_commit_raises_the_version_and_is_what_is_loaded(record: Record) -> None:
    version = 0
    for number in range(3):
        before, version = version, record.commit("fraud", Head("fraud", commit=str(number)), [], version)
        assert version > before, "a version only grows"
        assert record.load("fraud") == (Head("fraud", commit=str(number)), version)


@RECORD
def _a_commit_on_another_version_is_a_conflict_and_changes_nothing(record: Record) -> None:
    version = record.commit("fraud", Head("fraud", commit="1"), [], 0)
    for stale in (0, version + 1):
        raises(
            ConflictError,
            lambda at=stale: record.commit("fraud", Head("fraud", commit="2"), [Event(0.0, "fraud", "k", "m")], at),  # type: ignore[misc]
            f"version {stale} is not {version}",
        )
    assert record.load("fraud") == (Head("fraud", commit="1"), version)


@RECORD
def _an_endpoint_never_written_is_not_at_version_1(record: Record) -> None:
    raises(ConflictError, lambda: record.commit("fraud", Head("fraud"), [], 1), "there is no version 1")
    assert record.load("fraud") == (Head("fraud"), 0)


@RECORD
def _endpoints_have_versions_of_their_own(record: Record) -> None:
    first = record.commit("a", Head("a", commit="1"), [], 0)
    record.commit("b", Head("b", commit="2"), [], 0)
    record.commit("a", Head("a", commit="3"), [], first)
    assert record.load("a")[0].commit == "3"
    assert record.load("b")[0].commit == "2"


@RECORD
def _a_head_in_the_middle_of_a_rollout_comes_back_as_it_was(record: Record) -> None:
    world = World(result=Result.INCONCLUSIVE)
    for commit, content in (("c1", "1"), ("c2", "é")):
        world.commit(target(commit, [deployment("blue", content)], {"blue": 100}))
    assert world.head.active, "the second commit is held by its gates"
    record.commit("fraud", world.head, world.events, 0)
    assert record.load("fraud")[0] == world.head


@RECORD
def _evidence_comes_back_by_its_digest_and_is_kept_once(record: Record) -> None:
    digest = record.put(b"looks" * 1_000)
    assert record.put(b"looks" * 1_000) == digest, "equal evidence has one digest"
    assert record.put(b"other looks") != digest
    assert record.get(digest) == b"looks" * 1_000
    assert record.get(record.put(b"")) == b""


@RECORD
def _evidence_nobody_put_is_a_key_error(record: Record) -> None:
    raises(KeyError, lambda: record.get("0" * 64), "there is none of that digest")

"""A record that was lost, or left behind, is found again in the cluster; and nothing is ended on a guess."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headgate import codec
from headgate.evidence import Result, Verdict
from headgate.findings import FindingsError, TransientError
from headgate.intent import accept
from headgate.rollout import Head, OpRecord
from headgate.table import EndpointRoute, RouteRevision, RouteTable
from headgate.testing import deployment, target
from headgate_controllers.commits import HANDLED, TAKEN
from headgate_controllers.heads import Heads
from headgate_controllers.records import customresource
from headgate_controllers.records.customresource import LEAP, Copies, Copy, read, restore, text
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.routes import TABLE, Routes
from kubeserver import KubeServer

API = "headgate.dev/v1alpha1"
COMMIT = "c0ffee" + "0" * 34
BLUE = deployment("blue")


class Controller:
    """A record in a folder, and what is made of it; a cluster that is shown it."""

    def __init__(self, folder: Path, server: KubeServer) -> None:
        folder.mkdir(exist_ok=True)
        self.server = server
        self.record = SqliteRecord(folder / "record.db")
        with_cluster = server.cluster("ml")
        self.restored = restore(self.record, with_cluster, lambda endpoint: (f"digest-{endpoint}",))
        with_cluster.close()
        self.heads = Heads(self.record, lambda: 5.0)
        self.routes = Routes(self.record, time.time)
        handled = lambda: self.record.meta_get(HANDLED) or ""  # noqa: E731
        self.copies = Copies(lambda: self.routes.table, handled, lambda: 7.0)

    def take(self, commit: str = COMMIT) -> None:
        self.heads.change("fraud", lambda draft: accept(draft, target(commit, [BLUE], {"blue": 100})))
        rows = (RouteRevision(BLUE.revision, "blue", 1000, ("http://10.0.0.1:8080",)),)
        route = EndpointRoute("fraud", 0, commit, rows, keys=("digest-fraud",))
        self.routes.publish({"fraud": route}, commit)
        self.record.meta_set(HANDLED, commit)

    def show(self, before: str = "") -> str:
        packed = self.copies.of(self.heads.get("fraud"), self.heads.version("fraud"), before)
        shown = {"metadata": {"name": "fraud"}, "spec": {}, "status": {"record": packed}}
        self.server.put(API, "onlineendpoints", shown, "ml")
        return packed

    def close(self) -> None:
        self.record.close()


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as made:
        yield made


@pytest.fixture
def first(tmp_path: Path, server: KubeServer) -> Iterator[Controller]:
    made = Controller(tmp_path / "a", server)
    made.take()
    yield made
    made.close()


def test_an_empty_record_takes_what_the_cluster_keeps(first: Controller, server: KubeServer, tmp_path: Path) -> None:
    first.show()
    second = Controller(tmp_path / "b", server)
    assert second.restored == ("fraud",)
    assert second.heads.get("fraud") == first.heads.get("fraud")
    assert second.record.meta_get(HANDLED) == second.record.meta_get(TAKEN) == COMMIT
    before, after = first.routes.table, second.routes.table
    assert after.endpoints == before.endpoints, "routers are given what they serve by"
    assert after.generation == before.generation + LEAP, "and take it, for it is newer than any they have seen"
    second.close()


def test_a_record_that_is_not_behind_is_left_alone(first: Controller, server: KubeServer, tmp_path: Path) -> None:
    first.show()
    first.heads.change("fraud", lambda draft: draft.set(commit="later"))
    first.close()
    again = Controller(tmp_path / "a", server)
    assert (again.restored, again.heads.get("fraud").commit) == ((), "later")
    first.record = again.record


def test_a_volume_of_long_ago_is_brought_up_to_date(first: Controller, server: KubeServer, tmp_path: Path) -> None:
    first.show()
    second = Controller(tmp_path / "b", server)
    second.heads.change("fraud", lambda draft: draft.set(commit="newer"))
    second.show()
    second.close()
    first.heads.change("fraud", lambda draft: draft.set(commit="a word too late"))
    first.close()
    again = Controller(tmp_path / "a", server)
    assert (again.restored, again.heads.get("fraud").commit) == (("fraud",), "newer")
    first.record = again.record


def test_revisions_that_no_copy_tells_of_are_not_ended(server: KubeServer, tmp_path: Path) -> None:
    labels = {"headgate.dev/part": "model"}
    server.put("apps/v1", "deployments", {"metadata": {"name": "fraud-1", "labels": labels}, "spec": {}}, "ml")
    with pytest.raises(FindingsError, match=r"the record is empty, and 1 revisions run here: fraud-1") as caught:
        Controller(tmp_path / "a", server)
    assert [finding.code for finding in caught.value.findings] == ["record-lost"]


def test_a_new_installation_has_nothing_to_take(server: KubeServer, tmp_path: Path) -> None:
    server.fail(404, times=1, plural="onlineendpoints", verb="list")
    made = Controller(tmp_path / "a", server)
    assert (made.restored, made.routes.table) == ((), RouteTable(0, "", {}, made.routes.table.hash))
    made.close()


def test_a_cluster_that_is_away_is_not_taken_for_an_empty_one(server: KubeServer, tmp_path: Path) -> None:
    server.fail(503, times=1, plural="onlineendpoints", verb="list")
    with pytest.raises(TransientError):
        Controller(tmp_path / "a", server)


@pytest.mark.parametrize("odd", ["", "no copy", "c$}+5Vsm"], ids=["nothing", "not-packed", "cut-off"])
def test_what_is_no_copy_of_ours_is_refused(odd: str) -> None:
    with pytest.raises(codec.CodecError):
        read(odd)


def test_a_copy_holds_no_digest_of_a_key(first: Controller) -> None:
    found = read(first.show()).route
    assert found is not None
    assert (found.keys, first.routes.table.endpoints["fraud"].keys) == ((), ("digest-fraud",))


def test_a_copy_is_bounded(first: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(1, 0.0, first.heads.get("fraud"), None, 1, COMMIT)
    packed = text(copy)
    assert read(packed) == copy
    monkeypatch.setattr(customresource, "MOST", 100)
    with pytest.raises(codec.CodecError, match="too large"):
        read(packed)
    monkeypatch.setattr(customresource, "WRITTEN", 100)
    assert text(copy) == ""


def test_a_copy_is_made_anew_only_when_something_else_is_recorded(first: Controller) -> None:
    packed = first.show()
    first.heads.change("fraud", lambda draft: draft.say("note", "history has no copy"))
    first.record.meta_set(HANDLED, "another commit, about other endpoints")
    assert first.show(packed) == packed
    fresh = Copies(lambda: first.routes.table, lambda: COMMIT, lambda: 9.0)
    assert fresh.of(first.heads.get("fraud"), 9, packed) == packed, "nor by a controller that has just begun"
    verdict = Verdict("error-rate", "1", "mirror", {}, 0.01, Result.PASS, "fine")
    op = OpRecord("mirror", "mirror", 0.0, "", 1.0, verdicts=(verdict,))

    def judged(head: Head) -> Head:
        assert head.rollout is not None
        return replace(head, rollout=replace(head.rollout, ops=(op,)))

    opened = first.copies.of(judged(first.heads.get("fraud")), 3, packed)
    assert opened != packed
    found = read(opened).head.rollout
    assert found is not None
    assert (found.ops[0].name, found.ops[0].verdicts) == ("mirror", ())
    assert codec.decode(RouteTable, first.record.meta_get(TABLE)) == first.routes.table

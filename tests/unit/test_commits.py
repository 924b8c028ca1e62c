"""From a new commit to what it asks of each endpoint. On a real repository and a real record."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headgate import codec
from headgate.findings import TransientError
from headgate.ports import Tree
from headgate.reading import Reading
from headgate.target import ModelPin
from headgate_controllers import commits as module
from headgate_controllers.commits import Commits
from headgate_controllers.heads import Heads
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.resolve import Outside

DEPLOYMENT = """\
name: blue
model: {path: ../code/m.pkl}
code_configuration: {code: ../code, scoring_script: score.py}
environment: {conda_file: ../code/conda.yml}
instance_type: small
"""


class Desk:
    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "repo"
        self.work.mkdir()
        self.git("init", "-q", "-b", "main")
        self.record = SqliteRecord(folder / "record.db")
        self.repo = EndpointsRepo(str(self.work), folder / "mirror.git")
        self.restart()

    def restart(self, outside: Outside | None = None, moot: frozenset[str] = frozenset()) -> None:
        self.heads = Heads(self.record, lambda: 1_000.0)
        self.commits = Commits(self.repo, self.heads, self.record, lambda reading, tree: (), outside, moot)

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.work), "-c", "user.name=Ada", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def endpoint(self, name: str, traffic: str = "{blue: 100}") -> None:
        self.put(f"endpoints/{name}/endpoint.yml", f"name: {name}\nauth_mode: key\ntraffic: {traffic}\n")
        self.put(f"endpoints/{name}/deployments/blue.yml", DEPLOYMENT)
        self.put(f"endpoints/{name}/code/score.py", "def init(): ...\n")
        self.put(f"endpoints/{name}/code/m.pkl", "weights")
        self.put(f"endpoints/{name}/code/conda.yml", "dependencies: [python=3.11]\n")

    def put(self, path: str, text: str) -> None:
        file = self.work / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")

    def close(self) -> None:
        self.repo.close()
        self.record.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    for name in ("churn", "fraud"):
        made.endpoint(name)
    made.commit()
    yield made
    made.close()


def test_the_first_look_takes_every_endpoint_up_and_the_next_none(desk: Desk) -> None:
    assert desk.commits.look() == ("churn", "fraud")
    head = desk.heads.get("fraud")
    assert (head.findings, head.commit, head.active is not None) == ((), desk.commits.handled, True)
    assert desk.commits.look() == ()


def test_a_commit_that_touches_one_endpoint_is_read_for_that_one_only(desk: Desk) -> None:
    desk.commits.look()
    before = desk.heads.get("churn")
    desk.put("endpoints/fraud/code/score.py", "def init(): return 2\n")
    desk.put("README.md", "nothing of an endpoint")
    commit = desk.commit()
    assert desk.commits.look() == ("fraud",)
    assert desk.heads.get("churn") == before
    assert desk.commits.handled == commit


def test_a_burst_of_commits_is_one_look_at_the_last(desk: Desk) -> None:
    desk.commits.look()
    for number in range(3):
        desk.put("endpoints/fraud/code/score.py", f"def init(): return {number}\n")
        last = desk.commit()
    desk.commits.look()
    assert desk.heads.get("fraud").commit == last
    started = desk.record.events("fraud", kind="rollout.started")
    assert len(started) == 2


def test_a_commit_that_a_newer_one_contains_was_reached_and_one_that_is_still_to_come_was_not(desk: Desk) -> None:
    desk.commits.look()
    first, passed_over, last = desk.commits.handled, desk.commit(), desk.commit()
    assert [desk.commits.reached(commit) for commit in (first, passed_over, last)] == [True, False, False]
    desk.commits.look()
    assert [desk.commits.reached(commit) for commit in (first, passed_over, last)] == [True, True, True]
    assert [desk.commits.reached(commit) for commit in ("", "f" * 40, "main", "--all")] == [False] * 4


def test_a_broken_commit_is_rejected_and_read_again_with_the_next(desk: Desk) -> None:
    desk.commits.look()
    good = desk.heads.get("fraud").asked
    desk.endpoint("fraud", "{blue: 95}")
    desk.commit()
    desk.commits.look()
    head = desk.heads.get("fraud")
    assert head.findings[0].place.file == "endpoints/fraud/endpoint.yml"
    assert head.asked == good
    desk.put("README.md", "another file altogether")
    desk.commit()
    assert desk.commits.look() == ("fraud",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"endpoints/\xff/endpoint.yml", id="an endpoint"),
        pytest.param(b"endpoints/churn/deployments/\xff.yml", id="a deployment"),
        pytest.param(b"endpoints/churn/\xff", id="a file that nobody reads"),
    ],
)
def test_a_name_that_is_no_text_stops_nothing_but_itself(desk: Desk, name: bytes) -> None:
    file = os.path.join(os.fsencode(desk.work), name)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file, "w") as opened:
        opened.write("name: x\n")
    commit = desk.commit()
    desk.commits.look()
    assert desk.commits.handled == commit
    assert desk.heads.get("fraud").active is not None
    said = (*desk.commits.findings, *desk.heads.get("churn").findings)
    assert [(f.code, "\\xff" in f.place.file) for f in said] == [("name-bytes", True)]
    codec.canonical(said)
    desk.restart()
    assert desk.commits.look() == ()


def test_links_of_any_bytes_are_named_and_stop_nothing(desk: Desk) -> None:
    code = os.path.join(os.fsencode(desk.work), b"endpoints/churn/code")
    os.symlink(b"/\xfe", os.path.join(code, b"\xff"))
    commit = desk.commit()
    desk.commits.look()
    assert desk.commits.handled == commit
    assert [f.code for f in desk.heads.get("churn").findings] == ["path-link"]
    assert desk.heads.get("fraud").active is not None


def test_an_endpoint_whose_reading_breaks_keeps_nothing_from_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.commits.look()
    good = desk.heads.get("churn").asked
    read = module.read_endpoint

    def breaks(tree: Tree, name: str, *more: Any) -> Reading:
        if name == "churn":
            raise RecursionError("nobody thought of this")
        return read(tree, name, *more)

    monkeypatch.setattr(module, "read_endpoint", breaks)
    for name in ("churn", "fraud"):
        desk.put(f"endpoints/{name}/code/score.py", "def init(): return 2\n")
    commit = desk.commit()
    assert desk.commits.look() == ("churn", "fraud")
    assert (desk.commits.handled, desk.heads.get("fraud").commit) == (commit, commit)
    head = desk.heads.get("churn")
    assert ([f.code for f in head.findings], head.asked) == (["reading-broke"], good)
    monkeypatch.undo()
    desk.put("README.md", "another commit")
    assert desk.commit() != commit
    assert desk.commits.look() == ("churn",)
    assert desk.heads.get("churn").findings == ()


def test_a_folder_that_is_gone_is_forgotten(desk: Desk) -> None:
    desk.commits.look()
    desk.git("rm", "-rq", "endpoints/fraud")
    desk.commit()
    assert desk.commits.look() == ("fraud",)
    assert desk.heads.get("fraud").removing_since == 1_000.0


def test_a_broken_headgate_yml_stops_the_commit_and_no_endpoint(desk: Desk) -> None:
    desk.commits.look()
    before = desk.heads.get("fraud")
    desk.put("headgate.yml", "no_such_setting: 1\n")
    desk.put("endpoints/fraud/code/score.py", "def init(): return 2\n")
    desk.commit()
    assert desk.commits.look() == ()
    assert [f.place.file for f in desk.commits.findings] == ["headgate.yml"]
    assert desk.heads.get("fraud") == before


def test_a_rewritten_history_waits_for_a_person(desk: Desk) -> None:
    desk.commits.look()
    handled = desk.commits.handled
    desk.git("checkout", "-q", "--orphan", "other")
    desk.git("branch", "-D", "main")
    desk.git("branch", "-m", "main")
    desk.put("endpoints/fraud/code/score.py", "def init(): return 2\n")
    other = desk.commit()
    assert desk.commits.look() == ()
    assert [f.code for f in desk.commits.findings] == ["history-rewritten"]
    assert desk.commits.handled == handled
    desk.commits.accept_rewrite(other)
    desk.commits.look()
    assert desk.commits.handled == other


def test_a_branch_that_is_put_back_where_it_was_has_no_rewritten_history(desk: Desk) -> None:
    desk.commits.look()
    good = desk.commits.handled
    desk.git("commit", "-q", "--amend", "-m", "another past")
    desk.commits.look()
    assert [f.code for f in desk.commits.findings] == ["history-rewritten"]
    desk.git("reset", "-q", "--hard", good)
    desk.commits.look()
    assert desk.commits.findings == ()


def test_a_rewritten_history_is_taken_as_a_whole_where_the_old_one_is_nowhere_any_more(desk: Desk) -> None:
    desk.commits.look()
    desk.repo.close()
    shutil.rmtree(desk.work / ".git")
    desk.git("init", "-q", "-b", "main")
    desk.put("endpoints/fraud/code/score.py", "def init(): return 2\n")
    other = desk.commit()
    desk.repo = EndpointsRepo(str(desk.work), desk.folder / "another.git")
    desk.restart()
    assert desk.commits.look() == ()
    desk.commits.accept_rewrite(other)
    assert desk.commits.look() == ("churn", "fraud")
    assert (desk.commits.handled, desk.heads.get("fraud").commit) == (other, other)


def test_a_repo_that_cannot_be_read_is_said_until_it_can(desk: Desk) -> None:
    desk.commits.look()
    away = desk.folder / "away"
    desk.work.rename(away)
    assert desk.commits.look() == ()
    assert desk.commits.error
    away.rename(desk.work)
    desk.commits.look()
    assert desk.commits.error == ""


def test_a_restart_knows_which_endpoint_reads_which_file(desk: Desk) -> None:
    desk.commits.look()
    desk.restart()
    assert desk.commits.look() == ()
    desk.put("endpoints/churn/code/m.pkl", "other weights")
    desk.commit()
    assert desk.commits.look() == ("churn",)


def test_a_catalogue_that_is_away_is_asked_again_without_a_commit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    away = True

    def outside(ref: str, *_: object) -> ModelPin:
        if away:
            raise TransientError("the lake does not answer")
        return ModelPin("churn", "1", None, ".catalogue/lake/churn/1", "d")

    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    desk.restart(outside)
    desk.put("headgate.yml", "catalogues: {lake: {kind: s3, url: 's3://models'}}\n")
    desk.put("endpoints/churn/deployments/blue.yml", DEPLOYMENT.replace("{path: ../code/m.pkl}", "azureml:churn:1"))
    desk.commit()
    assert desk.commits.look() == ("churn", "fraud")
    assert [f.code for f in desk.heads.get("churn").findings] == ["catalogue-unreachable"]
    assert desk.heads.get("fraud").active is not None, "the others go on"
    desk.restart(outside)  # what waits is not forgotten
    assert desk.commits.again_s is not None
    assert desk.commits.look() == ("churn",)
    away = False
    assert desk.commits.look() == ("churn",)
    assert (desk.commits.again_s, desk.commits.look()) == (None, ())
    head = desk.heads.get("churn")
    assert head.findings == ()
    assert head.active is not None


@pytest.mark.parametrize(
    ("moot", "expected"),
    [(frozenset[str](), ["clusters-only"]), (frozenset({"clusters-only"}), [])],
    ids=["one machine", "a cluster"],
)
def test_what_one_machine_cannot_do_is_said_on_one_machine_only(
    desk: Desk, moot: frozenset[str], expected: list[str]
) -> None:
    scaled = "type: kubernetes\nscale_settings: {type: target_utilization, min_instances: 1, max_instances: 3}\n"
    desk.put("endpoints/fraud/deployments/blue.yml", DEPLOYMENT + scaled)
    desk.commit()
    desk.restart(moot=moot)
    desk.commits.look()
    assert [found.code for found in desk.heads.get("fraud").findings] == expected


def test_settings_are_those_of_the_commit_that_was_handled_also_when_our_copy_of_the_repo_is_lost(desk: Desk) -> None:
    desk.put("headgate.yml", "instance_types:\n  small: {cpus: 0.5, memory_gb: 1}\n")
    desk.commit()
    desk.commits.look()
    desk.repo.close()
    desk.repo = EndpointsRepo(str(desk.work), desk.folder / "another.git")
    desk.restart()
    assert desk.commits.ground().instance_types["small"].cpus == 0.5


def test_nothing_is_started_by_settings_that_cannot_be_read(desk: Desk) -> None:
    desk.put("headgate.yml", "instance_types:\n  small: {cpus: 0.5, memory_gb: 1}\n")
    desk.commit()
    desk.commits.look()
    desk.repo.close()
    away = desk.folder / "away"
    desk.work.rename(away)
    desk.repo = EndpointsRepo(str(desk.work), desk.folder / "another.git")
    desk.restart()
    with pytest.raises(TransientError, match=r"headgate\.yml cannot be read"):
        desk.commits.ground()
    away.rename(desk.work)
    assert desk.commits.look() == ()
    assert desk.commits.ground().instance_types["small"].cpus == 0.5


SMALL = "instance_types:\n  small: {cpus: 0.5, memory_gb: 1}\n"


def test_a_refused_headgate_yml_leaves_the_settings_that_serve_also_after_a_restart(desk: Desk) -> None:
    desk.put("headgate.yml", SMALL)
    desk.commit()
    desk.commits.look()
    desk.put("headgate.yml", SMALL + "no_such_setting: 1\n")
    desk.commit()
    desk.commits.look()
    assert desk.commits.ground().instance_types["small"].cpus == 0.5
    desk.restart()
    assert desk.commits.ground().instance_types["small"].cpus == 0.5
    assert [f.place.file for f in desk.commits.findings] == ["headgate.yml"]


@pytest.mark.parametrize("restarted", [False, True], ids=["running on", "restarted"])
def test_what_a_commit_with_a_refused_headgate_yml_asked_is_done_once_it_is_mended(desk: Desk, restarted: bool) -> None:
    desk.put("headgate.yml", SMALL)
    desk.commit()
    desk.commits.look()
    desk.put("headgate.yml", SMALL + "no_such_setting: 1\n")
    desk.endpoint("shop")
    desk.git("rm", "-rq", "--ignore-unmatch", "endpoints/churn")
    desk.commit()
    assert desk.commits.look() == ()
    if restarted:
        desk.restart()
    desk.put("headgate.yml", SMALL)
    desk.commit()
    assert "shop" in desk.commits.look()
    assert desk.heads.get("shop").active is not None
    assert desk.heads.get("churn").removing_since is not None


def test_a_model_that_waits_is_not_read_by_a_refused_headgate_yml(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(ref: str, *_: object) -> ModelPin:
        raise TransientError("the lake does not answer")

    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    desk.restart(outside)
    lake = "catalogues: {lake: {kind: s3, url: 's3://models'}}\n"
    desk.put("headgate.yml", lake)
    desk.put("endpoints/churn/deployments/blue.yml", DEPLOYMENT.replace("{path: ../code/m.pkl}", "azureml:churn:1"))
    desk.commit()
    desk.commits.look()
    desk.put("headgate.yml", lake + "no_such_setting: 1\n")
    refused = desk.commit()
    desk.commits.look()
    assert desk.commits.look() == ()
    assert desk.heads.get("churn").commit != refused

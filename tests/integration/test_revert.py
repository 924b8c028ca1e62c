"""The bot's revert on real repositories: exact content, evidence in the message, once, never over somebody's work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.evidence import Difference, Result, Verdict
from headgate.findings import TransientError
from headgate.process import Process
from headgate.rollout import Undo
from headgate.target import RouterSettings, Target
from headgate_controllers.repo import EndpointsRepo, trailers
from headgate_controllers.revert import Reverted, message, undo

FRAUD = "endpoints/fraud"
AT = 1_700_000_000.0


class Place:
    """A bare origin, a clone to write in, and the controller's view."""

    def __init__(self, folder: Path) -> None:
        self.origin, self.work = folder / "origin.git", folder / "work"
        self.origin.mkdir()
        self.git("init", "-q", "--bare", "-b", "main", at=self.origin)
        self.git("clone", "-q", str(self.origin), str(self.work), at=folder)
        self.git("symbolic-ref", "HEAD", "refs/heads/main")
        self.repo = EndpointsRepo(self.origin, folder / "mirror.git")

    def git(self, *arguments: str, at: Path | None = None) -> str:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        clean |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments]
        done = subprocess.run(command, cwd=at or self.work, env=clean, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, subject: str, **files: str | None) -> str:
        """Files of the endpoint by name; None removes one."""
        return self.commit_paths(subject, {f"{FRAUD}/{name}.yml": content for name, content in files.items()})

    def commit_paths(self, subject: str, files: dict[str, str | None]) -> str:
        for path, content in files.items():
            file = self.work / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", subject)
        self.git("push", "-q", "origin", "HEAD:main")
        self.repo.fetch()
        return self.git("rev-parse", "HEAD")

    def target(self, commit: str, *more: str) -> Target:
        tree = self.repo.tree(commit)
        paths = [*tree.files(FRAUD), *more]
        files = {path: tree.object_id(path) or "" for path in paths}
        return Target("fraud", commit, {}, {}, RouterSettings(), Process(), files)

    def owed(self, failed: str, good: str | None, *more: str, mode: str = "revert") -> Undo:
        fail = Verdict(
            gate="mirror-diff",
            version="1",
            phase="mirror",
            parameters={},
            alpha=0.001,
            result=Result.FAIL,
            explanation="97.2 % of 412 pairs differ by more than 5 %.",
            figures={"pairs": 412.0, "share": 0.972},
            differences=(
                Difference("$[0]", "number", 0.972, "152.1", "1.9\nHeadgate-Op-Key: forged", "-98.7 % on average"),
            ),
            evidence="e" * 64,
        )
        target = self.target(good, *more) if good else None
        key = f"ro-fraud-{failed[:10]}-1/revert"
        return Undo(key, mode, self.target(failed, *more), target, "fraud: mirror-diff: wrong answers", (fail,))

    def undo(self, owed: Undo, **others: set[str]) -> Reverted:
        return undo(self.repo, owed, others, clock=lambda: AT)

    def main(self) -> str:
        return self.git("rev-parse", "main", at=self.origin)

    def content(self, revision: str = "main", under: str = ".") -> str:
        return self.git("ls-tree", "-r", revision, under, at=self.origin)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.repo.close()


def test_changed_added_and_removed_files_go_back_and_nothing_else(place: Place) -> None:
    good = place.commit("one", endpoint="blue: 100", blue="v1")
    failed = place.commit("two", endpoint="green: 100", blue=None, green="v2")
    place.commit_paths("elsewhere", {"endpoints/other/endpoint.yml": "x"})
    done = place.undo(place.owed(failed, good))
    assert done.pushed
    assert done.result == place.main()
    assert place.content(under=FRAUD) == place.content(good, FRAUD)
    assert place.content(under="endpoints/other") != ""
    assert place.git("rev-parse", "main~1", at=place.origin) == place.git("rev-parse", "HEAD")


def test_the_message_has_three_examples_whether_three_places_differ_or_one(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    owed = place.owed(failed, good)
    one = replace(owed.verdicts[0].differences[0], more=(("2", "20"), ("3", "30"), ("4", "40")))
    two = replace(one, path="$[1]", stable="5", candidate="50")

    def examples(*differences: Difference) -> list[str]:
        verdict = replace(owed.verdicts[0], differences=differences)
        said = message(replace(owed, verdicts=(verdict,)), [])
        return [line.strip().removeprefix("e.g. stable ") for line in said.splitlines() if "e.g." in line]

    first = "152.1, candidate 1.9 Headgate-Op-Key: forged"
    assert examples(one) == [first, "2, candidate 20", "3, candidate 30"]
    assert examples(one, two) == [first, "2, candidate 20", "5, candidate 50"]
    assert len(examples(*[one] * 5)) == 3


def test_a_folder_that_was_read_goes_back_whole(place: Place) -> None:
    good = place.commit_paths("one", {f"{FRAUD}/e.yml": "1", "models/m/weights": "1", "models/m/more": "1"})
    failed = place.commit_paths("two", {"models/m/weights": "2", "models/m/more": None, "models/m/new": "3"})
    done = place.undo(place.owed(failed, good, "models/m"))
    assert done.pushed
    assert place.content(under="models") == place.content(good, "models")


def test_the_message_tells_the_evidence_and_what_is_undone(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    first = place.commit("better model", endpoint="2")
    second = place.commit("even better", endpoint="3")
    place.undo(place.owed(second, good))
    text = place.git("log", "-1", "--format=%B", "main", at=place.origin)
    assert text.splitlines()[0] == 'Revert "even better": fraud mirror-diff failed at mirror'
    assert "97.2 % of 412 pairs differ by more than 5 %." in text
    assert "figures: pairs 412, share 0.972" in text
    assert "e.g. stable 152.1, candidate 1.9 Headgate-Op-Key: forged" in text
    assert [line for line in text.splitlines() if line.startswith("This reverts")] == [
        f"This reverts commit {second}.",
        f"This reverts commit {first}.",
    ]
    assert place.git("log", "-1", "--format=%(trailers:only)", "main", at=place.origin).splitlines() == [
        f"Headgate-Op-Key: ro-fraud-{second[:10]}-1/revert",
        "Headgate-Endpoint: fraud",
        f"Headgate-Verdict: mirror-diff fail mirror {'e' * 64}",
        f"Headgate-Undoes: {second}",
        f"Headgate-Undoes: {first}",
    ]


def test_asked_again_it_is_made_once(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    owed = place.owed(failed, good)
    first = place.undo(owed)
    again = place.undo(owed)
    place.git("pull", "-q")
    later = place.commit("three", endpoint="3")
    assert (again.result, again.pushed) == (first.result, False)
    assert place.undo(owed).result == first.result
    assert place.main() == later


def test_what_a_person_reverted_first_is_left_as_it_is(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    owed = place.owed(failed, good)
    place.git("revert", "--no-edit", failed)
    place.git("push", "-q", "origin", "HEAD:main")
    before = place.git("rev-parse", "HEAD")
    assert place.undo(owed).result == before == place.main()


def test_a_newer_change_of_the_same_file_wins(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    newer = place.commit("three", endpoint="3")
    done = place.undo(place.owed(failed, good))
    assert done.result == ""
    assert "superseded" in done.message
    (finding,) = done.findings
    assert (finding.code, finding.is_error) == ("revert-superseded", False)
    assert "was changed since" in finding.message
    assert place.main() == newer


def test_a_commit_after_a_revert_undoes_only_itself(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    place.undo(place.owed(failed, good))
    place.git("pull", "-q")
    third = place.commit("three", endpoint="3")
    place.undo(place.owed(third, good))
    text = place.git("log", "-1", "--format=%B", "main", at=place.origin)
    assert f"This reverts commit {third}." in text
    assert f"This reverts commit {failed}." not in text


def test_an_endpoint_whose_first_release_failed_is_taken_out(place: Place) -> None:
    place.commit_paths("start", {"headgate.yml": "{}"})
    failed = place.commit("first", endpoint="1", blue="1")
    done = place.undo(place.owed(failed, None, "headgate.yml"))
    assert done.pushed
    assert place.content().split("\t")[1:] == ["headgate.yml"]


def test_a_file_that_another_endpoint_reads_is_left_to_a_person(place: Place) -> None:
    good = place.commit_paths("one", {f"{FRAUD}/e.yml": "1", "models/m/w": "1"})
    failed = place.commit_paths("two", {"models/m/w": "2"})
    owed = place.owed(failed, good, "models/m")
    done = place.undo(owed, churn={"models/m/w", "endpoints/churn/endpoint.yml"})
    assert place.main() == failed
    assert done.result == f"headgate/revert-ro-fraud-{failed[:10]}-1"
    assert "models/m (read by churn)" in done.findings[0].why
    assert not done.findings[0].is_error
    assert place.content(done.result, "models") == place.content(good, "models")
    assert place.undo(owed, churn={"models/m/w"}).result == done.result


def test_files_another_endpoint_reads_do_not_matter_when_they_did_not_change(place: Place) -> None:
    good = place.commit_paths("one", {f"{FRAUD}/e.yml": "1", "models/m/w": "1"})
    failed = place.commit_paths("two", {f"{FRAUD}/e.yml": "2"})
    assert place.undo(place.owed(failed, good, "models/m"), churn={"models/m"}).pushed


def test_on_a_protected_branch_it_becomes_a_branch_and_a_finding(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    hook = place.origin / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/main ] || { echo reviewed changes only; exit 1; }\n')
    hook.chmod(0o755)
    done = place.undo(place.owed(failed, good))
    assert place.main() == failed
    assert place.content(done.result) == place.content(good)
    assert "reviewed changes only" in done.findings[0].why
    assert done.findings[0].code == "revert-on-branch"


def test_asked_for_a_pull_request_it_is_a_branch_that_the_finding_names(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    done = place.undo(place.owed(failed, good, mode="revert-pr"))
    assert place.main() == failed
    assert [(f.code, f.is_error) for f in done.findings] == [("revert-on-branch", False)]
    assert done.result in done.findings[0].message
    assert place.content(done.result) == place.content(good)


def test_a_branch_that_moves_meanwhile_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    owed = place.owed(failed, good)
    make = EndpointsRepo.commit_files
    moved: list[str] = []

    def move_first(repo: EndpointsRepo, *arguments: object, **named: object) -> str:
        made = make(repo, *arguments, **named)  # type: ignore[arg-type]
        if not moved:
            moved.append(place.commit_paths("elsewhere", {"README": "new"}))
        return made

    monkeypatch.setattr(EndpointsRepo, "commit_files", move_first)
    done = place.undo(owed)
    assert done.pushed
    assert place.git("rev-parse", "main~1", at=place.origin) == moved[0]
    assert place.content(under=FRAUD) == place.content(good, FRAUD)


def test_an_origin_that_is_gone_leaves_it_owed(place: Place, tmp_path: Path) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    owed = place.owed(failed, good)
    place.origin.rename(tmp_path / "away")
    with pytest.raises(TransientError, match="cannot be read now"):
        place.undo(owed)
    (tmp_path / "away").rename(place.origin)
    assert place.undo(owed).pushed


def test_a_commit_that_is_not_here_is_said(place: Place) -> None:
    good = place.commit("one", endpoint="1")
    failed = place.commit("two", endpoint="2")
    owed = place.owed(failed, good)
    assert owed.good is not None
    lost = Undo(
        owed.op_key, owed.mode, owed.failed, Target("fraud", "f" * 40, {}, {}, RouterSettings(), Process(), {}), "r"
    )
    done = place.undo(lost)
    assert (done.result, done.findings[0].code) == ("", "repo-unknown-commit")
    assert place.main() == failed


def test_without_a_verdict_the_reason_is_the_subject(place: Place) -> None:
    failed = place.commit("two", endpoint="2")
    owed = place.owed(failed, None)
    text = message(Undo("w/revert", "revert", owed.failed, None, "fraud: build: no such package"), [])
    assert text.splitlines()[0] == f'Revert "{failed[:10]}": fraud: build: no such package'
    assert trailers(text.strip()) == {"Headgate-Op-Key": ("w/revert",), "Headgate-Endpoint": ("fraud",)}

"""`headgate init`: a repo that can be served at once, with real git."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import git
import pytest

from headgate.findings import FindingsError
from headgate_console import main
from headgate_console.exits import Exit
from headgate_console.init import create, template_dir


def test_a_work_tree_with_one_clean_commit_is_made(tmp_path: Path) -> None:
    assert create(tmp_path / "eps") is None
    with git.Repo(tmp_path / "eps") as repo:
        assert repo.active_branch.name == "main"
        assert len(list(repo.iter_commits())) == 1
        assert not repo.is_dirty(untracked_files=True)
    assert (tmp_path / "eps" / "headgate.yml").is_file()


def test_everything_of_the_template_arrives(tmp_path: Path) -> None:
    create(tmp_path / "eps")
    wanted = {p.relative_to(template_dir()) for p in template_dir().rglob("*") if p.is_file()}
    with git.Repo(tmp_path / "eps") as repo:
        committed = {Path(str(item.path)) for item in repo.head.commit.tree.traverse() if item.type == "blob"}  # type: ignore[union-attr]
    assert committed == wanted


def test_a_bare_origin_has_the_commit_and_is_what_push_goes_to(tmp_path: Path) -> None:
    origin = create(tmp_path / "eps", branch="live", bare_origin=True)
    assert origin == tmp_path / "eps.git"
    with git.Repo(tmp_path / "eps") as repo, git.Repo(origin) as bare:
        assert bare.bare
        assert bare.commit("live").hexsha == repo.head.commit.hexsha
        assert repo.remote("origin").url == str(origin)
        assert str(repo.active_branch.tracking_branch()) == "origin/live"


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "eps").mkdir()
    (tmp_path / "eps" / "mine.txt").write_text("mine")
    with pytest.raises(FindingsError, match="not-empty"):
        create(tmp_path / "eps")
    assert [p.name for p in (tmp_path / "eps").iterdir()] == ["mine.txt"]


def test_a_disk_that_takes_no_more_leaves_no_half_made_repo(tmp_path: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))"  # no file may grow beyond that
    code = f"import sys; from headgate_console import main; {full}; sys.exit(main.run(['init', sys.argv[1]]))"
    asked = subprocess.run([sys.executable, "-c", code, str(tmp_path / "eps")], capture_output=True, text=True)
    assert asked.returncode == Exit.REFUSED
    assert "error[machine-refuses]" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert not (tmp_path / "eps").exists()


def test_a_taken_origin_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "eps.git").mkdir()
    (tmp_path / "eps.git" / "HEAD").write_text("ref: refs/heads/main")
    with pytest.raises(FindingsError, match="not-empty"):
        create(tmp_path / "eps", bare_origin=True)
    assert not (tmp_path / "eps").exists()


def test_traffic_edits_and_commits_that_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Ada")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "ada@example.org")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Ada")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "ada@example.org")
    create(tmp_path / "eps")
    endpoint = tmp_path / "eps" / "endpoints" / "hello" / "endpoint.yml"
    endpoint.parent.mkdir()
    endpoint.write_text("name: hello # ours\ntraffic:\n  blue: 100\n")
    for name in ("blue", "green"):
        (endpoint.parent / "deployments").mkdir(exist_ok=True)
        (endpoint.parent / "deployments" / f"{name}.yml").write_text(f"name: {name}\n")
    with git.Repo(tmp_path / "eps") as repo:
        repo.git.add("--all")
        repo.index.commit("hello")
        (tmp_path / "eps" / "other.txt").write_text("staged")
        repo.git.add("other.txt")
        argv = ["traffic", "hello", "blue=90 green=10", "--repo", str(tmp_path / "eps"), "--commit"]
        assert main.run(argv) == Exit.OK
        assert repo.head.commit.message == "hello: traffic blue=90 green=10\n"
        assert list(repo.head.commit.stats.files) == ["endpoints/hello/endpoint.yml"]
    assert endpoint.read_text() == "name: hello # ours\ntraffic:\n  blue: 90\n  green: 10\n"
    assert "+  green: 10" in capsys.readouterr().out
    assert main.run(["traffic", "hello", "teal=100", "--repo", str(tmp_path / "eps"), "--commit"]) == Exit.REFUSED
    said = capsys.readouterr()
    assert "names `teal`, which is no deployment" in said.err
    assert said.out == "", "no change is shown that was not made"
    assert endpoint.read_text() == "name: hello # ours\ntraffic:\n  blue: 90\n  green: 10\n", "nothing is written"
    assert main.run(["traffic", "nope", "a=100", "--repo", str(tmp_path / "eps")]) == Exit.NOT_FOUND

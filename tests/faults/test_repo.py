"""The endpoints repo when things break: processes killed, folders gone, locks left, an origin that does not answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.repo import endpoints as repo_module
from headgate_controllers.repo.gitdir import STALE_S, RepoError

DEADLINE_S = 60.0


def git(at: Path, *arguments: str, text: str = "") -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    clean |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments]
    return subprocess.run(
        command, cwd=at, env=clean, capture_output=True, text=True, input=text, check=True
    ).stdout.strip()


def commit(origin: Path, **files: str) -> str:
    """A commit on main without a work tree."""
    head = git(origin, "for-each-ref", "--format=%(objectname)", "refs/heads/main")
    base = f"from {head}\n" if head else ""
    names = "".join(f"M 100644 inline {n}\ndata {len(c)}\n{c}\n" for n, c in files.items())
    stream = f"commit refs/heads/main\ncommitter A <a@b> {time.time_ns() // 10**9} +0000\ndata 1\nx\n{base}{names}"
    git(origin, "fast-import", "--quiet", "--force", text=stream)
    return git(origin, "rev-parse", "main")


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    made = tmp_path / "origin.git"
    made.mkdir()
    git(made, "init", "-q", "--bare", "-b", "main")
    return made


@pytest.fixture
def repo(origin: Path, tmp_path: Path) -> Iterator[EndpointsRepo]:
    opened = EndpointsRepo(origin, tmp_path / "mirror.git")
    yield opened
    opened.close()


def test_a_killed_reading_process_is_started_again(origin: Path, repo: EndpointsRepo) -> None:
    first = commit(origin, a="1", b="2")
    repo.fetch()
    assert repo.tree(first).read("a", 10) == b"1"
    for persistent in (repo._git._git.cat_file_all, repo._git._git.cat_file_header):
        assert persistent is not None
        os.kill(persistent.pid, signal.SIGKILL)
        persistent.proc.wait()
    assert repo.tree(first).read("b", 10) == b"2"
    assert repo.is_ancestor(first, first)


@pytest.mark.parametrize("lock", ["config.lock", "packed-refs.lock", "refs/heads/main.lock", "shallow.lock"])
def test_a_lock_left_by_a_killed_git_stops_nothing(lock: str, origin: Path, tmp_path: Path) -> None:
    for _ in range(2):
        first = commit(origin, a="1")
        opened = EndpointsRepo(f"file://{origin}", tmp_path / "m.git")
        opened.fetch()
        assert opened.head() == first
        opened.close()
        left = tmp_path / "m.git" / lock
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()


@pytest.mark.parametrize("lock", ["HEAD.lock", "refs/heads/main.lock", "shallow.lock"])
def test_a_lock_that_a_git_of_ours_leaves_while_we_run_stops_nothing_for_long(
    lock: str, origin: Path, tmp_path: Path
) -> None:
    commit(origin, a="1")
    opened = EndpointsRepo(f"file://{origin}", tmp_path / "m.git")
    opened.fetch()
    second = commit(origin, a="2")
    left = tmp_path / "m.git" / lock
    left.touch()
    long_ago = time.time() - 2 * STALE_S
    os.utime(left, (long_ago, long_ago))
    opened.fetch()
    assert opened.head() == second
    opened.close()


def test_a_lock_that_may_be_held_is_not_taken_away(origin: Path, tmp_path: Path) -> None:
    commit(origin, a="1")
    opened = EndpointsRepo(f"file://{origin}", tmp_path / "m.git")
    opened.fetch()
    commit(origin, a="2")
    held = tmp_path / "m.git/refs/heads/main.lock"
    held.touch()
    with pytest.raises(RepoError):
        opened.fetch()
    assert held.exists()
    opened.close()


def test_a_mirror_that_was_half_made_is_made_whole(origin: Path, tmp_path: Path) -> None:
    first = commit(origin, a="1")
    mirror = tmp_path / "m.git"
    mirror.mkdir()
    (mirror / "HEAD").write_text("ref: refs/heads/main\n")
    opened = EndpointsRepo(origin, mirror)
    opened.fetch()
    opened.keep()
    assert git(mirror, "rev-parse", "refs/heads/main") == first
    opened.close()


def test_killed_at_any_moment_the_next_one_reads_on(origin: Path, tmp_path: Path) -> None:
    commit(origin, a="1")
    program = """
        import sys
        from pathlib import Path
        from headgate_controllers.repo import EndpointsRepo
        repo = EndpointsRepo(sys.argv[1], Path(sys.argv[2]))
        while True:
            repo.fetch()
            base = repo.head()
            repo.keep()
            repo.commit_files(base, {"a": b"changed"}, "m", at=1.0)
            print("round", flush=True)
    """
    for turn in range(6):
        command = [sys.executable, "-c", textwrap.dedent(program), f"file://{origin}", str(tmp_path / "m.git")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            if turn:
                child.stdout.readline()
            time.sleep(0.015 * turn)
            child.kill()
        newest = commit(origin, a=str(turn))
        opened = EndpointsRepo(f"file://{origin}", tmp_path / "m.git")
        opened.fetch()
        assert opened.head() == newest
        assert opened.tree(newest).read("a", 10) == str(turn).encode()
        opened.close()
    git(tmp_path / "m.git", "fsck", "--strict", "--no-dangling")


def test_an_origin_that_goes_and_comes_back_is_seen_both_times(
    origin: Path, repo: EndpointsRepo, tmp_path: Path
) -> None:
    first = commit(origin, a="1")
    states: list[str] = []

    def look() -> None:
        try:
            repo.fetch()
            states.append(repo.head())
        except RepoError as error:
            states.append(error.findings[0].code)

    repo.watch(look)
    until(lambda: states[-1:] == [first])
    origin.rename(tmp_path / "away")
    until(lambda: states[-1] in ("repo-unreachable", "repo-unusable"))
    assert repo.problem is not None
    assert repo.head() == first
    (tmp_path / "away").rename(origin)
    until(lambda: states[-1] == first)
    assert repo.problem is None


def test_reading_goes_on_while_the_origin_repacks(origin: Path, repo: EndpointsRepo) -> None:
    for number in range(5):
        newest = commit(origin, **{f"f{n}": f"{number} {n}" for n in range(20)})
        repo.fetch()
        git(origin, "gc", "-q", "--prune=now")
        assert repo.tree(newest).read("f7", 10) == f"{number} 7".encode()
        assert len(repo.tree(newest).files()) == 20


def test_a_copy_that_lost_an_object_says_so(origin: Path, repo: EndpointsRepo, tmp_path: Path) -> None:
    first = commit(origin, **{"d/a": "1"})
    repo.fetch()
    tree = repo.tree(first)
    for pack in (origin / "objects").rglob("pack-*"):
        pack.unlink()
    for loose in (origin / "objects").glob("??/*"):
        loose.unlink()
    repo._git.close()
    with pytest.raises(RepoError) as lost:
        tree.read("d/a", 10)
    assert lost.value.findings[0].code == "repo-incomplete"


def test_an_origin_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repo_module, "ASK_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        opened = EndpointsRepo(f"git://127.0.0.1:{silent.getsockname()[1]}/x.git", tmp_path / "m.git")
        with pytest.raises(RepoError) as refused:
            opened.fetch()
        opened.close()
    assert refused.value.findings[0].code == "repo-unreachable"
    assert "did not complete in 0.5 secs" in refused.value.findings[0].why


def test_a_machine_without_git_is_told_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RepoError) as refused:
        EndpointsRepo(tmp_path, tmp_path / "m.git")
    assert refused.value.findings[0].code == "git-missing"

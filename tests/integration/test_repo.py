"""The endpoints repo, on real git repositories: bare, with a work tree, and behind a URL."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headgate.findings import ConflictError, SpecError
from headgate_controllers.repo import EndpointsRepo, PushRefused
from headgate_controllers.repo.committree import Entry
from headgate_controllers.repo.gitdir import RepoError

DEADLINE_S = 60.0


def git(folder: Path, *arguments: str, text: str | None = None) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    who = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**clean, **who}, capture_output=True, text=True, input=text, check=True
    )
    return done.stdout.strip()


class Author:
    """A person with a clone and a bare origin."""

    def __init__(self, folder: Path) -> None:
        self.origin = folder / "origin.git"
        self.work = folder / "work"
        self.origin.mkdir(parents=True)
        git(self.origin, "init", "-q", "--bare", "-b", "main")
        git(folder, "clone", "-q", str(self.origin), str(self.work))
        git(self.work, "symbolic-ref", "HEAD", "refs/heads/main")

    def write(self, **files: str | None) -> Author:
        for name, content in files.items():
            self.put(name.replace("__", "/") + ".txt", content)
        return self

    def put(self, path: str, content: str | None) -> Author:
        file = self.work / path
        if content is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return self

    def commit(self, subject: str, push: bool = True) -> str:
        git(self.work, "add", "-A")
        git(self.work, "commit", "-q", "--allow-empty", "-m", subject)
        if push:
            git(self.work, "push", "-q", "origin", "HEAD:main")
        return git(self.work, "rev-parse", "HEAD")


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return Author(tmp_path)


@pytest.fixture(params=["path", "url"])
def repo(request: pytest.FixtureRequest, author: Author, tmp_path: Path) -> Iterator[EndpointsRepo]:
    source = str(author.origin) if request.param == "path" else f"file://{author.origin}"
    opened = EndpointsRepo(source, tmp_path / "mirror.git")
    yield opened
    opened.close()


@pytest.fixture
def local(author: Author, tmp_path: Path) -> Iterator[EndpointsRepo]:
    opened = EndpointsRepo(author.origin, tmp_path / "local.git")
    yield opened
    opened.close()


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


# --- looking ---


@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_shallow_clone_is_followed_copied_and_written_to(author: Author, tmp_path: Path, kind: str) -> None:
    for number in range(3):
        author.write(a=str(number)).commit(f"c{number}")
    shallow = tmp_path / "shallow.git"
    git(tmp_path, "clone", "-q", "--bare", "--depth", "1", f"file://{author.origin}", str(shallow))
    repo = EndpointsRepo(str(shallow) if kind == "path" else f"file://{shallow}", tmp_path / "m.git")
    repo.fetch()
    first = repo.head()
    git(author.work, "remote", "set-url", "origin", str(shallow))
    second = author.write(a="new").commit("new")
    repo.fetch()
    repo.keep()
    assert (repo.head(), repo.is_ancestor(first, second)) == (second, True)
    assert [c.subject for c in repo.log(second, after=first)] == ["new"]
    assert [c.subject for c in repo.log(second)] == ["new", "c2"]
    made = repo.commit_files(second, {"a.txt": b"back"}, "undone", at=1.0)
    repo.push(made, "main", second)
    assert git(shallow, "rev-parse", "main") == made
    repo.close()


def test_a_fetch_says_whether_the_branch_moved(author: Author, repo: EndpointsRepo) -> None:
    first = author.write(a="1").commit("first")
    assert repo.fetch() is True
    assert repo.head() == first
    assert repo.fetch() is False
    second = author.write(a="2").commit("second")
    assert repo.fetch() is True
    assert repo.head() == second
    assert repo.tree(second).read("a.txt", 10) == b"2"


def test_an_empty_repo_is_a_finding_until_its_first_commit(author: Author, repo: EndpointsRepo) -> None:
    with pytest.raises(RepoError) as refused:
        repo.fetch()
    assert refused.value.findings[0].code == "repo-empty"
    assert repo.problem == refused.value.findings[0]
    author.write(a="1").commit("first")
    assert repo.fetch()
    assert repo.problem is None


def test_a_branch_that_does_not_exist_names_those_that_do(author: Author, tmp_path: Path) -> None:
    author.write(a="1").commit("first")
    repo = EndpointsRepo(author.origin, tmp_path / "m.git", branch="prod")
    with pytest.raises(RepoError) as refused:
        repo.fetch()
    repo.close()
    assert refused.value.findings[0].code == "repo-no-branch"
    assert "main" in refused.value.findings[0].fix


def test_a_folder_that_is_no_repository_is_a_finding(tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", tmp_path):
        repo = EndpointsRepo(source, tmp_path / "m.git")
        with pytest.raises(RepoError, match="not an endpoints repo"):
            repo.fetch()
        repo.close()


@pytest.mark.parametrize("source", ["ext::sh -c touch% x", "--upload-pack=x", "", "ftp://example.org/x", "a\nb"])
def test_a_source_that_could_run_something_is_refused(source: str, tmp_path: Path) -> None:
    repo = EndpointsRepo(source, tmp_path / "m.git")
    with pytest.raises(RepoError) as refused:
        repo.fetch()
    repo.close()
    assert refused.value.findings[0].code == "repo-unusable"


@pytest.mark.parametrize("branch", ["-x", "a..b", "a b", "x.lock", ".x", "a/", "a:b", "HEAD^"])
def test_a_strange_branch_name_is_refused(branch: str, tmp_path: Path) -> None:
    with pytest.raises(RepoError) as refused:
        EndpointsRepo(tmp_path, tmp_path / "m.git", branch=branch)
    assert refused.value.findings[0].code == "repo-branch-name"


def test_the_branch_followed_stays_when_the_work_tree_switches(author: Author, tmp_path: Path) -> None:
    first = author.write(a="1").commit("first")
    for _ in range(2):
        repo = EndpointsRepo(author.work, tmp_path / "m.git")
        repo.fetch()
        assert (repo.branch, repo.head()) == ("main", first)
        repo.close()
        git(author.work, "switch", "-q", "-C", "feature")


def test_a_packed_branch_is_read(author: Author, local: EndpointsRepo) -> None:
    first = author.write(a="1").commit("first")
    git(author.origin, "pack-refs", "--all", "--prune")
    local.fetch()
    assert local.head() == first


def test_what_was_kept_is_readable_after_the_origin_forgot_it(author: Author, tmp_path: Path) -> None:
    first = author.write(a="1").commit("first")
    repo = EndpointsRepo(author.origin, tmp_path / "m.git")
    repo.fetch()
    repo.keep()
    repo.close()
    author.origin.rename(tmp_path / "gone")
    again = EndpointsRepo(author.origin, tmp_path / "m.git")
    assert again.head() == first
    assert again.tree(first).read("a.txt", 10) == b"1"
    with pytest.raises(RepoError):
        again.fetch()
    assert again.head() == first
    again.close()


def test_a_watch_sees_a_commit(author: Author, repo: EndpointsRepo) -> None:
    author.write(a="1").commit("first")
    seen: list[str] = []

    def look() -> None:
        repo.fetch()
        seen.append(repo.head())

    repo.watch(look)
    until(lambda: bool(seen))
    second = author.write(a="2").commit("second")
    until(lambda: seen[-1] == second)


def test_a_watch_outlives_a_listener_that_fails(author: Author, local: EndpointsRepo) -> None:
    author.write(a="1").commit("first")
    calls = []

    def fail() -> None:
        calls.append(1)
        raise OSError("disk full")

    local.watch(fail)
    until(lambda: len(calls) == 1)
    author.write(a="2").commit("second")
    until(lambda: len(calls) == 2)


def test_a_watch_copies_what_it_saw_when_it_is_quiet(author: Author, local: EndpointsRepo, tmp_path: Path) -> None:
    first = author.write(a="1").commit("first")

    def look() -> None:
        local.fetch()

    local.watch(look)
    until(lambda: _has(tmp_path / "local.git", first))


def _has(mirror: Path, commit: str) -> bool:
    found = subprocess.run(["git", "--git-dir", mirror, "cat-file", "-e", commit], capture_output=True, check=False)
    return found.returncode == 0


# --- reading ---


def test_a_tree_lists_regular_files_and_links_apart(author: Author, local: EndpointsRepo) -> None:
    author.put("endpoints/a/endpoint.yml", "name: a\n").put("endpoints/ä b/x", "yy").put("top", "1")
    (author.work / "endpoints/a/link").symlink_to("../../top")
    (author.work / "run.sh").write_text("#!/bin/sh\n")
    (author.work / "run.sh").chmod(0o755)
    commit = author.commit("first")
    local.fetch()
    tree = local.tree(commit)
    assert tree.files("endpoints") == {"endpoints/a/endpoint.yml": 8, "endpoints/ä b/x": 2}
    assert tree.files() == {**tree.files("endpoints"), "run.sh": 10, "top": 1}
    assert tree.links("endpoints/a") == {"endpoints/a/link": "../../top"}
    assert tree.files("nowhere") == {}
    assert tree.files("top") == {}


@pytest.mark.parametrize(
    "path", ["..", "../x", "/etc/passwd", "a/../top", "a//b", "link", "endpoints", "top\n", "missing"]
)
def test_only_a_regular_file_inside_is_read(path: str, author: Author, local: EndpointsRepo) -> None:
    author.put("top", "1").put("endpoints/x", "1")
    (author.work / "link").symlink_to("top")
    tree_of = author.commit("first")
    local.fetch()
    with pytest.raises(FileNotFoundError):
        local.tree(tree_of).read(path, 100)


def test_a_file_longer_than_the_limit_is_not_read(author: Author, local: EndpointsRepo) -> None:
    commit = author.put("big", "x" * 2_000).commit("first")
    local.fetch()
    with pytest.raises(ValueError, match="2,000 bytes"):
        local.tree(commit).read("big", 1_999)
    assert len(local.tree(commit).read("big", 2_000)) == 2_000


def test_equal_content_has_equal_ids_in_files_and_folders(author: Author, local: EndpointsRepo) -> None:
    first = author.put("m/1/w", "1").put("m/2/w", "1").commit("first")
    second = author.put("other", "x").commit("second")
    local.fetch()
    one, two = local.tree(first), local.tree(second)
    assert one.object_id("m/1") == one.object_id("m/2") == two.object_id("m/1") is not None
    assert one.object_id("m/1/w") == git(author.work, "rev-parse", "HEAD:m/1/w")
    assert one.object_id("other") is None


def test_a_derived_listing_equals_a_fresh_one(author: Author, local: EndpointsRepo, tmp_path: Path) -> None:
    for name in "abcd":
        author.put(f"endpoints/{name}/endpoint.yml", name)
    first = author.commit("first")
    local.fetch()
    local.tree(first).files()
    author.put("endpoints/b/endpoint.yml", None).put("endpoints/c/endpoint.yml", "longer").put("endpoints/e", "new")
    (author.work / "endpoints/a/endpoint.yml").unlink()
    (author.work / "endpoints/a/endpoint.yml").symlink_to("../c")
    second = author.commit("second")
    local.fetch()
    fresh = EndpointsRepo(author.origin, tmp_path / "fresh.git")
    fresh.fetch()
    assert local.tree(second).files() == fresh.tree(second).files()
    assert local.tree(second).links() == fresh.tree(second).links() == {"endpoints/a/endpoint.yml": "../c"}
    assert local.changed_paths(first, second) == {f"endpoints/{n}/endpoint.yml" for n in "abc"} | {"endpoints/e"}
    fresh.close()


def test_asking_for_many_folders_answers_as_asking_for_one(author: Author, local: EndpointsRepo) -> None:
    for number in range(20):
        author.put(f"endpoints/e{number}/endpoint.yml", str(number)).put(f"endpoints/e{number}-x/y", "z")
    commit = author.commit("first")
    local.fetch()
    tree = local.tree(commit)
    for number in range(20):
        assert list(tree.files(f"endpoints/e{number}")) == [f"endpoints/e{number}/endpoint.yml"]


def test_history_knows_ancestors_paths_and_trailers(author: Author, local: EndpointsRepo) -> None:
    first = author.write(a="1").commit("first")
    second = author.write(b="1").commit(
        "second\n\nWhy it is.\n\nHeadgate-Op-Key: ro-1/revert\nHeadgate-Undoes: a\nHeadgate-Undoes: b"
    )
    third = author.write(a="2").commit("third")
    local.fetch()
    assert local.is_ancestor(first, third)
    assert not local.is_ancestor(third, first)
    assert not local.is_ancestor("f" * 40, third)
    assert [c.subject for c in local.log(third, after=first)] == ["third", "second"]
    assert [c.id for c in local.log(third, paths=["a.txt"])] == [third, first]
    found = local.log(second, limit=1)[0]
    assert found.author == "Ada <ada@example.org>"
    assert found.trailers == {"Headgate-Op-Key": ("ro-1/revert",), "Headgate-Undoes": ("a", "b")}


def test_an_unknown_commit_is_a_finding(author: Author, local: EndpointsRepo) -> None:
    author.write(a="1").commit("first")
    local.fetch()
    for commit in ("f" * 40, "HEAD", "--all", ""):
        with pytest.raises(RepoError, match="there is no commit"):
            local.tree(commit)


def test_an_archive_is_as_committed_whatever_attributes_say(author: Author, local: EndpointsRepo) -> None:
    author.put(".gitattributes", "skip export-ignore\n*.txt text eol=crlf\n").put("code/skip", "1").put(
        "code/a.txt", "x\n"
    )
    big = "0123456789" * 300_000
    author.put("model/big", big).put("model/sub/x", "y").put("other", "no")
    commit = author.commit("first")
    local.fetch()
    first, second = io.BytesIO(), io.BytesIO()
    local.archive(commit, ["code", "model/big"], first)
    local.archive(commit, ["model/big", "code"], second)
    assert first.getvalue() == second.getvalue()
    first.seek(0)
    with tarfile.open(fileobj=first) as tar:
        content = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert content == {"code/a.txt": b"x\n", "code/skip": b"1", "model/big": big.encode()}
    with pytest.raises(FileNotFoundError):
        local.archive(commit, ["nowhere"], io.BytesIO())
    with pytest.raises(ValueError, match="more than 10"):
        local.archive(commit, ["model"], io.BytesIO(), limit=10)


def test_a_large_file_pointer_is_said_not_built(author: Author, local: EndpointsRepo) -> None:
    commit = author.put("m/model.pkl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").commit(
        "first"
    )
    local.fetch()
    with pytest.raises(SpecError) as refused:
        local.archive(commit, ["m"], io.BytesIO())
    assert refused.value.findings[0].place.file == "m/model.pkl"


def test_many_threads_read_the_same(author: Author, local: EndpointsRepo) -> None:
    for number in range(30):
        author.put(f"f{number}", f"content {number}")
    commit = author.commit("first")
    local.fetch()
    wrong: list[str] = []

    def read() -> None:
        tree = local.tree(commit)
        wrong.extend(f"f{n}" for n in range(30) if tree.read(f"f{n}", 100) != f"content {n}".encode())

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- writing ---


def test_a_commit_without_a_work_tree_changes_only_what_it_says(author: Author, repo: EndpointsRepo) -> None:
    author.put("a/x", "1").put("a/y", "1").put("b/only", "1").put("run", "1")
    (author.work / "run").chmod(0o755)
    base = author.commit("first")
    repo.fetch()
    old = repo.tree(base).entry("a/x")
    changes: dict[str, Entry | bytes | None] = {"a/y": None, "b/only": None, "c/d/new": b"2", "copy": old}
    made = repo.commit_files(base, changes, "bot: change\n\nTrailer: 1\n", at=1_700_000_000.0)
    assert made == repo.commit_files(base, changes, "bot: change\n\nTrailer: 1\n", at=1_700_000_000.0)
    repo.push(made, "main", base)
    git(author.work, "pull", "-q")
    listed = [line.split() for line in git(author.work, "ls-tree", "-r", "HEAD").splitlines()]
    modes = {path: mode for mode, _, _, path in listed}
    assert modes == {"a/x": "100644", "c/d/new": "100644", "copy": "100644", "run": "100755"}
    assert (
        git(author.work, "log", "-1", "--format=%an <%ae> %at %P") == f"headgate <headgate@localhost> 1700000000 {base}"
    )
    git(author.origin, "fsck", "--strict")


def test_a_change_that_changes_nothing_is_no_commit(author: Author, local: EndpointsRepo) -> None:
    base = author.put("a/x", "1").commit("first")
    local.fetch()
    assert local.commit_files(base, {"a/x": b"1", "no/such": None}, "m", at=0.0) == base
    with pytest.raises(ValueError, match="not a path"):
        local.commit_files(base, {"../x": b"1"}, "m", at=0.0)


def test_a_push_onto_a_branch_that_moved_is_a_conflict(author: Author, repo: EndpointsRepo) -> None:
    base = author.put("a", "1").commit("first")
    repo.fetch()
    made = repo.commit_files(base, {"a": b"2"}, "bot", at=0.0)
    newer = author.put("b", "1").commit("second")
    with pytest.raises(ConflictError):
        repo.push(made, "main", base)
    assert git(author.origin, "rev-parse", "main") == newer


def test_a_branch_that_was_taken_back_is_not_moved_forward_again(author: Author, repo: EndpointsRepo) -> None:
    first = author.put("a", "1").commit("first")
    second = author.put("a", "2").commit("second")
    repo.fetch()
    made = repo.commit_files(second, {"a": b"3"}, "bot", at=0.0)
    git(author.origin, "update-ref", "refs/heads/main", first)
    with pytest.raises(ConflictError):
        repo.push(made, "main", second)
    assert git(author.origin, "rev-parse", "main") == first


def test_a_protected_branch_refuses_and_another_branch_takes_it(author: Author, repo: EndpointsRepo) -> None:
    base = author.put("a", "1").commit("first")
    hook = author.origin / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        '#!/bin/sh\n[ "$1" = refs/heads/main ] && echo "main takes reviewed changes only" && exit 1\nexit 0\n'
    )
    hook.chmod(0o755)
    repo.fetch()
    made = repo.commit_files(base, {"a": b"2"}, "bot", at=0.0)
    with pytest.raises(PushRefused) as refused:
        repo.push(made, "main", base)
    assert "reviewed changes only" in refused.value.findings[0].why
    repo.push(made, "headgate/revert-x", "")
    assert git(author.origin, "rev-parse", "headgate/revert-x") == made


def test_a_branch_checked_out_in_a_work_tree_is_left_alone_and_said(author: Author, tmp_path: Path) -> None:
    base = author.put("a", "1").commit("first")
    repo = EndpointsRepo(author.work, tmp_path / "m.git")
    repo.fetch()
    made = repo.commit_files(base, {"a": b"2"}, "bot", at=0.0)
    with pytest.raises(PushRefused) as refused:
        repo.push(made, "main", base)
    assert "receive.denyCurrentBranch" in refused.value.findings[0].fix
    assert git(author.work, "status", "--porcelain") == ""
    repo.push(made, "headgate/revert-x", "")
    repo.close()


def test_a_password_in_a_url_is_in_no_argument_and_no_message(tmp_path: Path) -> None:
    repo = EndpointsRepo("http://bot:s3cret@127.0.0.1:1/x.git", tmp_path / "m.git", branch="main")
    with pytest.raises(RepoError) as refused:
        repo.fetch()
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in (tmp_path / "m.git" / "config").read_text()
    store = tmp_path / "m.git" / "credentials"
    assert store.stat().st_mode & 0o077 == 0
    repo.close()

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from headgate_kit.worktree import WorkTree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("a.txt", "b/c.txt", "b/d/e.sh", "b-x/f", "b0"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "b/d/e.sh").chmod(0o755)
    (tmp_path / "b/link").symlink_to("../a.txt")
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "empty").mkdir()
    return tmp_path


def git(root: Path, *argv: str) -> str:
    run = subprocess.run(["git", *argv], cwd=root, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def test_content_ids_are_gits(root: Path) -> None:
    git(root, "init", "-q")
    git(root, "add", "-A")
    tree = WorkTree(root)
    assert tree.object_id("") == git(root, "write-tree")
    for line in git(root, "ls-tree", "-r", "-t", git(root, "write-tree")).splitlines():
        about, path = line.split("\t")
        assert tree.object_id(path) == about.split()[2]


def test_links_are_listed_and_never_followed(root: Path) -> None:
    tree = WorkTree(root)
    assert set(tree.files()) == {"a.txt", "b/c.txt", "b/d/e.sh", "b-x/f", "b0"}
    assert set(tree.files("b")) == {"b/c.txt", "b/d/e.sh"}
    assert tree.links() == {"b/link": "../a.txt", "out": "/etc"}
    assert tree.object_id("out/passwd") is None
    assert tree.object_id("empty") is None
    assert tree.object_id("../x") is None
    for path in ("b/link", "out/passwd", "b", "../x"):
        with pytest.raises(FileNotFoundError):
            tree.read(path, 100)


def test_a_long_file_is_not_read(root: Path) -> None:
    tree = WorkTree(root)
    assert tree.read("a.txt", 5) == b"a.txt"
    with pytest.raises(ValueError, match="more than 4"):
        tree.read("a.txt", 4)

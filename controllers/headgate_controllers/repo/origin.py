"""Where the endpoints repo is: a folder on this machine, or a URL. What can be learnt of its refs without git.

A local branch is read from the ref's own file: a stat every 50 ms costs nothing, and a commit is seen at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from headgate.findings import Finding, Place
from headgate_controllers.repo.gitdir import RepoError, is_id, without_credentials

SCHEMES = ("https", "http", "ssh", "git", "file")
_SCP = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:(?!:)[^\s]+")
_SIGNED = ("refs/heads/{branch}", "packed-refs", "HEAD", "reftable/tables.list")


@dataclass(frozen=True, slots=True)
class Origin:
    url: str  # what git is given; never with a password in it
    shown: str  # what people are shown
    git_dir: Path | None = None  # local only: HEAD is here
    common_dir: Path | None = None  # local only: refs and objects are here
    credential: str = ""  # the URL as given, when it came with a password

    @property
    def is_local(self) -> bool:
        return self.common_dir is not None

    def head_branch(self) -> str:
        """Local: the branch that HEAD names; empty: detached, or no repository any more."""
        assert self.git_dir is not None
        text = _text(self.git_dir / "HEAD")
        return text.removeprefix("ref: refs/heads/") if text.startswith("ref: refs/heads/") else ""

    def read_ref(self, branch: str) -> str:
        """Local: the branch's newest commit; empty: there is no such branch."""
        assert self.common_dir is not None
        loose = _text(self.common_dir / "refs" / "heads" / branch)
        return loose if is_id(loose) else _packed(_text(self.common_dir / "packed-refs"), f"refs/heads/{branch}")

    def has_ref_files(self) -> bool:
        return self.common_dir is not None and not (self.common_dir / "reftable").is_dir()

    def signature(self, branch: str) -> tuple[tuple[int, int, int] | None, ...]:
        """Local: changes whenever the branch does. Refs are written by rename, so the inode tells."""
        assert self.common_dir is not None
        return tuple(_stamp(self.common_dir / name.format(branch=branch)) for name in _SIGNED)


def find_origin(source: str) -> Origin:
    """Raises RepoError: not a repository, or a URL of a kind that is not taken."""
    if source.startswith("-") or "\n" in source or not source:
        raise RepoError(_unusable(source, "it is no path and no URL"))
    if "://" in source:
        return _remote(source)
    if _SCP.fullmatch(source) and not Path(source).exists():
        return Origin(source, source)
    if "::" in source:
        raise RepoError(_unusable(source, "remote helpers can run commands"))
    return _local(Path(source).expanduser().resolve())


def _remote(source: str) -> Origin:
    parts = urlsplit(source)
    if parts.scheme not in SCHEMES:
        raise RepoError(_unusable(without_credentials(source), f"only {', '.join(SCHEMES)} URLs and paths are taken"))
    if parts.password is None:
        return Origin(source, source)
    bare = without_credentials(source)
    user = f"{parts.username}@" if parts.username else ""
    return Origin(bare.replace("://", f"://{user}", 1), bare, credential=source)


def _local(path: Path) -> Origin:
    inside = path / ".git"
    if inside.is_dir():
        git_dir = inside
    elif inside.is_file():  # a linked work tree, or a submodule
        git_dir = (path / _text(inside).removeprefix("gitdir: ")).resolve()
    else:
        git_dir = path
    common = git_dir
    if (git_dir / "commondir").is_file():
        common = (git_dir / _text(git_dir / "commondir")).resolve()
    if not (git_dir / "HEAD").is_file() or not (common / "objects").is_dir():
        why = "there is no such folder" if not path.exists() else "there is no git repository in it"
        raise RepoError(_unusable(str(path), why))
    origin = Origin(str(path), str(path))
    return replace(origin, git_dir=git_dir, common_dir=common)


def _unusable(source: str, why: str) -> Finding:
    return Finding(
        code="repo-unusable",
        message=f"{source or 'an empty name'} is not an endpoints repo",
        why=why,
        fix="give the path of a git repository (`headgate init DIR` makes one), or its https or ssh URL",
        place=Place("repo"),
    )


def _packed(text: str, ref: str) -> str:
    for line in text.splitlines():
        object_id, _, name = line.partition(" ")
        if name == ref and is_id(object_id):
            return object_id
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size

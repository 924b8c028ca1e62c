"""A bare git folder, driven through git's plumbing. The only importer of GitPython.

GitPython is used for what it does well: starting git with arguments that never meet a shell, and the persistent
`cat-file` processes (0.1 ms an object, where its object API takes 15). No text of a user ever becomes an option:
names are checked here, ids are 40 hex digits, paths stand behind `--` or go in through stdin.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git is a finding, not an ImportError

from git.cmd import Git
from git.exc import GitCommandNotFound

from headgate.findings import Finding, FindingsError, HeadgateError, Place

T = TypeVar("T")

STALE_S = 30.0  # no git of ours holds a lock for so long
LOCAL_TIMEOUT_S = 60.0  # of a git command that only reads or writes our own folder
ID = re.compile(r"[0-9a-f]{40}")
# Stricter than git: no leading dash or dot, nothing a shell, a refspec or a revision expression could read in it.
BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",  # ask nobody: fail instead
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",  # a file may be called `*`
}
# Written into the folder's own config, which outranks the user's.
_CONFIG = {
    "core.hooksPath": os.devnull,
    "core.logAllRefUpdates": "false",
    "core.fsync": "committed",  # an object cut short by a power cut would be refused for ever
    "gc.auto": "0",  # nothing we may still have to restore is ever pruned
    "maintenance.auto": "false",
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "push.recurseSubmodules": "no",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "20",
}
_LAST_SET = list(_CONFIG)[-1]


class RepoError(FindingsError):
    """The endpoints repo cannot be read or written as asked; the finding says what to do."""


class GitFailed(HeadgateError):
    """A git command ended with an error. Its text carries no credentials."""

    def __init__(self, verb: str, status: int, output: str) -> None:
        self.status = status
        self.output = without_credentials(output)
        super().__init__(f"git {verb} ended with {status}: {self.output}")


def without_credentials(text: str) -> str:
    return _USERINFO.sub("", text)


def is_id(text: str) -> bool:
    return bool(ID.fullmatch(text))


def is_branch(text: str) -> bool:
    """Whether this is a branch name we take. Git itself allows more; nobody misses it."""
    return bool(BRANCH.fullmatch(text)) and ".." not in text and not text.endswith((".", ".lock")) and len(text) <= 200


class GitDir:
    """One bare repository on this machine. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()  # GitPython's persistent processes are not thread-safe
        self._git = Git(str(folder))
        self._git.update_environment(**_ENVIRONMENT, GIT_DIR=str(folder))

    @classmethod
    def create(cls, folder: Path) -> GitDir:
        """Opens the folder; makes it first when there is none. Whoever opens it is the only one who writes to it.

        Raises:
            RepoError: git is not installed.
        """
        made = cls(folder)
        if made.config(_LAST_SET) is None:  # new, or its maker was killed half-way
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _unlock(folder)
            made.run("init", "-q", "--bare", "--template=", "--initial-branch=main", ".")
            for name, value in _CONFIG.items():
                made.remember(name, value)
        else:
            _unlock(folder)
        return made

    def read_also(self, objects: Path) -> None:
        """Reads from another repository's `objects` folder too; nothing is ever written there."""
        with self._lock:
            self._git.update_environment(GIT_ALTERNATE_OBJECT_DIRECTORIES=_quoted(objects))
            self._git.clear_cache()

    def run(
        self,
        verb: str,
        *arguments: str,
        stdin: bytes | None = None,
        timeout_s: float = LOCAL_TIMEOUT_S,
        own_objects_only: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> bytes:
        """Runs one git command and answers its output.

        Raises:
            GitFailed: it ended with an error, or took longer than `timeout_s`.
            RepoError: git is not installed.
        """
        extra = dict(environment or {})
        if own_objects_only:
            extra["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = ""
        with _as_file(stdin) as stream:
            try:
                status, output, errors = self._git.execute(
                    ["git", verb, *arguments],
                    istream=stream,
                    env=extra,
                    with_extended_output=True,
                    with_exceptions=False,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                    kill_after_timeout=timeout_s,
                )
            except GitCommandNotFound as error:
                raise RepoError(NO_GIT) from error
        if status != 0:
            said = f"{_text(output)}\n{_text(errors)}".strip()
            if ".lock': File exists" in said and _unlock(self.folder, STALE_S):
                return self.run(verb, *arguments, stdin=stdin, timeout_s=timeout_s,
                                own_objects_only=own_objects_only, environment=environment)  # fmt: skip
            raise GitFailed(verb, status, said)
        return bytes(output)

    def header(self, name: str) -> tuple[str, str, int] | None:
        """(id, type, size) of an object named by id, `id:path` or `id^{tree}`; None: there is none."""
        if "\n" in name:
            return None
        found = self._ask(lambda: self._git.get_object_header(name))
        return (_text(found[0]), _text(found[1]), found[2]) if found else None  # GitPython says str, gives bytes

    def data(self, object_id: str) -> bytes:
        """An object's bytes, whole.

        Raises:
            RepoError: there is none of that id, although something here names it.
        """
        found = self._ask(lambda: self._git.get_object_data(object_id)) if is_id(object_id) else None
        if found is None:
            raise RepoError(_incomplete(self.folder, object_id))
        return bytes(found[3])

    def chunks(self, object_id: str, size: int = 1 << 20) -> Iterator[bytes]:
        """A large object's bytes, in pieces, through a process of its own so that other readers do not wait."""
        git = Git(str(self.folder))
        git.update_environment(**self._git.environment())
        stream = None
        try:
            stream = git.stream_object_data(object_id)[3]
            while piece := stream.read(size):
                yield piece
        finally:
            del stream  # reads what is left of it, so before its process ends
            git.clear_cache()

    def config(self, name: str) -> str | None:
        try:
            return _text(self.run("config", "--local", "--get", name)).rstrip("\n")
        except GitFailed:
            return None

    def remember(self, name: str, value: str) -> None:
        """Sets a value of the folder's config; one that is set already is not written, so a full disk does no harm."""
        if self.config(name) != value:
            self.run("config", "--local", name, value)

    def close(self) -> None:
        """Ends the persistent processes; the next read starts them again."""
        with self._lock:
            self._git.clear_cache()

    def _ask(self, question: Callable[[], T]) -> T | None:
        """Asks a persistent process; one that was killed is started again, once."""
        with self._lock:
            for last in (False, True):
                try:
                    return question()
                except (ValueError, OSError) as error:
                    if isinstance(error, ValueError) and self._alive():
                        return None
                    with suppress(OSError):
                        self._git.clear_cache()
                    if last:
                        raise GitFailed("cat-file", -1, str(error)) from error
        return None

    def _alive(self) -> bool:
        processes: list[Any] = [self._git.cat_file_header, self._git.cat_file_all]
        return all(p is None or p.proc is None or p.proc.poll() is None for p in processes)


def _unlock(folder: Path, older_s: float = 0.0) -> bool:
    """Takes away locks that a killed git left behind: it would refuse every write for ever. Whether there was one.

    Args:
        older_s: a lock that is younger may be held.
    """
    found = False
    for lock in (*folder.glob("*.lock"), *(folder / "refs").rglob("*.lock")):
        with suppress(FileNotFoundError):  # it was held, and is not any more
            if not older_s or abs(time.time() - lock.stat().st_mtime) > older_s:
                lock.unlink()
                found = True
    return found


def _quoted(path: Path) -> str:
    """As git reads a list of paths: a colon in a bare one would split it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@contextmanager
def _as_file(data: bytes | None) -> Iterator[Any]:
    """GitPython hands stdin to git as a file."""
    if data is None:
        yield None
        return
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.seek(0)
        yield stream


def _text(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


NO_GIT = Finding(
    code="git-missing",
    message="git is not installed, or not on the PATH",
    why="the endpoints repo is read and written through git",
    fix="install git 2.30 or newer",
    place=Place("git"),
)


def _incomplete(folder: Path, object_id: str) -> Finding:
    return Finding(
        code="repo-incomplete",
        message=f"the copy of the endpoints repo lacks object {object_id[:40]}",
        why="its files were damaged, or the origin lost what it had",
        fix=f"check the origin with `git fsck`; if it is whole, move {folder.name} away: it is copied again",
        place=Place("repo"),
    )

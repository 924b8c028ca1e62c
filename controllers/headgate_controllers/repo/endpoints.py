"""The endpoints repo: look, read, commit, push. Everything the controller knows of git goes through here.

Objects live in a bare mirror of our own, so that what was served can be restored whatever happens to the origin. Of an
origin on this machine new objects are read in place at once and copied when it is quiet. Nothing is checked out,
nothing is ever forced, no hook of the endpoints repo runs here.
"""

from __future__ import annotations

import shlex
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from headgate.findings import ConflictError, Finding, HeadgateError, TransientError
from headgate_controllers.repo import archive
from headgate_controllers.repo import findings as say
from headgate_controllers.repo.archive import ARCHIVE_LIMIT
from headgate_controllers.repo.committree import FILE, CommitTree, Entry, TreeCache, edited
from headgate_controllers.repo.credentials import from_folder
from headgate_controllers.repo.gitdir import GitDir, GitFailed, RepoError, is_branch, is_id, without_credentials
from headgate_controllers.repo.origin import Origin, find_origin
from headgate_controllers.repo.watch import LOCAL_POLL_S, REMOTE_POLL_S, Watch

ASK_TIMEOUT_S = 20.0  # which commit a branch is at
TRANSFER_TIMEOUT_S = 600.0  # the first fetch of a repo with models in it
PUSH_TIMEOUT_S = 60.0
KEPT_TREES = 8  # commits whose lookups are remembered
BOT = ("headgate", "headgate@localhost")  # name and address on our commits


class PushRefused(RepoError):
    """The origin does not take this push, and would not take it again."""


@dataclass(frozen=True, slots=True)
class Commit:
    id: str
    author: str
    at: float  # author's date
    subject: str
    body: str
    trailers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class EndpointsRepo:
    """Safe to use from several threads. Making one touches the mirror only; the origin is met by `fetch`."""

    def __init__(
        self, source: str | Path, mirror: Path, branch: str | None = None, credentials: Path | None = None
    ) -> None:
        """`branch` None or empty: the one the origin's HEAD names when it is first met; from then on that one.

        Args:
            credentials: a folder that git is to read a password or an SSH key from; None: git's own ways.

        Raises:
            RepoError: git is not installed, or this is no branch name.
        """
        if branch and not is_branch(branch):
            raise RepoError(say.bad_branch(branch))
        self._source = str(source)
        self._named = without_credentials(self._source)
        self._git = GitDir.create(mirror)
        if credentials is not None:
            for name, value in from_folder(credentials).items():
                self._git.remember(name, value)
        self._cache = TreeCache(self._git)
        self._trees: OrderedDict[str, CommitTree] = OrderedDict()
        self._trees_lock = threading.Lock()
        self._origin_lock = threading.RLock()  # one conversation with the origin at a time
        self._origin: Origin | None = None
        self._watch: Watch | None = None
        self.problem: Finding | None = None  # why the origin cannot be read now; None: it can, or was not tried
        same = self._git.config("headgate.source") == self._named
        self.branch = branch or (self._git.config("headgate.branch") if same else None) or ""
        self._head = self._mirrored() if same else ""

    @property
    def shown(self) -> str:
        """Where the origin is, as people may see it: without a password."""
        return self._named

    # --- looking -----------------------------------------------------------------------------------------------

    def head(self) -> str:
        """The branch's newest commit as of the last `fetch`; empty: none was ever seen."""
        return self._head

    def fetch(self) -> bool:
        """Looks at the origin; whether the branch has moved since the last look. Its objects can be read then.

        Raises:
            RepoError: unreachable, not a repository, empty, or no such branch. What was read before stays readable.
        """
        with self._origin_lock:
            try:
                origin = self._locate()
                head = self._look_local(origin) if origin.is_local else self._fetch(origin)
            except RepoError as error:
                self.problem = error.findings[0]
                raise
            self.problem = None
            moved, self._head = head != self._head, head
            return moved

    def keep(self) -> None:
        """Copies what was read in place into the mirror, so that the origin may forget it."""
        with self._origin_lock:
            origin = self._origin
            if origin is not None and origin.is_local and self._head and self._mirrored() != self._head:
                self._fetch(origin)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` now and whenever the branch may have moved or `problem` has changed, from a thread."""
        local = self._is_local()
        poll_s = LOCAL_POLL_S if local else REMOTE_POLL_S
        self._watch = Watch(self._look, on_change, poll_s=poll_s, quiet=self._keep_quietly)

    def wake(self) -> None:
        """Look now (a webhook came)."""
        if self._watch:
            self._watch.wake()

    def close(self) -> None:
        if self._watch:
            self._watch.close()
        self._git.close()

    def _look(self) -> Hashable:
        """Something that changes when the branch does, or when the origin can (no longer) be reached."""
        try:
            origin = self._locate()
            if origin.has_ref_files():
                return origin.signature(self.branch), origin.common_dir is not None and origin.common_dir.is_dir()
            return self._ask(origin, self.branch)
        except RepoError as error:
            self.problem = error.findings[0]
        except HeadgateError as error:  # our own folder cannot be written: a full disk
            self.problem = say.unreachable(self._named, str(error))
        return self.problem

    def _keep_quietly(self) -> None:
        try:
            self.keep()
        except RepoError as error:
            self.problem = error.findings[0]

    def _is_local(self) -> bool:
        try:
            return self._locate().is_local
        except RepoError:
            return "://" not in self._source

    def _locate(self) -> Origin:
        """Finds the origin the first time, and the branch to follow in it."""
        if self._origin is not None:
            return self._origin
        with self._origin_lock:
            origin = find_origin(self._source)
            if origin.common_dir is not None:
                self._git.read_also(origin.common_dir / "objects")
            self._git.remember("remote.origin.url", origin.url)
            self._remember_credential(origin)
            self.branch = self.branch or self._default_branch(origin)
            self._git.remember("headgate.branch", self.branch)
            self._git.remember("headgate.source", self._named)
            self._origin = origin
            return origin

    def _remember_credential(self, origin: Origin) -> None:
        """A password in a URL would be seen in the process list: git reads it from a file instead."""
        if origin.credential:
            store = self._git.folder / "credentials"
            store.touch(mode=0o600)
            store.chmod(0o600)
            store.write_text(f"{origin.credential}\n")
            self._git.remember("credential.helper", f"store --file={shlex.quote(str(store))}")

    def _default_branch(self, origin: Origin) -> str:
        if origin.is_local:
            branch = origin.head_branch()
        else:
            text = self._remote(origin, "ls-remote", "--symref", "origin", "HEAD", timeout_s=ASK_TIMEOUT_S)
            branch = text.partition("ref: refs/heads/")[2].partition("\t")[0]
            if not text:
                raise RepoError(say.empty(origin.shown, "main"))
        if not is_branch(branch):
            raise RepoError(say.no_default_branch(origin.shown))
        return branch

    def _look_local(self, origin: Origin) -> str:
        head = origin.read_ref(self.branch) if origin.has_ref_files() else self._ask(origin, self.branch)
        if not head:
            assert origin.common_dir is not None
            if not (origin.common_dir / "HEAD").is_file():
                self._origin = None  # moved or unmounted: found again when it is back
                raise RepoError(say.unreachable(origin.shown, "the folder is gone"))
            raise RepoError(self._no_commit(origin))
        return head

    def _fetch(self, origin: Origin) -> str:
        ref = f"refs/heads/{self.branch}"
        arguments = (
            "-q",
            "--update-shallow",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "origin",
            f"+{ref}:{ref}",
        )
        self._remote(origin, "fetch", *arguments, timeout_s=TRANSFER_TIMEOUT_S)
        return self._mirrored()

    def _ask(self, origin: Origin, branch: str) -> str:
        """The commit a branch of the origin is at; empty: there is no such branch."""
        text = self._remote(origin, "ls-remote", "origin", f"refs/heads/{branch}", timeout_s=ASK_TIMEOUT_S)
        found = text.partition("\t")[0]
        return found if is_id(found) else ""

    def _remote(self, origin: Origin, verb: str, *arguments: str, timeout_s: float) -> str:
        try:
            return self._git.run(verb, *arguments, timeout_s=timeout_s, own_objects_only=True).decode(errors="replace")
        except GitFailed as error:
            if "couldn't find remote ref" in error.output:
                raise RepoError(self._no_commit(origin)) from error
            raise RepoError(say.unreachable(origin.shown, error.output)) from error

    def _no_commit(self, origin: Origin) -> Finding:
        refs = self._remote(origin, "ls-remote", "--heads", "origin", timeout_s=ASK_TIMEOUT_S)
        names = [line.partition("refs/heads/")[2] for line in refs.splitlines()]
        return say.no_branch(origin.shown, self.branch, names) if names else say.empty(origin.shown, self.branch)

    def _mirrored(self) -> str:
        header = self._git.header(f"refs/heads/{self.branch}") if self.branch else None
        return header[0] if header else ""

    def branch_head(self, branch: str) -> str:
        """Where another branch of the origin is now; empty: there is none. Raises TransientError: unreachable."""
        with self._origin_lock:
            try:
                return self._ask(self._locate(), branch)
            except RepoError as error:
                raise TransientError(str(error)) from error

    # --- reading -----------------------------------------------------------------------------------------------

    def tree(self, commit: str) -> CommitTree:
        """A commit's files. Raises RepoError: no such commit here."""
        with self._trees_lock:
            if commit in self._trees:
                self._trees.move_to_end(commit)
                return self._trees[commit]
        header = self._git.header(f"{commit}^{{tree}}") if is_id(commit) else None
        if header is None:
            raise RepoError(say.unknown_commit(commit))
        tree = CommitTree(self._cache, commit, header[0])
        with self._trees_lock:
            self._trees[commit] = tree
            while len(self._trees) > KEPT_TREES:
                self._trees.popitem(last=False)
        return tree

    def changed_paths(self, old: str, new: str) -> set[str]:
        """Files that differ between two commits; `old` empty: every file of `new`."""
        if not old:
            tree = self.tree(new)
            return {*tree.files(), *tree.links()}
        roots = self.tree(old).root, self.tree(new).root
        if roots[0] == roots[1]:
            return set()
        names = self._git.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", *roots)
        return {name.decode("utf-8", "surrogateescape") for name in names.split(b"\0")[:-1]}

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `new` descends from `old` (or is it). An unknown commit is nobody's ancestor."""
        if not (is_id(old) and is_id(new)):
            return False
        try:
            self._git.run("merge-base", "--is-ancestor", old, new)
        except GitFailed:
            return False
        return True

    def log(self, upto: str, *, after: str = "", paths: Iterable[str] = (), limit: int = 200) -> list[Commit]:
        """Commits reachable from `upto` and not from `after`, newest first; with `paths`, those that touch one."""
        self.tree(upto)
        beyond = [f"^{after}"] if is_id(after) and self._git.header(after) else []
        form = "--format=%H%x00%an <%ae>%x00%at%x00%s%x00%B"
        text = self._git.run("log", "-z", form, f"--max-count={limit}", upto, *beyond, "--", *paths)
        fields = text.decode(errors="replace").split("\0")[:-1]
        return [_commit(*fields[i : i + 5]) for i in range(0, len(fields), 5)]

    def archive(self, commit: str, paths: Sequence[str], out: IO[bytes], limit: int = ARCHIVE_LIMIT) -> None:
        """Writes a tar of files and folders at a commit; see `archive.write`."""
        archive.write(self._git, self.tree(commit), paths, out, limit)

    # --- writing -----------------------------------------------------------------------------------------------

    def commit_files(
        self, base: str, changes: Mapping[str, Entry | bytes | None], message: str, *, at: float, author: str = ""
    ) -> str:
        """Makes a commit on `base` in the mirror and answers its id; nothing is checked out, nothing is pushed.

        The same arguments make the same id. Nothing changed: the answer is `base`.

        Args:
            changes: path -> entry of a file or folder that git already has, new content, or None: taken out.
            at: seconds since the epoch, on the commit.
            author: `name <address>`; empty: the bot, who is always the committer.
        """
        self.keep()  # our commit's parents must be ours too
        entries = {path: self._entry(change) for path, change in changes.items()}
        root = self.tree(base).root
        tree = edited(self._cache, root, entries)
        if tree == root:
            return base
        name, _, address = author.rstrip(">").partition(" <")
        when = f"@{int(at)} +0000"
        environment = {
            "GIT_AUTHOR_NAME": name or BOT[0],
            "GIT_AUTHOR_EMAIL": address or BOT[1],
            "GIT_AUTHOR_DATE": when,
            "GIT_COMMITTER_NAME": BOT[0],
            "GIT_COMMITTER_EMAIL": BOT[1],
            "GIT_COMMITTER_DATE": when,
        }
        made = self._git.run(
            "commit-tree", tree, "-p", base, "-F", "-", stdin=message.encode(), environment=environment
        )
        return made.decode().strip()

    def push(self, commit: str, branch: str, expect: str) -> None:
        """Moves a branch of the origin forward to `commit`, if it is at `expect` (empty: if there is none).

        Raises:
            ConflictError: the branch is elsewhere by now.
            PushRefused: the origin does not take it: protected, checked out there, or no right to write.
            TransientError: it could not be reached.
        """
        if not (is_id(commit) and is_branch(branch)):
            raise ValueError(f"not a commit and a branch: {commit!r}, {branch!r}")
        with self._origin_lock:
            origin = self._locate()
            if self.branch_head(branch) != expect:
                raise ConflictError(f"{branch} of {origin.shown} has moved")
            try:
                self._git.run(
                    "push",
                    "--porcelain",
                    "--no-verify",
                    "origin",
                    f"{commit}:refs/heads/{branch}",
                    timeout_s=PUSH_TIMEOUT_S,
                )
            except GitFailed as error:
                raise self._push_error(origin, branch, error) from error

    def _push_error(self, origin: Origin, branch: str, error: GitFailed) -> Exception:
        reason = next((line for line in error.output.splitlines() if line.startswith("!")), "")
        if "[rejected]" in reason or "cannot lock ref" in error.output:
            return ConflictError(f"{branch} of {origin.shown} has moved")
        denied = ("Authentication failed", "could not read Username", "Permission denied", "403", "not permitted")
        if "[remote rejected]" in reason or any(text in error.output for text in denied):
            return PushRefused(say.push_refused(origin.shown, branch, error.output))
        return TransientError(f"{origin.shown} could not be pushed to: {error.output}")

    def _entry(self, change: Entry | bytes | None) -> Entry | None:
        if not isinstance(change, bytes):
            return change
        return Entry(FILE, self._git.run("hash-object", "-w", "--stdin", stdin=change).decode().strip())


def _commit(object_id: str, author: str, at: str, subject: str, message: str) -> Commit:
    body = message.partition("\n\n")[2].strip()
    return Commit(object_id, author, float(at or 0), subject, body, trailers(body))


def trailers(body: str) -> dict[str, tuple[str, ...]]:
    """`Key: value` lines of a message's last paragraph, when it has nothing else."""
    lines = body.rpartition("\n\n")[2].splitlines()
    pairs = [line.partition(": ") for line in lines]
    if not all(separator and key.replace("-", "").isalnum() for key, separator, _ in pairs):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for key, _, value in pairs:
        found[key] = (*found.get(key, ()), value.strip())
    return found

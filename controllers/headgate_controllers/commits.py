"""From a new commit to what it asks of each endpoint it touches. Looking is the truth: a hint only wakes this.

A commit that touches one endpoint is read for that endpoint only. Ten commits in a burst are one look: at the last.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from headgate.assets import Pin
from headgate.draft import Draft
from headgate.findings import Finding, HeadgateError, Place, TransientError, is_text
from headgate.intent import accept, forget, reject
from headgate.ports import Tree
from headgate.process import Settings
from headgate.reading import Reading, endpoint_names, name_findings, odd_name, read_endpoint, read_settings
from headgate_controllers.heads import Heads
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.resolve import Outside, reader

log = logging.getLogger(__name__)

HANDLED = "handled-commit"  # key in the record's meta: the newest commit that was looked at and is answered for
TAKEN = "taken-commit"  # and the newest whose endpoints were all taken up: an older one while headgate.yml is refused
AGAIN_S = 5.0  # an endpoint whose models could not be looked up is read again after this
REWRITTEN = "history-rewritten"
AWAY = frozenset({"catalogue-unreachable", "catalogue-refused"})  # findings that no commit has to mend
ACCEPTED = (
    "accepted-rewrite"  # a commit that `headgate sync --accept` allowed although it descends from nothing handled
)


class Commits:
    """Used by one thread, the reconciler's."""

    def __init__(
        self,
        repo: EndpointsRepo,
        heads: Heads,
        record: SqliteRecord,
        check: Callable[[Reading, Tree], tuple[Finding, ...]],
        outside: Outside | None = None,
        moot: frozenset[str] = frozenset(),
    ) -> None:
        """Args:
        moot: codes of findings that say nothing here, such as what one machine cannot do.
        """
        self._repo = repo
        self._heads = heads
        self._record = record
        self._check = check  # gates known by entry point, admission
        self._moot = moot
        self._outside = outside  # asks catalogues outside the repo
        self._waiting: set[str] = set()  # endpoints whose models could not be looked up
        self._again_at = 0.0  # when they are read again, by a clock that only goes forward
        self._cache: dict[Any, Any] = {}
        self._readers: dict[str, set[str]] = defaultdict(set)  # path -> endpoints whose target reads it
        self.settings = Settings()
        self.findings: tuple[Finding, ...] = ()  # of headgate.yml and of the repo as a whole
        self.seen = ""  # newest commit on the branch
        self.error = ""  # why the repo cannot be read; empty: it can
        self._handled = record.meta_get(HANDLED) or ""  # nobody else writes it while we run
        found = record.meta_get(TAKEN)
        self._taken = self._handled if found is None else found
        self._refused = False  # its headgate.yml is: nothing of it was taken up
        self._unknown = False  # a commit was handled, and its settings could not be read again
        for head in heads.all():
            if head.asked:
                self._index(head.endpoint, head.asked.files)
            if any(f.code in AWAY for f in head.findings):
                self._waiting.add(head.endpoint)
        self._restore_settings()

    @property
    def handled(self) -> str:
        return self._handled

    @property
    def taken(self) -> str:
        """The newest commit whose endpoints were all taken up; older than `handled` while headgate.yml is refused."""
        return self._taken

    def reached(self, commit: str) -> bool:
        """Whether what this commit asked was acted on: by itself, or under a newer one that contains it."""
        return bool(commit) and (self.handled.startswith(commit) or self._repo.is_ancestor(commit, self.handled))

    @property
    def again_s(self) -> float | None:
        """Seconds after which to look again, even if nothing was pushed; None: no need."""
        return AGAIN_S if self._waiting else None

    def accept_rewrite(self, commit: str) -> None:
        """The operator takes a rewritten history as it is."""
        self._record.meta_set(ACCEPTED, commit)

    def look(self) -> tuple[str, ...]:
        """Fetches and takes up the newest commit. Answers the endpoints it touched; errors are kept, not raised."""
        try:
            self._repo.fetch()
            head = self._repo.head()
        except HeadgateError as error:
            if self.error != str(error):
                log.warning("the endpoints repo cannot be read; the last good state serves on: %s", error)
            self.error = str(error)
            return ()
        self.error = ""
        self.seen = head
        if self._unknown:
            self._restore_settings()
        if head == self.handled:
            if any(found.code == REWRITTEN for found in self.findings):  # the branch is back where it was
                self._restore_settings()
            return self._look_again(head)
        if not self._descends(head):
            return ()
        return self._take_up(head)

    def _descends(self, head: str) -> bool:
        handled = self.handled
        if not handled or self._repo.is_ancestor(handled, head) or self._record.meta_get(ACCEPTED) == head:
            return True
        self.findings = (
            Finding(
                code=REWRITTEN,
                message=f"{head[:10]} does not descend from {handled[:10]}, which is what serves",
                why="a rewritten branch can take away what was reviewed; nothing of it is acted on",
                fix=f"push a branch that contains {handled[:10]}, or take it as it is: headgate sync --accept {head}",
                place=Place("git history"),
            ),
        )
        return False

    def _take_up(self, commit: str) -> tuple[str, ...]:
        tree = self._repo.tree(commit)
        settings, self.findings = read_settings(tree)
        self._refused = any(f.is_error for f in self.findings)
        touched: tuple[str, ...] = ()
        if self._refused:
            log.warning("%s: headgate.yml is refused: %s", commit[:10], self.findings[0].message)
            self._record.meta_set(TAKEN, self._taken)  # a record of before has none
        else:
            self.settings, self._unknown = settings, False
            every = self._touched(commit, tree)
            touched = tuple(name for name in every if is_text(name))
            self.findings = (*self.findings, *(odd_name(f"endpoints/{n}") for n in every if not is_text(n)))
            if not all(self._heads.get(endpoint).asked for endpoint in touched):
                self.findings = (*self.findings, *name_findings(endpoint_names(tree)))
            pin = reader(tree, self.settings, self._outside)
            for endpoint in touched:
                self._endpoint(endpoint, tree, pin)
            self._record.meta_set(TAKEN, commit)
            self._taken = commit
        self._record.meta_set(HANDLED, commit)
        self._handled = commit
        return touched

    def _look_again(self, commit: str) -> tuple[str, ...]:
        """Reads the endpoints whose models could not be looked up, when it is time."""
        if not self._waiting or time.monotonic() < self._again_at or self._refused:
            return ()
        tree = self._repo.tree(commit)
        pin = reader(tree, self.settings, self._outside)
        waiting = tuple(sorted(self._waiting))
        for endpoint in waiting:
            self._endpoint(endpoint, tree, pin)
        return waiting

    def _endpoint(self, endpoint: str, tree: Tree, pin: Pin) -> None:
        self._waiting.discard(endpoint)
        if tree.object_id(f"endpoints/{endpoint}") is None:
            self._heads.change(endpoint, lambda draft: forget(draft, tree.commit))
            return
        reading, said = self._read(endpoint, tree, pin)
        findings = tuple(finding for finding in said if finding.code not in self._moot)
        self._index(endpoint, reading.files)
        if any(f.code in AWAY for f in findings):
            self._waiting.add(endpoint)
            self._again_at = time.monotonic() + AGAIN_S
        target = reading.target

        def decide(draft: Draft) -> None:
            if target is None or any(f.is_error for f in findings):
                reject(draft, tree.commit, findings)
            else:
                accept(draft, target, findings)

        self._heads.change(endpoint, decide)

    def _read(self, endpoint: str, tree: Tree, pin: Pin) -> tuple[Reading, tuple[Finding, ...]]:
        try:
            reading = read_endpoint(tree, endpoint, self.settings, pin, self._cache)
            return reading, (*reading.findings, *self._check(reading, tree))
        except HeadgateError:
            raise
        except Exception as error:  # what one endpoint asks must not keep from the others what they ask
            log.exception("%s: reading %s broke off", endpoint, tree.commit[:10])
            why, fix = "its last good state serves on", "report it with the commit: it is a fault of Headgate"
            message, place = f"reading it broke off: {type(error).__name__}", Place(f"endpoints/{endpoint}")
            return Reading(None), (Finding("reading-broke", message, why, fix, place),)

    def _touched(self, commit: str, tree: Tree) -> tuple[str, ...]:
        changed = self._changed(commit)
        if changed is None:
            return tuple(sorted({*endpoint_names(tree), *self._heads.names()}))
        touched = {head.endpoint for head in self._heads.all() if any(f.is_error for f in head.findings)}
        for path in changed:
            parts = path.split("/")
            if parts[0] == "endpoints" and len(parts) > 2:
                touched.add(parts[1])
            for end in range(len(parts), 0, -1):
                touched |= self._readers.get("/".join(parts[:end]), set())
        return tuple(sorted(touched))

    def _changed(self, commit: str) -> set[str] | None:
        """Paths that differ from what was taken up last; None: nothing was, or it is nowhere any more."""
        try:
            return self._repo.changed_paths(self._taken, commit) if self._taken else None
        except HeadgateError as error:
            log.warning("%s is read as a whole: %s", commit[:10], error)
            return None

    def _index(self, endpoint: str, files: Iterable[str] | Mapping[str, str]) -> None:
        for path in files:
            self._readers[path].add(endpoint)

    def ground(self) -> Settings:
        """The settings, for whoever starts something by them.

        Raises TransientError: a commit was taken up, and git cannot be read now to say by which settings. With others
        the same revision would be started another way, and what serves would be replaced.
        """
        if self._unknown:
            raise TransientError(f"headgate.yml cannot be read: {self.error}")
        return self.settings

    def _restore_settings(self) -> None:
        """After a restart: the settings of the commit that was taken up; our copy of the repo may be lost."""
        if not self.handled:
            return
        self._unknown = True
        try:
            settings, self.findings = read_settings(self._tree_of(self.handled))
            self._refused = any(f.is_error for f in self.findings)
            if self._refused and self._taken:
                settings, _ = read_settings(self._tree_of(self._taken))
            self.settings, self._unknown = settings, False
        except HeadgateError as error:
            self.error = str(error)

    def _tree_of(self, commit: str) -> Tree:
        try:
            return self._repo.tree(commit)
        except HeadgateError:
            self._repo.fetch()
            return self._repo.tree(commit)

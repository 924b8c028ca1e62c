"""What builds on this machine left behind: bundles, environments and models of catalogues that no revision names.

All that the record knows a revision of stays, whatever its age: what runs, is kept warm, is asked for, belongs to a
kept release, or was one of an endpoint's last. So no rollback and no revert ever waits for this. Refuses to make room
when a disk is full: what may go then is for a person to say.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from headgate import codec
from headgate.rollout import Head
from headgate.target import DeploymentTarget, catalogue_of
from headgate_kit.catalogue import kept
from headgate_kit.layout import DataFolder

log = logging.getLogger(__name__)

AGE_S = 7 * 86_400.0  # since it was made; the younger may be of a build that the record has not heard of
EVERY_S = 6 * 3_600.0
NAME_LENGTH = 32  # of the digest that a build is called by
GONE = ".gone"  # ending of what is being deleted: nobody finds it any more


class Leftovers:
    """Args:
    heads: every endpoint's record, as it is now.
    clock: seconds since the epoch, as files have it.
    """

    def __init__(self, data: DataFolder, heads: Callable[[], Iterable[Head]], clock: Callable[[], float]) -> None:
        self._data = data
        self._heads = heads
        self._clock = clock
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leftovers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            try:
                self.collect()
            except Exception:  # a file system's oddity must not end the housekeeping for ever
                log.exception("old builds could not be looked through; tried again in %g h", EVERY_S / 3600)

    def collect(self) -> list[str]:
        """Deletes what is old and named by nothing. Returns its names."""
        before, named = self._clock() - AGE_S, set(self._named())
        return [path.name for path in self._old(before) if _build_of(path) not in named and self._take(path)]

    def _old(self, before: float) -> Iterator[Path]:
        for folder in (self._data.bundles, self._data.environments, self._data.models):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix != ".lock" and path.lstat().st_mtime < before:
                    yield path

    def _take(self, path: Path) -> bool:
        """Asks once more who names it, right before it is out of sight."""
        named = set(self._named())
        if not named or _build_of(path) in named:  # nothing named at all: a record to doubt
            return False
        gone = path if path.suffix == GONE else path.with_name(f".{path.name.lstrip('.')}{GONE}")
        path.rename(gone)
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone, ignore_errors=True)
        else:
            gone.unlink()
        log.info("%s is deleted: no revision names it", path)
        return True

    def _named(self) -> Iterator[str]:
        for head in self._heads():
            for deployment in _deployments(head):
                source = deployment.source
                yield codec.digest(source)[:NAME_LENGTH]
                yield source.environment.digest[:NAME_LENGTH]
                if source.model is not None and catalogue_of(source.model):
                    yield kept(source.model, self._data.models).name


def _build_of(path: Path) -> str:
    return path.name.lstrip(".").partition(".")[0]


def _deployments(head: Head) -> Iterator[DeploymentTarget]:
    for state in head.revisions.values():
        yield state.deployment
    targets = [release.target for release in head.releases]
    targets += [target for target in (head.asked, head.switch, head.rollout and head.rollout.target) if target]
    for target in targets:
        yield from target.revisions.values()

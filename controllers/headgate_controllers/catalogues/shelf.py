"""A catalogue outside the endpoints repo, whatever it is kept in: names, versions and labels to pins, pins to files.

A pin holds a digest of what the version's files were when it was pinned; a fetch that finds others refuses them.
What a store lists is not trusted: the number of files, their size and depth are bounded, and no path leaves its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from headgate import codec
from headgate.target import ModelPin, external
from headgate_controllers.catalogues import references
from headgate_kit.files import FULL, DiskFull

MAX_FILES = 20_000
MAX_BYTES = 512 << 30  # of one version
MAX_DEPTH = 32
MAX_PATH = 1_024  # characters


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a version."""

    path: str  # below the version's folder, with `/`
    size: int  # bytes
    mark: str  # changes when the content does: an entity tag, a digest, a time


class Store(Protocol):
    """What keeps models. Raises TransientError: it is away; TerminalError: it says no, or is not what was declared."""

    where: str  # in words, for people

    def names(self) -> Sequence[str]: ...
    def versions(self, name: str) -> set[str]:
        """Empty: there is no such model."""
        ...

    def labels(self, name: str) -> Mapping[str, str]: ...
    def items(self, name: str, version: str) -> Sequence[Item]: ...
    def copy(self, name: str, version: str, item: Item, into: Path) -> None:
        """Writes one item below `into`, where its path says. Raises LookupError: it changed since it was listed."""
        ...


class Shelf:
    """`headgate.ports.Catalogue` over a `Store`."""

    def __init__(self, name: str, store: Store) -> None:
        self._name = name
        self._store = store

    def pin(self, ref: str) -> ModelPin:
        asked = references.parse(ref)
        where = f"the catalogue {self._name} ({self._store.where})"
        versions = references.ordered(self._store.versions(asked.name))
        if not versions:
            raise LookupError(f"{where} has no model {asked.name}; there: {references.listed(self._store.names())}")
        labels = {} if asked.version else self._store.labels(asked.name)
        version = references.choose(asked, versions, labels, where)
        digest = _digest(self._listing(asked.name, version))
        return ModelPin(asked.name, version, None, external(self._name, asked.name, version), digest)

    def fetch(self, pin: ModelPin, into: Path) -> None:
        """Says on standard output what it fetched: that is the log of whoever starts it."""
        what = f"{pin.name}:{pin.version}"
        if pin.source is not None or pin.catalogue != external(self._name, pin.name, pin.version):
            raise LookupError(f"{what} is not from the catalogue {self._name}")
        items = self._listing(pin.name, pin.version)
        if _digest(items) != pin.digest:
            raise LookupError(f"{what} in {self._store.where} is not what it was when it was pinned")
        size = sum(item.size for item in items)
        print(f"{what} from {self._store.where}: {len(items):,} files, {size / 1e6:,.1f} MB", flush=True)
        try:
            for item in items:
                target = into / item.path
                target.parent.mkdir(parents=True, exist_ok=True)
                self._store.copy(pin.name, pin.version, item, into)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull(into / what) from error
            raise

    def _listing(self, name: str, version: str) -> tuple[Item, ...]:
        items = tuple(sorted(self._store.items(name, version), key=lambda item: item.path))
        if not items:
            raise LookupError(f"{name}:{version} in {self._store.where} has no files")
        if refused := _refused(items):
            raise LookupError(f"{name}:{version} in {self._store.where} cannot be used: {refused}")
        return items


def _digest(items: Sequence[Item]) -> str:
    return codec.digest(list(items))


def _refused(items: Sequence[Item]) -> str:
    """Why these files are not taken; empty: they are."""
    if len(items) > MAX_FILES:
        return f"it has {len(items):,} files, more than {MAX_FILES:,}"
    size = sum(item.size for item in items)
    if size > MAX_BYTES:
        return f"it has {size / 1e9:,.0f} GB, more than {MAX_BYTES / 1e9:,.0f}"
    bad = next((item.path for item in items if not inside(item.path)), None)
    if bad is not None:
        return f"the path {bad[:80]!r} leads out of its folder, or is too long or too deep"
    paths = {item.path for item in items}
    above = {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents}
    both = next(iter(sorted(paths & above)), "")
    return f"{both[:80]!r} is a file and a folder" if both else ""


def inside(path: str) -> bool:
    """Whether a path stays below the folder it is put into."""
    parts = path.split("/")
    fine = path.isprintable() and "\\" not in path and len(path) <= MAX_PATH and len(parts) <= MAX_DEPTH
    return fine and all(part not in ("", ".", "..") for part in parts)

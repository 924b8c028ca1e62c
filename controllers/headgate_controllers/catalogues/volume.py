"""Models in a folder of this machine, or of a volume that is mounted into every pod that needs it.

NAME/VERSION/..., and optionally NAME/labels.yml. A file's mark is its time: who writes a version anew writes another
one. Refuses links, whatever they point to.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from headgate.findings import TerminalError, TransientError
from headgate.process import CatalogueSource
from headgate_controllers.catalogues import references
from headgate_controllers.catalogues.references import LABELS, LABELS_LIMIT
from headgate_controllers.catalogues.shelf import MAX_DEPTH, MAX_FILES, Item, Shelf


class Volume:
    """A `Store`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.where = str(root)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self._folders(self._root))

    def versions(self, name: str) -> set[str]:
        if name not in self.names():
            return set()
        return {entry.name for entry in self._folders(self._root / name)}

    def labels(self, name: str) -> Mapping[str, str]:
        file = self._root / name / LABELS
        try:
            with file.open("rb") as opened:
                data = opened.read(LABELS_LIMIT + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _away(file, error) from error
        if len(data) > LABELS_LIMIT:
            raise LookupError(f"{file} is longer than {LABELS_LIMIT:,} bytes")
        return references.read_labels(data, str(file))

    def items(self, name: str, version: str) -> list[Item]:
        top = self._root / name / version
        found: list[Item] = []
        try:
            for item in _walk(top, "", 0):
                found.append(item)
                if len(found) > MAX_FILES:
                    break
        except OSError as error:
            raise _away(top, error) from error
        return found

    def copy(self, name: str, version: str, item: Item, into: Path) -> None:
        origin, target = self._root / name / version / item.path, into / item.path
        shutil.copyfile(origin, target, follow_symlinks=False)
        if _item(item.path, origin.lstat()) != item:
            raise LookupError(f"{origin} changes while it is read")

    def _folders(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise _away(folder, error) from error


def _walk(folder: Path, above: str, depth: int) -> Iterator[Item]:
    if depth > MAX_DEPTH:
        raise LookupError(f"{folder} is nested deeper than {MAX_DEPTH} folders")
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            path = f"{above}{entry.name}"
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                yield from _walk(folder / entry.name, f"{path}/", depth + 1)
            elif stat.S_ISREG(found.st_mode):
                yield _item(path, found)
            else:
                raise LookupError(f"{folder / entry.name} is a link or no file: write the file itself")


def _item(path: str, found: os.stat_result) -> Item:
    return Item(path, found.st_size, str(found.st_mtime_ns))


def _away(path: Path, error: OSError) -> TransientError:
    return TransientError(f"{path} cannot be read: {error.strerror or error}")


def open_catalogue(name: str, source: CatalogueSource, credentials: Mapping[str, str]) -> Shelf:
    """Entry point `folder` of group `headgate.catalogue`. Raises TerminalError: the URL is none of a folder."""
    parts = urlsplit(source.url)
    if parts.scheme not in ("", "file") or parts.netloc or not parts.path.startswith("/"):
        raise TerminalError(f"catalogue {name}: {source.url} is not the absolute path of a folder")
    return Shelf(name, Volume(Path(parts.path)))

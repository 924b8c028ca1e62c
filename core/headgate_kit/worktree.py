"""A plain folder as a commit's files: what `headgate validate DIR` reads, with or without git.

Content ids are git's own (sha1 of blob and tree), so that a reading of a clean work tree equals the commit's. Links are
listed and never followed; git's and Headgate's own folders are left out. Nothing is ever written.
"""

from __future__ import annotations

import hashlib
import os
import stat
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SKIPPED = {".git", ".headgate", "__pycache__"}
CHUNK = 1024 * 1024
FILE, EXECUTABLE, LINK, FOLDER = b"100644", b"100755", b"120000", b"40000"


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: bytes
    size: int
    target: str = ""  # of a link


class WorkTree:
    """`headgate.ports.Tree` over a folder. It is looked at once, when first asked; contents are hashed when needed."""

    commit = ""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = f"{root}{os.sep}"  # joining tens of thousands of paths as text takes a second off
        self._ids: dict[str, str] = {}

    def files(self, under: str = "") -> Mapping[str, int]:
        return {path: e.size for path, e in self._below(under) if e.mode in (FILE, EXECUTABLE)}

    def links(self, under: str = "") -> Mapping[str, str]:
        return {path: e.target for path, e in self._below(under) if e.mode == LINK}

    def read(self, path: str, limit: int) -> bytes:
        entry = self._entries.get(path)
        if entry is None or entry.mode not in (FILE, EXECUTABLE):
            raise FileNotFoundError(path)
        with open(self._prefix + path, "rb", buffering=0) as file:
            data = file.read(min(limit, entry.size) + 1)  # a byte more than it had: it may have grown
        if len(data) > limit:
            raise ValueError(f"{path} has {entry.size:,} bytes, more than {limit:,}")
        if len(data) == entry.size:
            self._ids.setdefault(path, _git_id(b"blob", data))
        return data

    def object_id(self, path: str) -> str | None:
        path = path.strip("/")
        if path not in self._ids:
            entry = self._entries.get(path)
            if entry is None and path not in self._folders:
                return None
            self._ids[path] = self._blob(path, entry) if entry else self._folder(path)
        return self._ids[path]

    # Looking

    @cached_property
    def _entries(self) -> Mapping[str, _Entry]:
        """Every file and link, by path, in order."""
        found: dict[str, _Entry] = {}
        folders = [("", os.fspath(self.root))]
        while folders:
            prefix, folder = folders.pop()
            with os.scandir(folder) as items:
                for item in items:
                    if item.is_dir(follow_symlinks=False):
                        if item.name not in SKIPPED:
                            folders.append((f"{prefix}{item.name}/", item.path))
                    elif entry := _entry(item):
                        found[prefix + item.name] = entry
        return dict(sorted(found.items()))

    @cached_property
    def _paths(self) -> list[str]:
        return list(self._entries)

    @cached_property
    def _folders(self) -> Mapping[str, list[str]]:
        """Folder -> the names in it; an empty folder is none, as in git."""
        found: dict[str, list[str]] = {"": []}
        for path in self._entries:
            while True:
                parent, _, name = path.rpartition("/")
                known = parent in found
                names = found.setdefault(parent, [])
                if name not in names[-1:]:
                    names.append(name)
                if known:
                    break
                path = parent
        return found

    def _below(self, under: str) -> list[tuple[str, _Entry]]:
        folder, paths = under.strip("/"), self._paths
        start, end = 0, len(paths)
        if folder:
            start, end = bisect_left(paths, f"{folder}/"), bisect_left(paths, f"{folder}0")  # "0" follows "/"
        return [(path, self._entries[path]) for path in paths[start:end]]

    # Hashing as git does

    def _blob(self, path: str, entry: _Entry) -> str:
        if entry.mode == LINK:
            return _git_id(b"blob", entry.target.encode())
        digest = hashlib.sha1(b"blob %d\0" % entry.size, usedforsecurity=False)
        with open(self._prefix + path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def _folder(self, folder: str) -> str:
        rows = []
        for name in dict.fromkeys(self._folders[folder]):
            path = f"{folder}/{name}" if folder else name
            entry = self._entries.get(path)
            mode = entry.mode if entry else FOLDER
            object_id = self.object_id(path) or ""
            # Git orders a folder as if its name ended with a slash.
            order = name.encode() + (b"/" if mode == FOLDER else b"")
            rows.append((order, mode + b" " + name.encode() + b"\0" + bytes.fromhex(object_id)))
        return _git_id(b"tree", b"".join(row for _, row in sorted(rows)))


def _entry(item: os.DirEntry[str]) -> _Entry | None:
    """None: neither a file nor a link (a socket, a device)."""
    about = item.stat(follow_symlinks=False)
    if stat.S_ISLNK(about.st_mode):
        target = os.readlink(item.path)
        return _Entry(LINK, len(target), target)
    if not stat.S_ISREG(about.st_mode):
        return None
    return _Entry(EXECUTABLE if about.st_mode & stat.S_IXUSR else FILE, about.st_size)


def _git_id(kind: bytes, content: bytes) -> str:
    return hashlib.sha1(kind + b" %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

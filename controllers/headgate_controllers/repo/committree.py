"""One commit's files, read lazily, and new trees made from old ones. Nothing is ever checked out.

Trees and listings are cached by content, so the next commit costs what it changed: a file changed among 10,000
endpoints reads three small trees, and a full listing is the last one with the difference applied.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import NamedTuple

from headgate_controllers.repo.gitdir import GitDir

FILE, EXECUTABLE, LINK, FOLDER = "100644", "100755", "120000", "40000"
CACHED_ENTRIES = 200_000  # of trees kept in memory: about 40 MB
LINK_LIMIT = 4_096  # bytes of a link's text; longer ones lead nowhere on any system
MANY_FOLDERS = 8  # listings asked of one commit before all of it is listed at once


class Entry(NamedTuple):
    mode: str
    object_id: str


class Item(NamedTuple):
    mode: str
    object_id: str
    size: int


class Listing:
    """Everything below one folder: path -> item, in the order of paths."""

    def __init__(self, items: dict[str, Item]) -> None:
        self.items = items
        self.paths = sorted(items)

    def below(self, folder: str) -> list[str]:
        if not folder:
            return self.paths
        return self.paths[
            bisect_left(self.paths, f"{folder}/") : bisect_left(self.paths, f"{folder}0")
        ]  # "0" follows "/"


class TreeCache:
    """Trees by id, shared by all commits."""

    def __init__(self, git: GitDir) -> None:
        self.git = git
        self._lock = RLock()
        self._trees: OrderedDict[str, dict[str, Entry]] = OrderedDict()
        self._entries = 0
        self._whole: tuple[str, Listing] | None = None  # the last full listing, by its tree's id

    def tree(self, tree_id: str) -> Mapping[str, Entry]:
        with self._lock:
            known = self._trees.get(tree_id)
            if known is not None:
                self._trees.move_to_end(tree_id)
                return known
        found = _parse(self.git.data(tree_id))
        with self._lock:
            if tree_id not in self._trees:
                self._trees[tree_id] = found
                self._entries += len(found)
            while self._entries > CACHED_ENTRIES and len(self._trees) > 1:
                self._entries -= len(self._trees.popitem(last=False)[1])
        return found

    def whole(self, tree_id: str) -> Listing:
        """The listing of a commit's root: the last one with the difference applied."""
        with self._lock:
            if self._whole is None:
                self._whole = (tree_id, self.listing(tree_id))
            elif self._whole[0] != tree_id:
                self._whole = (tree_id, self._derived(*self._whole, tree_id))
            return self._whole[1]

    def listing(self, tree_id: str) -> Listing:
        items = {}
        for line in self.git.run("ls-tree", "-r", "-z", "-l", tree_id).split(b"\0")[:-1]:
            about, _, path = line.partition(b"\t")
            mode, kind, object_id, size = about.decode().split()
            if kind == "blob":
                items[_name(path)] = Item(mode, object_id, int(size))
        return Listing(items)

    def _derived(self, old_id: str, old: Listing, new_id: str) -> Listing:
        items = dict(old.items)
        fields = self.git.run("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old_id, new_id).split(
            b"\0"
        )
        for about, path in zip(fields[0:-1:2], fields[1::2], strict=True):
            _, mode, _, object_id, _ = about.decode().split()
            header = self.git.header(object_id) if mode in (FILE, EXECUTABLE, LINK) else None
            if header is None:
                items.pop(_name(path), None)
            else:
                items[_name(path)] = Item(mode, object_id, header[2])
        return Listing(items)


class CommitTree:
    """`headgate.ports.Tree` over one commit."""

    def __init__(self, cache: TreeCache, commit: str, root: str) -> None:
        self.commit = commit
        self.root = root
        self._cache = cache
        self._listings: dict[str, Listing] = {}
        self._lock = RLock()

    def files(self, under: str = "") -> Mapping[str, int]:
        return {path: item.size for path, item in self._below(under) if item.mode in (FILE, EXECUTABLE)}

    def links(self, under: str = "") -> Mapping[str, str]:
        found = [(path, item) for path, item in self._below(under) if item.mode == LINK]
        return {path: _name(self._cache.git.data(i.object_id)) if i.size <= LINK_LIMIT else "" for path, i in found}

    def read(self, path: str, limit: int) -> bytes:
        entry = self.entry(path)
        if entry is None or entry.mode not in (FILE, EXECUTABLE):
            raise FileNotFoundError(path)
        header = self._cache.git.header(entry.object_id)
        if header is None:
            raise FileNotFoundError(path)
        if header[2] > limit:
            raise ValueError(f"{path} has {header[2]:,} bytes, more than {limit:,}")
        return self._cache.git.data(entry.object_id)

    def object_id(self, path: str) -> str | None:
        entry = self.entry(path)
        return entry.object_id if entry else None

    def entry(self, path: str) -> Entry | None:
        """Mode and id of a file, link or folder. Links are never followed; `..` leads nowhere."""
        parts = _parts(path)
        if parts is None:
            return None
        here = Entry(FOLDER, self.root)
        for part in parts:
            found = self._cache.tree(here.object_id).get(part) if here.mode == FOLDER else None
            if found is None:
                return None
            here = found
        return here

    def _below(self, under: str) -> list[tuple[str, Item]]:
        parts = _parts(under)
        if parts is None:
            return []
        with self._lock:
            return self._listed("/".join(parts))

    def _listed(self, folder: str) -> list[tuple[str, Item]]:
        known = self._known(folder)
        if known is not None:
            base, listing = known
            inner = folder[len(base) :].lstrip("/")
            prefix = f"{base}/" if base else ""
            return [(prefix + path, listing.items[path]) for path in listing.below(inner)]
        entry = self.entry(folder)
        if entry is None or entry.mode != FOLDER:
            return []
        if not folder or len(self._listings) >= MANY_FOLDERS:
            self._listings = {"": self._cache.whole(self.root)}
        else:
            self._listings[folder] = self._cache.listing(entry.object_id)
        return self._listed(folder)

    def _known(self, folder: str) -> tuple[str, Listing] | None:
        for base, listing in self._listings.items():
            if not base or folder == base or folder.startswith(f"{base}/"):
                return base, listing
        return None


@dataclass(slots=True)
class _Folder:
    """A folder being changed: untouched children stay entries."""

    children: dict[str, Entry | _Folder] = field(default_factory=dict)


def edited(cache: TreeCache, root: str, changes: Mapping[str, Entry | None]) -> str:
    """Writes the tree that `root` becomes with these entries put (files or whole folders) or, for None, taken out.

    A folder left empty goes too: git keeps none. Returns the new root's id.

    Raises:
        ValueError: a path is absolute, empty or has `.` or `..` in it.
    """
    top = _Folder(dict(cache.tree(root)))
    for path, entry in sorted(changes.items()):
        parts = _parts(path)
        if not parts:
            raise ValueError(f"not a path inside the repository: {path!r}")
        _put(cache, top, parts, entry)
    return _write(cache.git, top)


def _put(cache: TreeCache, top: _Folder, parts: tuple[str, ...], entry: Entry | None) -> None:
    here = top
    for part in parts[:-1]:
        child = here.children.get(part)
        if not isinstance(child, _Folder):
            if entry is None and (child is None or child.mode != FOLDER):
                return  # nothing there to take out
            inside = cache.tree(child.object_id) if child is not None and child.mode == FOLDER else {}
            child = here.children[part] = _Folder(dict(inside))
        here = child
    if entry is None:
        here.children.pop(parts[-1], None)
    else:
        here.children[parts[-1]] = entry


def _write(git: GitDir, folder: _Folder) -> str:
    lines = []
    for name, child in folder.children.items():
        if isinstance(child, _Folder):
            tree_id = _write(git, child)
            if tree_id == EMPTY_TREE:
                continue
            child = Entry(FOLDER, tree_id)
        kind = {FOLDER: "tree", "160000": "commit"}.get(child.mode, "blob")
        lines.append(f"{child.mode:>06} {kind} {child.object_id}\t".encode() + _bytes(name) + b"\0")
    return git.run("mktree", "-z", "--missing", stdin=b"".join(lines)).decode().strip()


EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def _parse(raw: bytes) -> dict[str, Entry]:
    entries = {}
    at = 0
    while at < len(raw):
        space = raw.index(b" ", at)
        end = raw.index(b"\0", space)
        entries[_name(raw[space + 1 : end])] = Entry(raw[at:space].decode(), raw[end + 1 : end + 21].hex())
        at = end + 21
    return entries


def _parts(path: str) -> tuple[str, ...] | None:
    """The components of a path from the root; () is the root itself; None: it leads out, or is no path."""
    if path in ("", "."):
        return ()
    parts = tuple(path.removesuffix("/").split("/"))
    return None if any(part in ("", ".", "..") for part in parts) else parts


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")

"""Paths written in a YAML file to content of the same commit: inside the repository, existing, through no link.

Raises instead of answering half a path: whoever resolves several collects the findings.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headgate.check import closest
from headgate.findings import Finding, Place, SpecError, cut
from headgate.ports import Tree
from headgate.target import SourcePath
from headgate.yamltext import MAX_BYTES, Document, Path


@dataclass(frozen=True, slots=True)
class Spot:
    """A position that is worked out only if a finding needs it."""

    document: Document
    path: Path
    key: bool = False  # the field's name rather than its value

    @property
    def place(self) -> Place:
        return self.document.key_place(self.path) if self.key else self.document.place(self.path)


def refuse(code: str, message: str, why: str, fix: str, spot: Spot) -> SpecError:
    return SpecError(Finding(code, message, why, fix, spot.place))


@dataclass(slots=True)
class Paths:
    tree: Tree
    cache: dict[Any, Any]
    files: dict[str, str] = field(default_factory=dict)  # every path that was looked at -> object id

    def resolve(self, written: str, base: str, spot: Spot, what: str) -> SourcePath:
        """A path as written in a file of the folder `base`. Raises SpecError."""
        path = self._inside(written, base, spot, what)
        link = self._link(path)
        if link:
            why, fix = "links are not followed: they can lead out of the repository", "write the path it points to"
            raise refuse("path-link", f"{what} `{cut(written)}` goes through the link `{link}`", why, fix, spot)
        object_id = self.depend(path)
        if object_id is None:
            message, why = f"{what} `{cut(written)}` does not exist", f"there is no `{path}` in this commit"
            raise refuse("path-missing", message, why, self.nearest(path, base), spot)
        return SourcePath(path, object_id)

    def _inside(self, written: str, base: str, spot: Spot, what: str) -> str:
        if not written or written.startswith(("/", "~")) or "\\" in written or "\0" in written:
            why, fix = "a commit must say all by itself what is served", "write a path relative to this file, with `/`"
            raise refuse("path-outside", f"{what} `{cut(written)}` is not a relative path", why, fix, spot)
        path = posixpath.normpath(posixpath.join(base, written))
        if path == "." or path.split("/")[0] == "..":
            why, fix = "only what is committed can be served, reviewed and reverted", "move it into the repository"
            raise refuse("path-outside", f"{what} `{cut(written)}` leads out of the repository", why, fix, spot)
        return path

    def _link(self, path: str) -> str:
        """The link at or above a path, or one below it that leads out of it; empty: none."""
        for link, aim in self._links().items():
            if path == link or path.startswith(f"{link}/"):
                return link
            if link.startswith(f"{path}/"):
                target = posixpath.normpath(posixpath.join(posixpath.dirname(link), aim))
                if aim.startswith("/") or not f"{target}/".startswith(f"{path}/"):
                    return link
        return ""

    def _links(self) -> Mapping[str, str]:
        key = ("links", self.tree.object_id(""))
        if key not in self.cache:
            self.cache[key] = dict(self.tree.links())
        found: Mapping[str, str] = self.cache[key]
        return found

    def depend(self, path: str) -> str | None:
        """The content id of a path, noted as something the endpoint depends on; None: there is none."""
        object_id = self.tree.object_id(path)
        if object_id is not None:
            self.files[path] = object_id
        return object_id

    def size(self, folder: SourcePath) -> tuple[int, int]:
        """Files in a folder and their bytes; 0 files: it is a file itself."""
        key = ("size", folder.object_id)
        if key not in self.cache:
            sizes = [size for path, size in self.tree.files(folder.path).items() if path != folder.path]
            self.cache[key] = (len(sizes), sum(sizes))
        found: tuple[int, int] = self.cache[key]
        return found

    def nearest(self, path: str, base: str) -> str:
        """How to fix a path that does not exist."""
        folder = posixpath.dirname(path)
        there = {f.removeprefix(f"{folder}/").split("/")[0] for f in self.tree.files(folder)}
        near = closest(posixpath.basename(path), there)
        if near:
            return f"did you mean `{posixpath.relpath(posixpath.join(folder, near), base)}`?"
        return f"commit it, or correct the path: it is relative to `{base}`"


def read_text(tree: Tree, path: str) -> bytes | Finding:
    """The bytes of a YAML file, or why it is not read."""
    try:
        return tree.read(path, MAX_BYTES)
    except FileNotFoundError:
        why = "folders and links hold no YAML"
        return Finding("path-missing", "not a regular file", why, "commit a file", Place(path))
    except ValueError as error:
        why = "whoever opens a pull request decides what is read here, so sizes are bounded"
        return Finding("yaml-size", str(error), why, "keep data and models in files of their own", Place(path))

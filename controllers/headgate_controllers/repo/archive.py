"""A commit's files as a tar, for builds: regular files only, byte for byte as committed, equal content equal bytes.

git's own archive is not used: attributes in the repo could leave files out or rewrite them, and then the content would
not be what its id says.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

from headgate.findings import SpecError
from headgate_controllers.repo import findings as say
from headgate_controllers.repo.committree import EXECUTABLE, FILE, CommitTree
from headgate_controllers.repo.gitdir import GitDir

ARCHIVE_LIMIT = 32 << 30  # bytes of one build's files
IN_MEMORY = 1 << 20  # bytes; larger files go through in pieces
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def write(git: GitDir, tree: CommitTree, paths: Sequence[str], out: IO[bytes], limit: int = ARCHIVE_LIMIT) -> None:
    """Writes a tar of these files and folders; links are left out.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: more than `limit` bytes in all.
        SpecError: a file is a Git LFS pointer, not its content.
    """
    found: dict[str, int] = {}
    for path in paths:
        found.update(_files_at(git, tree, path))
    total = sum(found.values())
    if total > limit:
        raise ValueError(f"{total:,} bytes of files, more than {limit:,}")
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(found):
            _add(git, tar, tree, path, found[path])


def _files_at(git: GitDir, tree: CommitTree, path: str) -> Mapping[str, int]:
    entry = tree.entry(path)
    if entry is None:
        raise FileNotFoundError(path)
    if entry.mode not in (FILE, EXECUTABLE):
        return tree.files(path)
    header = git.header(entry.object_id)
    return {path: header[2] if header else 0}


def _add(git: GitDir, tar: tarfile.TarFile, tree: CommitTree, path: str, size: int) -> None:
    entry = tree.entry(path)
    assert entry is not None
    info = tarfile.TarInfo(path)  # time, owner and group stay 0
    info.size = size
    info.mode = 0o755 if entry.mode == EXECUTABLE else 0o644
    if size > IN_MEMORY:
        tar.addfile(info, _Pieces(git.chunks(entry.object_id)))
        return
    data = git.data(entry.object_id)
    if data.startswith(LFS_POINTER):
        raise SpecError(say.lfs_pointer(path))
    tar.addfile(info, io.BytesIO(data))


class _Pieces(io.RawIOBase):
    """An iterator of bytes as the file that `tarfile` reads from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        answer = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(answer) :]
        return answer

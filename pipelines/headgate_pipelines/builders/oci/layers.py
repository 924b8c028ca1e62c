"""Files as a layer of an image: the same files give the same bytes, wherever and whenever they were made.

Sorted by path; owner 0, time 0; modes 0755 and 0644; no time in the gzip header. Refuses devices and sockets. Holds
one block of one file in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from headgate_kit.files import FULL, DiskFull

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    file: Path  # gzip
    digest: str  # sha256:... of the file
    diff_id: str  # sha256:... of the tar inside
    size: int  # bytes of the file


class Sink:
    """Writes through, and remembers the digest and the size."""

    def __init__(self, target: IO[bytes] | gzip.GzipFile) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def pack(parts: Sequence[tuple[Path, str]], into: Path, level: int) -> Layer:
    """Packs files and folders.

    Args:
        parts: (file or folder here, its path in the image without a leading slash).
        level: of gzip, 0 (stored) to 9.
    Raises:
        DiskFull: no room for the layer. ValueError: something that is neither file, folder nor link.
    """
    try:
        with into.open("wb") as file:
            outer = Sink(file)
            with gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=_io(outer), mtime=0) as zipped:
                inner = Sink(zipped)
                with tarfile.open(fileobj=_io(inner), mode="w|", format=tarfile.PAX_FORMAT) as tar:
                    for place, origin in sorted(dict(_entries(parts)).items()):
                        _add(tar, place, origin)
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(into) from error
        raise
    return Layer(into, outer.digest, inner.digest, outer.size)


def _io(sink: Sink) -> Any:
    """tarfile and gzip ask for a whole file object and use `write` and `flush` of it."""
    return sink


def _entries(parts: Sequence[tuple[Path, str]]) -> Iterator[tuple[str, Path | None]]:
    """(path in the image, what is there); None: a folder above a part. Each once."""
    above = {parent.as_posix() for _, place in parts for parent in PurePosixPath(place).parents} - {"."}
    taken = {place for _, place in parts}
    yield from ((place, None) for place in above - taken)
    for origin, place in parts:
        yield place, origin
        if origin.is_dir() and not origin.is_symlink():
            for folder, names, files in os.walk(origin):
                inside = PurePosixPath(place, PurePosixPath(Path(folder).relative_to(origin)))
                yield from (((inside / name).as_posix(), Path(folder, name)) for name in (*names, *files))


def _add(tar: tarfile.TarFile, place: str, origin: Path | None) -> None:
    info = tarfile.TarInfo(place)  # owner 0, time 0
    found = origin.lstat() if origin else None
    if origin is None or found is None or stat.S_ISDIR(found.st_mode):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, os.readlink(origin)
        tar.addfile(info)
    elif stat.S_ISREG(found.st_mode):
        info.size, info.mode = found.st_size, 0o755 if found.st_mode & 0o100 else 0o644
        with origin.open("rb") as file:
            tar.addfile(info, file)
    else:
        raise ValueError(f"{place} is neither a file, a folder nor a link")

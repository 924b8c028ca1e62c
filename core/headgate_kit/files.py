"""Files that are whole or not there, locks that say who holds them, databases that survive a crash, bounded archives.

Refuses to leave half a file behind, to write outside the folder it was given, and to read without a limit where the
content comes from somebody else.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from headgate.findings import TransientError

FULL = (errno.ENOSPC, errno.EDQUOT)
MEMBERS = 1_000_000  # of an archive
BUSY_TIMEOUT_S = 10.0  # a writer waits this long for another one: longer than any transaction of ours


class DiskFull(TransientError):
    """No room where we write. Nothing was half-written; free space and it goes on by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no space left on the disk of {path.parent}: nothing was written", retry_after_s=5.0)


class AlreadyLocked(TransientError):
    """Another process holds the lock. `holder` is what it said about itself."""

    def __init__(self, path: Path, holder: str) -> None:
        self.holder = holder
        super().__init__(f"{path} is held by {holder or 'another process'}")


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Writes the file whole or not at all: a reader sees the old content or the new, also after a power cut.

    Raises:
        DiskFull: there is no room; the old content is still there.
    """
    name = ""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(name, path)
        sync_folder(path.parent)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if error.errno in FULL:
            raise DiskFull(path) from error
        raise


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n", mode)


def read_json(path: Path) -> Any:
    """The file's value; None when there is no such file. Raises ValueError when it is not JSON."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return json.loads(content)


class Locked:
    """Holds an exclusive lock on a file while open; the kernel lets go of it when the process dies.

    Never waits: raises AlreadyLocked with the holder's own words (`who`), so that the second one can say why it stops.
    """

    def __init__(self, path: Path, who: str = "") -> None:
        self._path = path
        self._who = who or f"process {os.getpid()}"
        self._descriptor = -1

    def __enter__(self) -> Self:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1_000, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise AlreadyLocked(self._path, holder) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, self._who.encode() + b"\n", 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file stays: removing it would let two processes lock two files of one name.
        os.close(self._descriptor)
        self._descriptor = -1


def stamp(*paths: Path) -> tuple[object, ...]:
    """Changes when a file is rewritten, or its name leads to another one, as mounted Secrets are swapped."""
    found: list[object] = []
    for path in paths:
        with suppress(OSError):
            stat = os.stat(path)
            found.append((str(path), stat.st_mtime_ns, stat.st_ino, stat.st_size))
    return tuple(found)


def open_database(path: Path) -> sqlite3.Connection:
    """SQLite that keeps what it acknowledged: WAL, synchronous=FULL, foreign keys on, autocommit (begin yourself).

    May be used from several threads when the caller takes turns.
    """
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        database.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA foreign_keys=ON")
        os.chmod(path, 0o600)
    except sqlite3.OperationalError as error:
        database.close()
        if "full" in str(error):
            raise DiskFull(path) from error
        raise
    return database


def unpack(archive: bytes | Path, into: Path, limit: int, most: int = MEMBERS) -> None:
    """Extracts a tar archive into an existing folder.

    Args:
        limit: bytes the members may add up to.
        most: members it may have.
    Raises:
        ValueError: a member leaves the folder, is a device, or a link that points out; or the limit is passed.
        DiskFull: no room.
    """
    source = io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")
    left = limit
    try:
        with source, tarfile.open(fileobj=source) as tar:
            for member in tar:
                left -= max(member.size, 0)
                most -= 1
                if most < 0:
                    raise ValueError("the archive holds too many files")
                if left < 0:
                    raise ValueError(f"the archive holds more than {limit} bytes")
                tar.extract(member, into, filter="data")
    except tarfile.TarError as error:
        raise ValueError(f"refused archive: {error}") from error
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(into / "archive") from error
        raise

"""Processes that outlive whoever started them: start, look, stop. All state is in the process's folder.

A controller that is killed loses nothing: the next one reads the folders and carries on. The lock is the truth about
"runs", the exit file about "ended"; a process number is only ever used to send signals, and only after checking that
it still means the same process. Refuses to run a folder's command twice: `reset` it first, which fails while it runs.

    FOLDER/command.json   argv, environment, working folder (0600: it may hold secrets)
    FOLDER/lock           locked as long as the process lives, whatever became of its shim
    FOLDER/pid.json       numbers of the shim and of the process
    FOLDER/exit           exit code, or minus the signal
    FOLDER/stdout, stderr appended
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headgate.findings import TransientError
from headgate_kit import shim
from headgate_kit.files import DiskFull, read_json, write_json

POLL_S = 0.01
KILLED_WITHIN_S = 10.0  # SIGKILL is not refused; only the disk can delay its record
START_TRIES = 5
OPEN_FILES = 10_240  # macOS gives 256 and no more than this


@dataclass(frozen=True, slots=True)
class Absent:
    """Never started here, or reset."""


@dataclass(frozen=True, slots=True)
class Running:
    """The lock is held: by the shim, or by the process itself."""


@dataclass(frozen=True, slots=True)
class Exited:
    code: int  # minus the signal when one ended it


@dataclass(frozen=True, slots=True)
class Lost:
    """Started, gone, and nobody wrote down how: the shim was killed, or the machine."""


State = Absent | Running | Exited | Lost


class StillRuns(TransientError):
    """Asked to reset a folder whose process lives."""


def allow_open_files() -> None:
    """Raises the soft limit of this process and of all it starts: an open request is two sockets of a router."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def start(
    folder: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    fds: Sequence[int] = (),
    stdout: str = "stdout",
    stderr: str = "stderr",
) -> None:
    """Starts argv in a session of its own. When this returns `state` says Running, or already how it ended.

    One that runs, or that has ended and was not reset, is left as it is. Safe from any thread, leaves no zombie.

    Args:
        folder: of this process alone; created when missing.
        env: the whole environment; nothing is inherited. Written to a file only its owner can read.
        cwd: None is `/`.
        fds: descriptors the process inherits under the same numbers.
        stdout, stderr: log files in the folder; the same name twice is one log.
    Raises:
        DiskFull: nothing was started.
        TransientError: the shim could not be started.
    """
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = state(folder)
    if isinstance(before, Running | Exited):
        return
    if isinstance(before, Lost):
        _sweep(folder)
    command = {
        "argv": [str(a) for a in argv],
        "env": dict(env),
        "cwd": str(cwd) if cwd else "",
        "fds": list(fds),
        "stdout": stdout,
        "stderr": stderr,
    }
    write_json(folder / "command.json", command)
    for _ in range(START_TRIES):
        result = _run_shim(folder, fds)
        if result.returncode == shim.STARTED or isinstance(state(folder), Running | Exited):
            return
    if f"Errno {errno.ENOSPC}".encode() in result.stderr:
        raise DiskFull(folder / "lock")
    raise TransientError(f"{folder}: not started: {result.stderr.decode(errors='replace').strip() or 'lost the race'}")


def _run_shim(folder: Path, fds: Sequence[int]) -> subprocess.CompletedProcess[bytes]:
    """Its first process ends as soon as the lock is held: 20 ms."""
    return subprocess.run(
        [sys.executable, "-I", "-S", shim.__file__, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        env={},
        start_new_session=True,
        pass_fds=tuple(fds),
        check=False,
    )


def state(folder: Path) -> State:
    """Three system calls at most: cheap enough to ask every 50 ms for hundreds of folders."""
    code = _exit_code(folder)
    if code is not None:
        return Exited(code)
    if _held(folder):
        return Running()
    code = _exit_code(folder)  # it may have ended between the two looks
    if code is not None:
        return Exited(code)
    return Lost() if (folder / "pid.json").exists() else Absent()


def _exit_code(folder: Path) -> int | None:
    try:
        return int((folder / "exit").read_bytes())
    except FileNotFoundError:
        return None


def _held(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def pid(folder: Path) -> int | None:
    """The process's number, which is its process group's too; None: it does not run, or not yet."""
    if not _held(folder):
        return None
    return _group(folder)


def _group(folder: Path) -> int | None:
    """The recorded number, if it still means the process we started (or a group that outlived its leader)."""
    known = read_json(folder / "pid.json")
    if known is None:
        return None
    born = shim.birth(known["child"])
    if born == known["birth"]:
        return int(known["child"])
    # No leader any more: the kernel keeps the number taken while its group has members, until the next boot.
    same_boot = shim.birth(os.getpid()).partition("/")[0] == known["birth"].partition("/")[0]
    return int(known["child"]) if not born and same_boot and "/" in known["birth"] else None


def send(folder: Path, number: signal.Signals) -> bool:
    """Sends a signal to the process's group. False: nothing runs there."""
    group = pid(folder)
    if group is None:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended just now
        os.killpg(group, number)
        return True
    return False


def stop(folder: Path, *, grace_s: float) -> State:
    """SIGTERM to the process's group, SIGKILL after `grace_s`; waits for the end and returns it."""
    _end(folder, signal.SIGTERM, grace_s)
    return _end(folder, signal.SIGKILL, KILLED_WITHIN_S)


def _end(folder: Path, number: signal.Signals, within_s: float) -> State:
    deadline = time.monotonic() + within_s
    sent = False
    while isinstance(now := state(folder), Running) and (not sent or time.monotonic() < deadline):
        sent = sent or send(folder, number) or time.monotonic() > deadline  # its number may not be written yet
        time.sleep(POLL_S)
    return now


def reset(folder: Path) -> None:
    """Forgets the last run, so that `start` runs again; logs stay. What the last run left alive is killed.

    Raises:
        StillRuns: it does.
    """
    now = state(folder)
    if isinstance(now, Absent):
        return
    held = None if isinstance(now, Running) else shim.lock(str(folder / "lock"))
    if held is None:
        raise StillRuns(f"{folder}: its process still runs")
    try:
        _sweep(folder)
        for name in ("pid.json", "exit", "command.json"):
            (folder / name).unlink(missing_ok=True)
    finally:
        os.close(held)


def _sweep(folder: Path) -> None:
    """Kills what a lost process left behind in its group: nobody else would."""
    group = _group(folder)
    if group is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)

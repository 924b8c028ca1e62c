"""The small process above a process: it outlives whoever started it and writes down how its child ended.

    python -I -S shim.py FOLDER

Reads FOLDER/command.json, holds a lock on FOLDER/lock while the child lives, writes FOLDER/pid.json before the child
runs its first instruction and FOLDER/exit after its last. Standard library only and few modules: it starts in 15 ms.
`child.py` is the library that starts it and reads what it wrote. It never runs a command twice: an exit that is
recorded, or a lock that is held, ends it at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False  # `typing` itself takes a fifth of our start
if TYPE_CHECKING:
    from typing import Any

STARTED, LOST_RACE, FAILED = 0, 73, 74  # what the starter learns from our first exit
LOCK_TRIES, LOCK_PAUSE_S = 40, 0.005  # somebody who only looks holds a shared lock for microseconds
RECORD_TRIES, RECORD_PAUSE_S = 150, 0.2  # 30 s of a full disk, then the exit counts as lost
CANNOT_RUN = 127  # as a shell says it


def birth(pid: int) -> str:
    """Tells a process from a later one with its number: boot/start time, or the time alone. Empty: there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip() + "/" + fields[19].decode()
    except (OSError, IndexError):
        return "" if os.path.isdir("/proc/self") else _birth_from_ps(pid)


def _birth_from_ps(pid: int) -> str:
    with os.popen(f"ps -o lstart= -p {int(pid)}") as answer:
        return answer.read().strip()


def write(path: str, value: object) -> None:
    """Whole or not at all, and durable."""
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def lock(path: str) -> int | None:
    """The lock's descriptor; None: another shim, or a child that outlived its shim, holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        time.sleep(LOCK_PAUSE_S)
    os.close(descriptor)
    return None


def run_child(command: dict[str, Any], held: int, gate: int) -> None:
    """In the child: waits until its number is written down, then becomes the command. Does not return."""
    try:
        os.setsid()
        if os.read(gate, 1) != b"1":
            os._exit(CANNOT_RUN)  # the shim died before it wrote our number: nobody would know of us
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        # The lock goes with the command: killed without its shim, it is still seen to be running.
        for descriptor in (held, *command["fds"]):
            os.set_inheritable(descriptor, True)
        os.chdir(command["cwd"] or "/")
        os.execvpe(command["argv"][0], command["argv"], command["env"])
    except OSError as error:
        name = command["argv"][0] if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC) else "it"
        print(f"cannot run {name}: {error.strerror} ({error.filename or command['cwd']})", file=sys.stderr, flush=True)
    finally:
        os._exit(CANNOT_RUN)


def wait(pid: int) -> int:
    """The exit code, or minus the signal. Where the system can, the child is left a zombie: its number stays taken."""
    if hasattr(os, "waitid"):
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert result is not None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def record(code: int) -> None:
    """Writes the exit down; a full disk is waited for: an exit that is not recorded is work done for nothing."""
    for attempt in range(RECORD_TRIES):
        try:
            return write("exit", code)
        except FileNotFoundError:
            return None  # the folder was removed: nobody asks any more
        except OSError as error:
            if attempt == 0:
                print(f"cannot record exit {code}: {error}", file=sys.stderr, flush=True)
            time.sleep(RECORD_PAUSE_S)
    return None


def redirect(command: dict[str, Any]) -> None:
    """Our output, and so the child's, goes to the folder's logs."""
    for number, name in ((1, command["stdout"]), (2, command["stderr"])):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)


def supervise(command: dict[str, Any], held: int) -> None:
    gate, opener = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(opener)
        run_child(command, held, gate)
    for descriptor in (gate, *command["fds"]):
        os.close(descriptor)  # a listening socket of ours would keep taking connections for a dead child

    def forward(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):
            os.killpg(child, number)

    signal.signal(signal.SIGTERM, forward)
    try:
        write("pid.json", {"shim": os.getpid(), "child": child, "birth": birth(child)})
    except OSError as error:
        print(f"not started: {error}", file=sys.stderr, flush=True)
    else:
        with contextlib.suppress(BrokenPipeError):  # it was killed as soon as its number could be read
            os.write(opener, b"1")
    os.close(opener)
    code = wait(child)
    # What the child started goes with it; the zombie keeps the group's number from being reused meanwhile.
    forward(signal.SIGKILL, None)
    record(code)
    fcntl.flock(held, fcntl.LOCK_UN)  # also for anything that still shares the descriptor


def main(folder: str) -> int:
    os.chdir(folder)  # and relative names from here on: the folder may be moved while its process lives
    held = lock("lock")
    if held is None:
        return LOST_RACE
    if os.path.exists("exit"):
        return STARTED
    with open("command.json", encoding="utf-8") as file:
        command = json.load(file)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    redirect(command)
    # The starter waits for this process only: when it has gone the lock is held, by a shim nobody has to reap.
    if os.fork() == 0:
        try:
            supervise(command, held)
        except Exception as error:
            print(f"shim: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            raise
        finally:
            os._exit(0)
    return STARTED


if __name__ == "__main__":
    try:
        code = main(sys.argv[1])
    except (OSError, ValueError, KeyError) as error:
        print(f"shim: {error}", file=sys.stderr, flush=True)
        code = FAILED
    os._exit(code)

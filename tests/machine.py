"""The parts of a test cluster that run on this very machine: killed with -9, brought back as they were started.

Reads the folder of state that the cluster's start script leaves: `run/pids` (a line `PID NAME` for each part) and
`run/node-NODE/containerd.sock`. Needs to be root there. Kills nothing that is not listed or not asked for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = os.environ.get("HEADGATE_E2E_MACHINE", "")
LACKS = "the cluster's parts have to run on this machine: give HEADGATE_E2E_MACHINE=FOLDER with run/pids, as root"
DIED_S = 10.0
STAYS_S = 1.5  # a part that cannot start says so sooner
STARTED_S = 30.0


@dataclass(frozen=True, slots=True)
class Part:
    """How a part was started."""

    name: str
    pid: int
    command: tuple[str, ...]
    environment: dict[str, str]


class Machine:
    def __init__(self, folder: str = FOLDER) -> None:
        self._run = Path(folder).expanduser() / "run"

    def part(self, name: str) -> Part:
        pid = next(int(pid) for pid, found in self._parts() if found == name)
        process = Path(f"/proc/{pid}")
        command = process.joinpath("cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
        pairs = process.joinpath("environ").read_bytes().rstrip(b"\0").decode().split("\0")
        return Part(name, pid, tuple(command), dict(pair.split("=", 1) for pair in pairs if "=" in pair))

    def kill(self, name: str) -> Part:
        """With -9; answers what `start` brings back."""
        found = self.part(name)
        os.kill(found.pid, signal.SIGKILL)
        deadline = time.monotonic() + DIED_S
        while _lives(found.pid):
            assert time.monotonic() < deadline, f"{name} does not die"
            time.sleep(0.01)
        return found

    def start(self, part: Part) -> None:
        """Until it stays up: what the one before it held may be given back a moment after its death."""
        deadline = time.monotonic() + STARTED_S
        pid = self._spawn(part)
        while not _stays(pid):
            assert time.monotonic() < deadline, f"{part.name} does not stay up: log/{part.name}.log says why"
            pid = self._spawn(part)
        lines = [f"{pid if name == part.name else known} {name}\n" for known, name in self._parts()]
        (self._run / "pids").write_text("".join(lines))

    def _spawn(self, part: Part) -> int:
        log = os.open(self._run / f"log/{part.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            files: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, nothing, 0)]
            files += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
            files += [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited()]
            return os.posix_spawnp(part.command[0], part.command, part.environment, file_actions=files, setsid=True)
        finally:
            os.close(log)
            os.close(nothing)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """The part is dead meanwhile, and back afterwards whatever happens."""
        part = self.kill(name)
        try:
            yield
        finally:
            self.start(part)

    def kill_container(self, pod: Any) -> bool:
        """With -9: the processes of the pod's first container, past its kubelet. False: it has ended already."""
        status = pod["status"]["containerStatuses"][0]
        container = status["containerID"].rpartition("/")[2]
        socket = self._run / f"node-{pod['spec']['nodeName']}/containerd.sock"
        words = ["ctr", "-a", str(socket), "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", container]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
        gone = "not found" in done.stderr
        assert done.returncode == 0 or gone, f"{' '.join(words)}: {done.stderr}"
        return not gone

    @contextmanager
    def cut_off(self, addresses: Sequence[str], server: str) -> Iterator[None]:
        """Pods of these addresses do not reach a server of this machine meanwhile: what they had open is reset."""
        rules = [
            ["INPUT", "-s", address, "-d", server, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]
            for address in addresses
        ]
        for rule in rules:
            subprocess.run(["iptables", "-I", *rule], check=True, timeout=20)
        try:
            yield
        finally:
            for rule in rules:
                subprocess.run(["iptables", "-D", *rule], check=True, timeout=20)

    def _parts(self) -> list[tuple[str, str]]:
        lines = (self._run / "pids").read_text().splitlines()
        return [(pid, name) for pid, _, name in (line.partition(" ") for line in lines)]


def missing() -> str:
    """What is not there for killing parts; empty: it can be done."""
    return "" if FOLDER and Path(FOLDER).expanduser().joinpath("run/pids").exists() and os.geteuid() == 0 else LACKS


def _inherited() -> list[int]:
    """What we were given and a part that outlives us must not keep: the lock that somebody holds around us, say."""
    found = [int(name) for name in os.listdir("/proc/self/fd")]
    kept = []
    for fd in found:
        with suppress(OSError):  # the one the folder was read with
            if fd > 2 and os.get_inheritable(fd):
                kept.append(fd)
    return kept


def _lives(pid: int) -> bool:
    """Until its last thread has ended: files and ports are held so long, whatever its first one says."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # one we started ourselves leaves nothing behind
    return any(_runs(thread) for thread in Path(f"/proc/{pid}/task").glob("*/stat"))


def _runs(thread: Path) -> bool:
    try:
        return thread.read_text().rpartition(")")[2].split()[0] not in "XZ"
    except OSError:
        return False


def _stays(pid: int) -> bool:
    ends = time.monotonic() + STAYS_S
    while _lives(pid):
        if time.monotonic() >= ends:
            return True
        time.sleep(0.05)
    return False

"""Where things run: ports, cores, processes with their CPU time and memory. Linux, for /proc and affinity."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
ROUTER = {CORES[0]}  # the router under test, alone
REST = {CORES[-1]}  # load and upstreams
UP_S = 90.0  # a loaded machine starts four interpreters slowly


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


@contextmanager
def running(
    argv: Sequence[str],
    port: int,
    cores: set[int],
    log: Path,
    env: Mapping[str, str] | None = None,
    fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A program on its cores, once it listens on the port; ended by its own SIGTERM."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            argv, stdout=out, stderr=out, env={**os.environ, **(env or {})}, pass_fds=tuple(fds),
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
    try:
        until(lambda: listens(port) or process.poll() is not None, f"{argv[0]} does not listen on {port}")
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(argv[:4])} ended: {log.read_text()[-2000:]}")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], bool], says: str, within_s: float = UP_S) -> None:
    ends = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > ends:
            raise RuntimeError(says)
        time.sleep(0.02)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(port: int) -> bool:
    """Whether it speaks HTTP by now: a socket may listen before its program is ready."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as probe:
            probe.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return probe.recv(12).startswith(b"HTTP/1.1 ")
    except OSError:
        return False


def tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process and its children, in seconds, to the nanosecond: by their CPU clocks."""
    return sum(time.clock_gettime(~one << 3 | 2) for one in tree(pid))


def memory_mb(pid: int) -> float:
    """Proportional set size of a process and its children, in MiB."""
    total = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return round(total / 1024, 1)

"""`python -m bench.soak`: callers go on while tables change and everything else is killed or replaced; soak.json.

Workers, sockets, tables, replicas and callers are real processes; what ended is started again at once, as by a
supervisor. Exit 1: a request failed that was not open on a worker at its `kill -9`, or was answered by a generation
older than all workers had acked before it was sent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.numbers import keep
from bench.soak.controller import CANDIDATE, REVISIONS

from headgate_kit import listen
from headgate_kit.layout import DataFolder

UP_S = 240.0  # on a machine that does much else
AFTER_S = 2.0  # a request that was open at a kill is seen to be lost by then
REPLICAS = 2  # of each revision
FAULTS = (
    ("worker killed", signal.SIGKILL), ("replica killed", signal.SIGKILL), ("worker upgraded", signal.SIGTERM),
    ("replica killed", signal.SIGKILL), ("controller killed", signal.SIGKILL),
)  # fmt: skip


@dataclass
class Asked:
    requests: int
    changes: int
    workers: int = 4
    callers: int = 2  # processes
    connections: int = 8  # of each
    fault_every_s: float = 1.0
    seconds: float = 1200.0  # at most


@dataclass
class Soak:
    asked: Asked
    root: Path
    faults: Counter[str] = field(default_factory=Counter)
    kills: list[float] = field(default_factory=list)  # wall clock, of workers
    argv: dict[str, tuple[object, ...]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)  # it was started, or was sent a signal
    ports: dict[str, list[int]] = field(default_factory=dict)  # of replicas
    acked_then: int = 0  # when the last fault was

    def __post_init__(self) -> None:
        self.data = DataFolder(self.root / "data")
        self.data.prepare()
        self.data.token.write_text("soak")
        (self.root / "acked").write_bytes(bytes(8))
        self.sock = listen.bind("127.0.0.1", 0)
        self.port = self.sock.getsockname()[1]
        self.callers: list[subprocess.Popen[bytes]] = []

    # Processes.

    def start(self) -> None:
        for name, index in itertools.product((*REVISIONS, CANDIDATE), range(REPLICAS)):
            port = free_port()
            self.ports.setdefault(name, []).append(port)
            self.keep(f"replica {name} {index}", "bench.soak.replica", port, name)
        groups = [",".join(map(str, self.ports[name])) for name in (*REVISIONS, CANDIDATE)]
        numbers = (free_port(), self.asked.workers)
        self.keep("controller", "bench.soak.controller", self.root, *numbers, *groups)
        fd = self.sock.fileno()
        for index in range(self.asked.workers):
            name = f"router-{index}"
            self.keep(f"worker {index}", "headgate_router", "--data", self.data.root, "--worker", name, "--fd", fd)
        self.until(lambda: self.acked > 0)
        for _ in range(self.asked.callers):
            self.callers.append(self.child("bench.soak.caller", self.root, self.port, self.asked.connections))
        self.until(lambda: self.answered >= self.asked.callers * self.asked.connections)

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + UP_S
        while not true():
            self.restart()
            if time.monotonic() > deadline:
                raise SystemExit("it does not start")
            time.sleep(0.05)

    def keep(self, name: str, *argv: object) -> None:
        """Runs it, now and whenever it has ended."""
        self.argv[name] = argv
        self.running[name] = self.child(*argv)
        self.since[name] = time.monotonic()

    def child(self, *argv: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *map(str, argv)]
        out = subprocess.PIPE if argv[0] == "bench.soak.caller" else subprocess.DEVNULL
        return subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, pass_fds=(self.sock.fileno(),))

    def restart(self) -> None:
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self.keep(name, *self.argv[name])

    @property
    def acked(self) -> int:
        return int.from_bytes((self.root / "acked").read_bytes(), "little")

    @property
    def answered(self) -> int:
        return sum(int(file.read_bytes() or b"0") for file in self.root.glob("told-*"))

    # Faults.

    def fault(self) -> bool:
        """The next fault, to the one of its kind that runs longest. False: not everything is up since the last one."""
        if self.acked <= self.acked_then:  # all workers, and the controller, say that they are
            return False
        if not all(listens(port) for ports in self.ports.values() for port in ports):  # a revision without any is 503
            return False
        kind, number = FAULTS[self.faults.total() % len(FAULTS)]
        names = [name for name in self.running if name.startswith(kind.partition(" ")[0])]
        name = min(names, key=lambda one: self.since[one])
        self.since[name] = time.monotonic()
        self.acked_then = self.acked
        if kind == "worker killed":
            self.kills.append(time.time())
        self.running[name].send_signal(number)
        self.faults[kind] += 1
        return True

    def run(self) -> float:
        """Seconds it took, until the requests are asked and the changes made, or time is over."""
        began = last = time.monotonic()
        while (now := time.monotonic()) - began < self.asked.seconds:
            done = self.answered >= self.asked.requests and self.acked > self.asked.changes
            if done and self.faults.total() >= len(FAULTS):
                break
            if now - last >= self.asked.fault_every_s and self.fault():
                last = now
            self.restart()
            time.sleep(0.05)
        acked = self.acked
        self.until(lambda: self.acked > acked + 1)  # everything is up: what still waits in the backlog is answered
        return time.monotonic() - began

    def end(self) -> list[dict[str, Any]]:
        """What the callers saw."""
        for caller in self.callers:
            caller.send_signal(signal.SIGTERM)
        return [json.loads(caller.communicate(timeout=UP_S)[0]) for caller in self.callers]

    def stop(self) -> None:
        for process in (*self.callers, *self.running.values()):
            process.kill()
            process.communicate()
        self.sock.close()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with listen.bind("127.0.0.1", 0) as sock:
        return int(sock.getsockname()[1])


def judged(soak: Soak, seen: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The figures. `lost_otherwise`: requests without an answer that no kill of a worker explains."""
    lost = sorted(at for one in seen for at in one["lost"])
    after = [[at for at in lost if 0 <= at - kill <= AFTER_S] for kill in soak.kills]
    explained = {at for group in after for at in group}
    statuses: Counter[str] = Counter()
    revisions: Counter[str] = Counter()
    for one in seen:
        statuses.update(one["statuses"])
        revisions.update(one["revisions"])
    return {
        "requests": statuses.total(),
        "answered": dict(statuses),
        "failed": statuses.total() - statuses["200"],
        "lost_at_kills": len(explained),
        "lost_at_one_kill_max": max(map(len, after), default=0),
        "lost_otherwise": len(lost) - len(explained),
        "refused": sum(len(one["refused"]) for one in seen),
        "hung": sum(one["hung"] for one in seen),
        "outside_acked": sum(len(one["late"]) for one in seen),
        "outside_acked_first": [pair for one in seen for pair in one["late"]][:5],
        "foreign": sum(one["foreign"] for one in seen),
        "revisions": dict(revisions),
        "table_changes": soak.acked - 1,
        "faults": dict(soak.faults),
        "connections": soak.asked.callers * soak.asked.connections,
        "workers": soak.asked.workers,
        "seconds": round(seconds, 1),
    }


def wrong(found: dict[str, Any]) -> list[str]:
    """Figures that must be 0 and are not, and what else does not hold."""
    zero = ("failed", "lost_otherwise", "refused", "hung", "outside_acked", "foreign")
    bad = [f"{name}: {found[name]}" for name in zero if found[name]]
    if found["lost_at_one_kill_max"] > found["connections"]:
        bad.append(f"{found['lost_at_one_kill_max']} requests lost at one kill")
    return bad


def soak(asked: Asked) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        running = Soak(asked, Path(folder))
        try:
            running.start()
            seconds = running.run()
            return judged(running, running.end(), seconds)
        finally:
            running.stop()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="between two faults")
    parser.add_argument("--seconds", type=float, default=1200.0, help="at most")
    options = parser.parse_args(argv)
    asked = Asked(
        options.requests, options.changes, options.workers, fault_every_s=options.every, seconds=options.seconds
    )
    found = soak(asked)
    print(json.dumps(found, indent=2))
    bad = wrong(found)
    if found["requests"] < asked.requests or found["table_changes"] < asked.changes:
        print(f"time was over: {found['requests']} requests, {found['table_changes']} changes", file=sys.stderr)
    keep("soak", {"change_under_load": found})
    print("\n".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

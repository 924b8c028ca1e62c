"""What the parts share: a measured number with its goal, quantiles, memory of a process."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    name: str  # key in control.json
    value: float
    says: str  # one line for a person
    goal: float | None = None  # at most; None: no goal is set

    @property
    def held(self) -> bool:
        return self.goal is None or self.value <= self.goal


def quantile(values: Sequence[float], q: float) -> float:
    """An observed value: with 20 values the 0.99 quantile is the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]


def memory_mb(pid: int) -> float:
    """Resident memory of a process, in MiB, as `ps` has it on Linux and macOS."""
    kib = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return round(int(kib) / 1024, 1)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, of all its threads. Linux only: `ps` knows whole seconds."""
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def one_core() -> None:
    """Keeps this process, and those it starts, on one core, where the system can (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

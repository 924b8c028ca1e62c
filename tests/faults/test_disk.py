"""A full disk in the data folder: what serves, serves on; nothing is corrupted; it is said; it ends by itself."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import System

pytestmark = pytest.mark.faults

QUICK = "mirror: {percent: 0}\nsteps: [100]\nsoak: 0s\nmin_requests: 1\ngates: {}\n"
TALKS = """
import json
def init():
    pass
def run(raw):
    print("scoring", raw, "x" * 5000)
    return {{"value": json.loads(raw)["x"] * {factor}}}
"""


@pytest.fixture
def small_disk(system: System) -> Iterator[System]:
    """The data folder on a disk of its own, of 48 MiB: only root can make one."""
    system.data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(system.data)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs a small disk: run as root where mount is allowed ({mounted.stderr.strip()})")
    try:
        yield system
    finally:
        system.down()
        subprocess.run(["umount", str(system.data)], check=True)


def quick(system: System, **percent: int) -> None:
    system.traffic(**percent)
    system.write("endpoints/adder/rollout.yml", QUICK)


def fill(disk: Path) -> None:
    """To the last byte."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_stops_no_answer_is_said_and_ends_by_itself(small_disk: System) -> None:
    system = small_disk
    system.deployment("blue", 2, count=1, score=TALKS.format(factor=2))
    quick(system, blue=100)
    first = system.push("blue")
    system.up()
    system.settled(first)
    system.ready()
    caller = system.caller(40)
    fill(system.data)
    time.sleep(1)  # what was written aside is full, too
    fill(system.data)
    system.deployment("green", 2, offset=1, count=1)
    quick(system, green=100)
    commit = system.push("green")
    (finding,) = system.until("the finding", lambda: system.api("/status")["findings"])
    assert finding["code"] == "disk-full"
    assert "disk-full" in system.headgate("status").stdout
    refused = system.headgate("keys", "rotate", "adder", check=False)
    assert (refused.returncode, "disk-full" in refused.stderr) == (1, True)
    assert system.endpoint()["state"] == "Healthy"
    (system.data / "filler").unlink()
    system.settled(commit)
    assert caller.end().bad == []
    assert system.shares() == {"green": 1000}
    assert system.api("/status")["findings"] == []

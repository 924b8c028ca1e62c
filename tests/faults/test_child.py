"""Kills in the wrong places: the lock stays true, nothing runs unseen, nothing runs twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headgate_kit import child
from headgate_kit.child import Exited, Lost, Running

pytestmark = pytest.mark.faults
ENV = {"PATH": os.environ["PATH"]}
DEADLINE_S = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "process"
    child.stop(tmp_path / "process", grace_s=0)


def numbers(folder: Path) -> dict[str, int]:
    until((folder / "pid.json").exists)
    found: dict[str, int] = json.loads((folder / "pid.json").read_text())
    return found


def test_a_process_outlives_the_starter_that_is_killed(folder: Path) -> None:
    code = (
        "import os,sys; from pathlib import Path; from headgate_kit import child;"
        f"child.start(Path({str(folder)!r}), ['sleep', '60'], env={ENV!r}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert child.state(folder) == Running()
    assert child.stop(folder, grace_s=DEADLINE_S) == Exited(-signal.SIGTERM)


def test_a_process_whose_shim_is_killed_is_still_seen_running_and_can_be_stopped(folder: Path) -> None:
    child.start(folder, ["sh", "-c", "echo up; exec sleep 60"], env=ENV)
    until(lambda: (folder / "stdout").read_text() == "up\n")  # before that it ends with its shim
    shim = numbers(folder)["shim"]
    os.kill(shim, signal.SIGKILL)
    until(lambda: gone(shim))
    assert child.state(folder) == Running()
    assert child.stop(folder, grace_s=DEADLINE_S) == Lost()


def test_a_process_stopped_at_once_has_its_end_recorded(folder: Path) -> None:
    """The signal may reach it between its number's writing and its first instruction."""
    for number in range(25):
        here = folder.parent / f"stopped-{number}"
        child.start(here, ["sleep", "60"], env=ENV)
        assert child.stop(here, grace_s=DEADLINE_S) == Exited(-signal.SIGTERM)


def test_a_lost_process_may_be_started_again_without_a_reset(folder: Path) -> None:
    child.start(folder, ["sleep", "60"], env=ENV)
    found = numbers(folder)
    os.kill(found["shim"], signal.SIGKILL)
    os.kill(found["child"], signal.SIGKILL)
    until(lambda: child.state(folder) == Lost())
    child.start(folder, ["sleep", "60"], env=ENV)
    assert child.state(folder) == Running()


def test_what_a_lost_process_left_in_its_group_is_killed_before_it_starts_again(folder: Path) -> None:
    # The orphan closes the lock's descriptor, as a subprocess of Python does, so the folder reads Lost.
    orphan = "import subprocess,time; p = subprocess.Popen(['sleep','60']); print(p.pid, flush=True); time.sleep(60)"
    child.start(folder, [sys.executable, "-I", "-S", "-c", orphan], env=ENV)
    found = numbers(folder)
    until(lambda: (folder / "stdout").read_text().endswith("\n"))
    number = int((folder / "stdout").read_text())
    os.kill(found["shim"], signal.SIGKILL)
    os.kill(found["child"], signal.SIGKILL)
    until(lambda: child.state(folder) == Lost())
    child.reset(folder)
    until(lambda: gone(number))


def gone(number: int) -> bool:
    """Also one whose end nobody has asked about."""
    try:
        os.kill(number, 0)
        of_linux = Path(f"/proc/{number}/stat")
        return of_linux.exists() and of_linux.read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_a_starter_killed_at_any_moment_leaves_one_run(folder: Path) -> None:
    """Whatever was recorded by then, a second start ends with exactly one run."""
    for delay_ms in range(0, 24, 3):
        here = folder.parent / f"process-{delay_ms}"
        code = "import sys,time; open(sys.argv[1],'a').write('x'); time.sleep(0.02)"
        starter = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path; from headgate_kit import child;"
                f"child.start(Path(sys.argv[1]), [sys.executable,'-I','-S','-c',{code!r}, sys.argv[2]], env={ENV!r})",
                str(here),
                str(here) + ".ran",
            ]
        )
        time.sleep(0.06 + delay_ms / 1000)
        starter.kill()
        starter.wait()
        child.start(here, [sys.executable, "-I", "-S", "-c", code, str(here) + ".ran"], env=ENV)
        until(lambda here=here: child.state(here) == Exited(0))  # type: ignore[misc]
        assert Path(str(here) + ".ran").read_text() == "x"


def test_a_disk_too_full_to_record_the_exit_is_waited_for(folder: Path) -> None:
    child.start(folder, ["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; exit 3"], env=ENV, cwd=folder)
    numbers(folder)
    # A folder in the file's place fails the rename as a full disk would.
    (folder / "exit").mkdir()
    (folder / "go").touch()
    until(lambda: "cannot record exit 3" in (folder / "stderr").read_text())
    assert child._held(folder)
    (folder / "exit").rmdir()
    until(lambda: child.state(folder) == Exited(3))

"""Real processes under the real shim: what is written down, and when."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from headgate_kit import child
from headgate_kit.child import Absent, Exited, Running, State, StillRuns

ENV = {"PATH": os.environ["PATH"]}
DEADLINE_S = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def ended(folder: Path) -> State:
    until(lambda: not isinstance(child.state(folder), Running))
    return child.state(folder)


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "process"
    child.stop(tmp_path / "process", grace_s=0)


def test_a_folder_never_started_is_absent(folder: Path) -> None:
    assert child.state(folder) == Absent()
    assert child.pid(folder) is None
    assert child.stop(folder, grace_s=1) == Absent()


def test_a_started_process_is_running_as_soon_as_start_returns(folder: Path) -> None:
    child.start(folder, ["sleep", "60"], env=ENV)
    assert child.state(folder) == Running()


@pytest.mark.parametrize("code", [0, 3, 75])
def test_the_exit_code_is_recorded(folder: Path, code: int) -> None:
    child.start(folder, python(f"raise SystemExit({code})"), env=ENV)
    assert ended(folder) == Exited(code)


def test_output_goes_to_the_folders_logs(folder: Path) -> None:
    child.start(folder, ["sh", "-c", "echo out; echo err >&2"], env=ENV)
    ended(folder)
    assert (folder / "stdout").read_text() == "out\n"
    assert (folder / "stderr").read_text() == "err\n"


def test_one_name_for_both_streams_is_one_log(folder: Path) -> None:
    child.start(folder, ["sh", "-c", "echo out; echo err >&2"], env=ENV, stdout="log", stderr="log")
    ended(folder)
    assert (folder / "log").read_text() == "out\nerr\n"


def test_nothing_of_our_environment_is_inherited_and_the_file_is_private(folder: Path) -> None:
    os.environ["HEADGATE_TEST_LEAK"] = "leaked"
    try:
        child.start(folder, ["env"], env=ENV | {"SECRET": "s"})
    finally:
        del os.environ["HEADGATE_TEST_LEAK"]
    ended(folder)
    lines = (folder / "stdout").read_text().splitlines()
    assert "SECRET=s" in lines
    assert not [line for line in lines if "leaked" in line]
    assert stat.S_IMODE((folder / "command.json").stat().st_mode) == 0o600


def test_the_working_folder_is_as_asked(folder: Path, tmp_path: Path) -> None:
    child.start(folder, ["pwd"], env=ENV, cwd=tmp_path)
    ended(folder)
    assert (folder / "stdout").read_text().strip() == str(tmp_path.resolve())


def test_a_command_that_is_not_there_says_so(folder: Path) -> None:
    child.start(folder, ["/no/such/program"], env=ENV)
    assert ended(folder) == Exited(127)
    assert "cannot run /no/such/program: No such file or directory" in (folder / "stderr").read_text()


def test_starting_twice_runs_once(folder: Path) -> None:
    for _ in range(3):
        child.start(folder, ["sh", "-c", "echo once"], env=ENV)
    ended(folder)
    child.start(folder, ["sh", "-c", "echo once"], env=ENV)
    assert ended(folder) == Exited(0)
    assert (folder / "stdout").read_text() == "once\n"


def test_many_starters_at_once_start_one(folder: Path) -> None:
    starters = [
        threading.Thread(target=child.start, args=(folder, ["sh", "-c", "echo once; sleep 60"]), kwargs={"env": ENV})
        for _ in range(4)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    until(lambda: (folder / "stdout").read_text() == "once\n")
    assert child.state(folder) == Running()


def test_reset_allows_another_run_and_keeps_the_logs(folder: Path) -> None:
    for _ in range(2):
        child.reset(folder)
        child.start(folder, ["sh", "-c", "echo again"], env=ENV)
        assert ended(folder) == Exited(0)
    assert (folder / "stdout").read_text() == "again\nagain\n"


def test_reset_of_a_running_process_is_refused(folder: Path) -> None:
    child.start(folder, ["sleep", "60"], env=ENV)
    with pytest.raises(StillRuns):
        child.reset(folder)
    assert child.state(folder) == Running()


def test_stop_lets_the_process_end_by_itself_first(folder: Path) -> None:
    code = "import signal,sys,time; signal.signal(15, lambda *a: sys.exit(9)); print('up', flush=True); time.sleep(60)"
    child.start(folder, python(code), env=ENV)
    until(lambda: (folder / "stdout").read_text() == "up\n")
    assert child.stop(folder, grace_s=DEADLINE_S) == Exited(9)


def test_stop_kills_what_does_not_listen(folder: Path) -> None:
    child.start(folder, ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], env=ENV)
    until(lambda: (folder / "stdout").read_text() == "up\n")
    assert child.stop(folder, grace_s=0.05) == Exited(-signal.SIGKILL)


def test_a_process_stopped_while_it_starts_ends(folder: Path) -> None:
    child.start(folder, ["sleep", "60"], env=ENV)
    assert isinstance(child.stop(folder, grace_s=DEADLINE_S), Exited)


def test_what_the_process_started_ends_with_it(folder: Path) -> None:
    child.start(folder, ["sh", "-c", "sleep 60 & echo $!"], env=ENV)
    assert ended(folder) == Exited(0)
    number = int((folder / "stdout").read_text())
    until(lambda: not alive(number))


def test_a_descriptor_is_inherited_and_the_shim_keeps_none(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; s = socket.socket(fileno={server.fileno()}); print(s.getsockname()[1])"
        child.start(folder, python(code), env=ENV, fds=[server.fileno()])
        ended(folder)
        assert int((folder / "stdout").read_text()) == server.getsockname()[1]


def test_the_process_leads_a_group_of_its_own_and_its_number_is_known(folder: Path) -> None:
    child.start(folder, ["sleep", "60"], env=ENV)
    until(lambda: child.pid(folder) is not None)
    number = child.pid(folder)
    assert number is not None
    assert os.getpgid(number) == number != os.getpgid(0)


def test_a_number_that_means_another_process_now_is_never_signalled(folder: Path) -> None:
    child.start(folder, ["sleep", "60"], env=ENV)
    until(lambda: child.pid(folder) is not None)
    known = json.loads((folder / "pid.json").read_text())
    (folder / "pid.json").write_text(json.dumps(known | {"birth": "another boot/1"}))
    assert child.pid(folder) is None
    assert not child.send(folder, signal.SIGKILL)
    (folder / "pid.json").write_text(json.dumps(known))


def test_a_folder_may_be_moved_while_its_process_lives(folder: Path) -> None:
    child.start(folder, ["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; exit 7"], env=ENV, cwd=folder.parent)
    moved = folder.rename(folder.parent / "moved")
    assert child.state(moved) == Running()
    (folder.parent / "go").touch()
    assert ended(moved) == Exited(7)


def test_no_zombie_is_left_with_the_starter(folder: Path) -> None:
    child.start(folder, ["true"], env=ENV)
    ended(folder)
    with suppress(ChildProcessError):  # there is no child, or one of another test, which runs
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    stat_file = Path(f"/proc/{number}/stat")
    return not stat_file.exists() or stat_file.read_text().rpartition(")")[2].split()[0] != "Z"

"""The platform of one machine with real replicas: real fronts, real workers, real small scoring scripts."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from headgate.findings import TransientError
from headgate.target import DeploymentTarget, EnvironmentPin, RunSettings, Source
from headgate.workload import Artifact, Probe, Purpose, Replica, ReplicaState, Workload
from headgate_controllers.platforms.process import ProcessPlatform
from headgate_kit import child
from headgate_kit.layout import DataFolder
from headgate_serving.servers.score import ScoreServer

DEADLINE_S = 40.0
PID = "import os\ndef init():\n    print('hello from init')\ndef run(data):\n    return os.getpid()\n"
QUICK = Probe(initial_delay_s=0, period_s=1, timeout_s=1, failure_threshold=2)


class Machine:
    """A data folder, a bundle, and the platforms (controllers, one after the other) that look after it."""

    def __init__(self, folder: Path) -> None:
        self.data = DataFolder(folder / "data")
        self.data.prepare()
        self.bundle = folder / "bundle"
        self.changed: list[str] = []
        self.messages: list[str] = []  # every one a controller could have read
        self.platform = self.controller()

    def controller(self) -> ProcessPlatform:
        platform = ProcessPlatform(self.data, on_change=lambda endpoint: self.saw(platform, endpoint))
        platform.start()
        return platform

    def saw(self, platform: ProcessPlatform, endpoint: str) -> None:
        self.changed.append(endpoint)
        self.messages += [r.message for r in platform.observe(endpoint)]

    def restart(self) -> None:
        self.platform.close()
        self.platform = self.controller()

    def workload(self, script: str = PID, revision: str = "r1", replicas: int = 1) -> Workload:
        bundle = self.bundle / revision
        if not bundle.exists():
            (bundle / "code/src").mkdir(parents=True)
            (bundle / "code/src/score.py").write_text(script)
            (bundle / "bundle.json").write_text(json.dumps({"code": "code/src", "scoring_script": "score.py"}))
        source = Source("score", None, None, "score.py", EnvironmentPin("", ()), {}, "/score", "small")
        deployment = DeploymentTarget("blue", revision, source, RunSettings())
        launch = ScoreServer(sys.executable).launch(deployment, Artifact("d", str(bundle)))
        return Workload("fraud", "blue", revision, replicas, launch)

    def apply(self, workload: Workload) -> None:
        self.platform.apply(workload)

    def replicas(self) -> list[Replica]:
        return list(self.platform.observe("fraud"))

    def wait(self, *states: ReplicaState) -> list[Replica]:
        until(lambda: [r.state for r in self.replicas()] == list(states), lambda: str(self.replicas()))
        return self.replicas()

    def folder(self, replica: Replica) -> Path:
        return self.data.replicas / replica.endpoint / replica.revision / f"{replica.purpose}-{replica.index}"

    def close(self) -> None:
        for revision in {r.revision for r in self.replicas()}:
            self.platform.remove("fraud", revision)
        self.platform.close()
        for lock in self.data.replicas.rglob("lock"):
            child.stop(lock.parent, grace_s=0)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


def until(condition: Callable[[], bool], what: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited too long: {what()}"
        time.sleep(0.02)


def ask(replica: Replica, body: str = "{}") -> int:
    answer = httpx.post(replica.address + "/score", content=body, timeout=DEADLINE_S, trust_env=False)
    return int(answer.raise_for_status().json())


READY, STARTING, FAILED = ReplicaState.READY, ReplicaState.STARTING, ReplicaState.FAILED


def test_a_workload_gets_its_replicas_and_they_answer(machine: Machine) -> None:
    machine.apply(machine.workload(replicas=2))
    assert [r.state for r in machine.replicas()] == [STARTING, STARTING]
    ready = machine.wait(READY, READY)
    assert len({ask(r) for r in ready}) == 2
    assert "fraud" in machine.changed


def test_applying_again_changes_nothing(machine: Machine) -> None:
    machine.apply(machine.workload())
    before = ask(machine.wait(READY)[0])
    for _ in range(3):
        machine.apply(machine.workload())
    assert ask(machine.wait(READY)[0]) == before


def test_a_restarted_controller_finds_everything_as_it_was(machine: Machine) -> None:
    machine.apply(machine.workload())
    before = machine.wait(READY)
    number = ask(before[0])
    machine.restart()
    assert machine.wait(READY) == before
    assert ask(before[0]) == number


def test_a_replica_that_died_while_nobody_looked_is_started_again(machine: Machine) -> None:
    machine.apply(machine.workload())
    found = machine.wait(READY)[0]
    machine.platform.close()
    child.stop(machine.folder(found), grace_s=0)
    machine.platform = machine.controller()
    assert machine.wait(READY)[0].restarts == 1


def test_more_replicas_start_and_the_surplus_ends(machine: Machine) -> None:
    machine.apply(machine.workload(replicas=1))
    first = machine.wait(READY)[0]
    machine.apply(machine.workload(replicas=2))
    second = machine.wait(READY, READY)[1]
    machine.apply(machine.workload(replicas=1))
    assert machine.replicas() == [first]
    assert ask(second) > 0  # out of sight, but it serves until the routers have seen that
    until(lambda: refuses(second))
    assert ask(first) > 0


def test_a_removed_revision_leaves_nothing_but_its_logs(machine: Machine) -> None:
    machine.apply(machine.workload())
    machine.apply(replace(machine.workload(), purpose=Purpose.SMOKE))
    found = machine.wait(READY, READY)
    machine.platform.remove("fraud", "r1")
    assert machine.replicas() == []
    until(lambda: all(refuses(r) for r in found))
    until(lambda: not any((machine.data.replicas / ".ending").iterdir()))
    assert not (machine.data.replicas / "fraud").exists()
    logs = [p.read_text() for p in (machine.data.replicas / ".ended").glob("*/inference-server")]
    assert len([text for text in logs if "hello from init" in text]) == 2
    machine.platform.remove("fraud", "r1")


def test_what_was_removed_ends_also_when_the_platform_is_closed_at_once(machine: Machine) -> None:
    machine.apply(machine.workload())
    found = machine.wait(READY)[0]
    machine.platform.remove("fraud", "r1")
    machine.platform.close()
    assert refuses(found)
    machine.platform = machine.controller()
    assert machine.replicas() == []


def test_a_replica_nobody_asks_for_any_more_is_ended_by_the_next_controller(machine: Machine) -> None:
    machine.apply(machine.workload())
    found = machine.wait(READY)[0]
    machine.platform.close()
    (machine.data.replicas / "fraud/r1/serve.json").unlink()
    machine.platform = machine.controller()
    assert machine.replicas() == []
    until(lambda: refuses(found))


def test_a_revision_removed_and_asked_for_again_starts_beside_the_ending_one(machine: Machine) -> None:
    machine.apply(machine.workload())
    before = ask(machine.wait(READY)[0])
    machine.platform.remove("fraud", "r1")
    machine.apply(machine.workload())
    assert [(r.state, r.address) for r in machine.replicas()] == [(STARTING, "")]
    assert ask(machine.wait(READY)[0]) != before


def test_a_smoke_replica_ends_with_zero_replicas_and_the_serving_one_stays(machine: Machine) -> None:
    machine.apply(machine.workload())
    machine.apply(replace(machine.workload(), purpose=Purpose.SMOKE))
    machine.wait(READY, READY)
    machine.apply(replace(machine.workload(), purpose=Purpose.SMOKE, replicas=0))
    assert [r.purpose for r in machine.replicas()] == [Purpose.SERVE]


def test_a_killed_replica_is_unready_and_comes_back(machine: Machine) -> None:
    machine.apply(machine.workload())
    found = machine.wait(READY)[0]
    number = child.pid(machine.folder(found))
    assert number is not None
    os.kill(number, signal.SIGKILL)
    until(lambda: machine.replicas()[0].restarts == 1 and machine.replicas()[0].state is READY)
    assert machine.replicas()[0].address != found.address


def test_a_killed_worker_takes_its_replica_with_it_and_it_comes_back(machine: Machine) -> None:
    machine.apply(machine.workload())
    os.kill(ask(machine.wait(READY)[0]), signal.SIGKILL)
    until(lambda: machine.replicas()[0].restarts == 1 and machine.replicas()[0].state is READY)


def test_a_script_that_does_not_start_is_given_up_with_its_place(machine: Machine) -> None:
    machine.apply(machine.workload("import no_such_module\n"))
    failed = machine.wait(FAILED)[0]
    head, *tail = failed.message.splitlines()
    why = "score.py:1: ModuleNotFoundError: No module named 'no_such_module'"
    assert head == "ended with code 3: the model did not start: " + why
    assert tail.count("Traceback (most recent call last):") == 1, "of the last start only"
    assert f"headgate: the model did not start: {why}" not in tail, "said already"
    assert failed.restarts == 4
    machine.restart()
    assert [r.state for r in machine.replicas()] == [FAILED]


def test_a_new_apply_tries_a_given_up_replica_again(machine: Machine, tmp_path: Path) -> None:
    script = f"import os\nassert os.path.exists({str(tmp_path / 'repaired')!r})\n" + PID
    machine.apply(machine.workload(script))
    machine.wait(FAILED)
    (tmp_path / "repaired").touch()
    machine.apply(machine.workload(script))
    machine.wait(READY)


def test_a_replica_that_never_gets_ready_is_given_up_in_the_time_its_probe_allows(machine: Machine) -> None:
    script = "import time\ndef init():\n    time.sleep(600)\ndef run(data):\n    pass\n"
    machine.apply(replace(machine.workload(script), readiness=QUICK))
    failed = machine.wait(FAILED)[0]
    assert failed.message.splitlines()[0] == "not ready within 2 s: init() is not done"
    until(lambda: isinstance(child.state(machine.folder(failed)), child.Exited))


def test_a_replica_above_its_memory_is_started_again_and_says_so(machine: Machine) -> None:
    script = (
        "kept = []\ndef init():\n    pass\n"
        "def run(size):\n    kept.append(bytearray(b'x') * int(size))\n    return len(kept)\n"
    )
    machine.apply(replace(machine.workload(script), memory_mb=300))
    ready = machine.wait(READY)[0]
    with suppress(httpx.TransportError):  # it may be ended before it can answer
        ask(ready, "400000000")
    until(lambda: any(m.startswith("OOM") and "300 MiB allowed" in m for m in machine.messages))
    until(lambda: machine.replicas()[0].state is READY and machine.replicas()[0].restarts == 1)


def test_a_front_that_hangs_is_ended_by_its_liveness_probe(machine: Machine) -> None:
    machine.apply(replace(machine.workload(), liveness=QUICK, readiness=QUICK))
    found = machine.wait(READY)[0]
    number = child.pid(machine.folder(found))
    assert number is not None
    os.kill(number, signal.SIGSTOP)
    until(lambda: machine.replicas()[0].restarts == 1 and machine.replicas()[0].state is READY)


def test_logs_are_read_and_followed_until_the_replica_is_removed(machine: Machine) -> None:
    machine.apply(machine.workload())
    found = machine.wait(READY)[0]
    assert b"hello from init" in b"".join(machine.platform.logs(found, follow=False))
    placed = b"".join(machine.platform.logs(found, follow=False, kind="storage-initializer"))
    assert b"scoring script: " in placed
    assert list(machine.platform.logs(found, follow=False, kind="no-such-log")) == []
    followed: list[bytes] = []
    following = threading.Thread(target=lambda: followed.extend(machine.platform.logs(found, follow=True)))
    following.start()
    with Path(found.logs["inference-server"]).open("a") as log:
        log.write("one more line\n")
    until(lambda: b"one more line" in b"".join(followed))
    machine.platform.remove("fraud", "r1")
    following.join(DEADLINE_S)
    assert not following.is_alive()


def test_a_replica_inherits_no_secret_of_ours(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TOKEN", "s3cret")
    machine.restart()
    script = "import os\ndef init():\n    pass\ndef run(data):\n    return int('GIT_TOKEN' in os.environ)\n"
    machine.apply(machine.workload(script))
    assert ask(machine.wait(READY)[0]) == 0


def test_a_full_disk_refuses_an_apply_and_leaves_nothing_behind(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(TransientError, match="no space left"):
            machine.apply(machine.workload())
        assert machine.replicas() == []
    assert not list(machine.data.replicas.rglob("*.json"))
    machine.apply(machine.workload())
    machine.wait(READY)


def test_names_that_leave_the_folder_are_refused(machine: Machine) -> None:
    with pytest.raises(ValueError, match="not a name"):
        machine.apply(replace(machine.workload(), endpoint="../escaped"))


def refuses(replica: Replica) -> bool:
    try:
        httpx.get(replica.address, timeout=1, trust_env=False)
    except httpx.TransportError:
        return True
    return False

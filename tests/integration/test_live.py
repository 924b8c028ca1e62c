"""Every verb on a live system: `headgate up` with real routers, controller, engine and models, from the template."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import git
import pytest

from headgate_console.connect import Control
from headgate_console.exits import Exit
from headgate_console.init import create
from headgate_console.supervisor import running, stop_everything
from headgate_kit import child
from headgate_kit.layout import DataFolder

WITHIN_S = 60.0
PATIENT = "mirror: {percent: 0}\nsteps: [50, 100]\nsoak: 1h\nmax_soak: 2h\n"  # a rollout that waits for a person


@dataclass
class Answer:
    code: int
    out: str
    err: str


class System:
    """What a user has: a work tree, an origin, and `headgate up --detach` on it."""

    def __init__(self, root: Path) -> None:
        self.repo = root / "eps"
        self.origin = create(self.repo, bare_origin=True)
        self.data = DataFolder(self.repo / ".headgate")

    def run(self, *argv: str) -> Answer:
        asked = subprocess.run(
            [sys.executable, "-m", "headgate_console.main", *argv],
            cwd=self.repo,
            capture_output=True,
            text=True,
            timeout=WITHIN_S * 2,
            check=False,
        )
        return Answer(asked.returncode, asked.stdout, asked.stderr)

    def up(self) -> None:
        started = self.run("up", "--detach", "--repo", str(self.origin), "--port", "0", "--workers", "1")
        assert started.code == Exit.OK, started.err

    def push(self, subject: str) -> str:
        with git.Repo(self.repo) as opened:
            opened.git.add("--all")
            opened.index.commit(subject)
            opened.git.push()
            return str(opened.head.commit.hexsha)

    def release(self, subject: str, greeting: str) -> str:
        (self.repo / "endpoints/hello/model/greeting.json").write_text(json.dumps({"text": greeting}))
        return self.push(subject)

    def invoke(self, *more: str) -> Answer:
        return self.run("invoke", "hello", "-f", "endpoints/hello/deployments/sample-request.json", *more)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    live = System(tmp_path_factory.mktemp("live"))
    try:
        live.up()
        shutil.copytree(live.repo / "examples/hello", live.repo / "endpoints/hello")
        (live.repo / "endpoints/hello/rollout.yml").write_text(PATIENT)
        commit = live.push("hello: first deployment")
        waited = live.run("status", "hello", "--watch", "--commit", commit, "--timeout", f"{WITHIN_S:g}s")
        assert waited.code == Exit.OK, waited
        yield live
    finally:
        live.run("down")
        stop_everything(live.data, lambda _: None)
    assert running(live.data.root) == []


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.05)


def test_a_request_is_answered_by_the_revision_that_is_live(system: System) -> None:
    answer = system.invoke("-v")
    assert (answer.code, json.loads(answer.out)) == (Exit.OK, {"greeting": "Hello, world!"})
    assert "headgate-revision: " in answer.err


def test_a_deployment_that_is_not_there_is_not_found(system: System) -> None:
    answer = system.invoke("--deployment", "nope")
    assert answer.code == Exit.NOT_FOUND
    assert "no-deployment" in answer.out


def test_a_bad_request_is_answered_with_the_models_error(system: System, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    answer = system.run("invoke", "hello", "-f", str(tmp_path / "bad.json"))
    assert answer.code == Exit.REFUSED
    assert "HTTP 424" in answer.err


def test_status_reads_as_a_table_and_as_data(system: System) -> None:
    table = system.run("status")
    assert table.code == Exit.OK
    assert "hello  ✔ Healthy  ✔ Synced  blue" in table.out
    assert "\x1b[" not in table.out, "no colours where there is no terminal"
    assert system.run("status", "-o", "name").out == "endpoint/hello\n"
    document = json.loads(system.run("status", "hello", "-o", "json").out)
    assert (document["kind"], document["state"]) == ("EndpointStatus", "Healthy")
    assert document["rollout"]["started_at"].endswith("Z")


@pytest.mark.parametrize(
    "argv", [["status", "nope"], ["rollout", "get", "nope"], ["keys", "show", "nope"], ["logs", "nope"]]
)
def test_what_is_not_there_is_not_found(system: System, argv: list[str]) -> None:
    answer = system.run(*argv)
    assert answer.code == Exit.NOT_FOUND
    assert "error[not-found]" in answer.err
    assert answer.out == ""


def test_a_rotated_key_stops_working_and_the_other_goes_on(system: System) -> None:
    before = json.loads(system.run("keys", "show", "hello", "-o", "json").out)
    assert system.run("keys", "rotate", "hello").code == Exit.OK
    after = json.loads(system.run("keys", "show", "hello", "-o", "json").out)
    assert after["primary"] != before["primary"]
    assert after["secondary"] == before["secondary"]
    eventually(lambda: system.invoke().code == Exit.OK)


def test_an_endpoint_takes_tokens_when_its_yaml_says_so_and_keys_again_after(system: System) -> None:
    endpoint = system.repo / "endpoints/hello/endpoint.yml"
    written = endpoint.read_text()
    key = json.loads(system.run("keys", "show", "hello", "-o", "json").out)["primary"]
    by_key = ("-H", f"Authorization: Bearer {key}")
    endpoint.write_text(written.replace("auth_mode: key", "auth_mode: aml_token"))
    system.push("hello: tokens")
    eventually(lambda: system.invoke(*by_key).code == Exit.REFUSED)
    assert system.invoke().code == Exit.OK, "it asks for a token by itself"
    shown = system.run("keys", "show", "hello")
    assert (shown.code, "error[auth-mode]" in shown.err) == (Exit.REFUSED, True)
    issued = system.run("keys", "token", "hello", "--ttl", "10m")
    assert issued.code == Exit.OK
    by_token = ("-H", f"Authorization: Bearer {issued.out.strip()}")
    assert system.invoke(*by_token).code == Exit.OK
    assert system.run("keys", "rotate", "hello", "--key-type", "signing").code == Exit.OK
    eventually(lambda: system.invoke(*by_token).code == Exit.REFUSED)
    endpoint.write_text(written)
    system.push("hello: keys again")
    eventually(lambda: system.invoke(*by_key).code == Exit.OK)


def test_a_half_typed_name_of_an_endpoint_is_completed(system: System) -> None:
    assert completed(system.repo, "headgate status he").strip() == "plain,hello"
    assert completed(system.repo, "headgate rollout get x").strip() == ""


def completed(folder: Path, line: str) -> str:
    """What a shell is offered for the last word."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_HEADGATE_COMPLETE": "bash_complete"}
    command = [sys.executable, "-m", "headgate_console.main"]
    asked = subprocess.run(command, cwd=folder, env={**os.environ, **words}, capture_output=True, text=True, check=True)
    return asked.stdout


def test_the_live_table_is_shown_with_what_was_counted(system: System) -> None:
    assert system.invoke().code == Exit.OK
    eventually(lambda: json.loads(system.run("routes", "hello", "-o", "json").out)["routes"][0]["observed"] == 1.0)
    shown = system.run("routes")
    assert shown.code == Exit.OK
    assert "100 %" in shown.out
    assert "served by 1 of 1 workers" in shown.out
    assert system.run("routes", "nope").code == Exit.NOT_FOUND


@pytest.mark.parametrize(
    ("container", "says"), [("inference-server", "the model is ready"), ("storage-initializer", "greeting/1")]
)
def test_logs_of_both_kinds_are_there(system: System, container: str, says: str) -> None:
    answer = system.run("logs", "hello/blue", "--container", container)
    assert answer.code == Exit.OK
    assert says in answer.out


def test_events_tell_the_rollout_and_end(system: System) -> None:
    lines = system.run("events", "hello", "-o", "json").out.splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["kind"] for event in events} == {"Event"}
    assert "rollout.succeeded" in {event["type"] for event in events}
    assert any("release" in line for line in system.run("events", "hello").out.splitlines())


def test_ctrl_c_ends_a_follower_with_130(system: System) -> None:
    command = [sys.executable, "-m", "headgate_console.main", "events", "hello", "--follow"]
    with subprocess.Popen(command, cwd=system.repo, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline(), "it has begun"
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=WITHIN_S)
    assert (follower.returncode, said.strip()) == (Exit.INTERRUPTED, b"")


def test_a_second_up_is_refused_and_names_the_first(system: System) -> None:
    again = system.run("up")
    assert again.code == Exit.REFUSED
    assert "error[already-up]" in again.err


def test_a_rollout_is_seen_paused_resumed_and_aborted_by_a_person(system: System) -> None:
    commit = system.release("hello: shorter", "Hi, {name}!")
    control = Control(system.data)
    eventually(lambda: running_op(control) == "step-50")
    shown = system.run("rollout", "get", "hello")
    assert "step-50" in shown.out
    assert "◌ running" in shown.out
    assert system.run("status", "hello", "--watch", "--timeout", "0s").code == Exit.TIMEOUT
    assert system.run("rollout", "pause", "hello", "--why", "lunch").code == Exit.OK
    assert control.endpoint("hello").state == "Paused"
    assert system.run("rollout", "resume", "hello").code == Exit.OK
    assert control.endpoint("hello").state == "Progressing"
    assert system.run("rollout", "abort", "hello", "--why", "not today").code == Exit.OK
    eventually(lambda: reverts(system, commit))
    eventually(lambda: system.run("status", "hello", "--watch", "--timeout", "30s").code == Exit.OK)
    assert json.loads(system.invoke().out) == {"greeting": "Hello, world!"}
    system_events = system.run("events", "hello").out
    assert "not today" in system_events


def test_a_rollout_waits_for_people_and_goes_back_when_one_says_no(system: System) -> None:
    rollout = system.repo / "endpoints/hello/rollout.yml"
    rollout.write_text(PATIENT + "gates: {manual: {people: 2, phases: [step]}}\n")
    commit = system.release("hello: to be approved", "Howdy, {name}!")
    control = Control(system.data)
    eventually(lambda: "2 more of 2 people" in system.run("rollout", "get", "hello").out)
    refused = system.run("rollout", "approve", "hello", "--gate", "manual-risk")
    assert refused.code != Exit.OK
    assert "waiting are manual" in refused.err
    approved = system.run("rollout", "approve", "hello", "--why", "looks fine")
    assert (approved.code, "manual at step-50 approved by" in approved.err) == (Exit.OK, True)
    eventually(lambda: "1 more of 2 people" in system.run("rollout", "get", "hello").out)
    assert running_op(control) == "step-50"
    assert system.run("rollout", "reject", "hello", "--why", "wrong tone").code == Exit.OK
    eventually(lambda: reverts(system, commit))
    eventually(lambda: system.run("status", "hello", "--watch", "--timeout", "30s").code == Exit.OK)
    assert rollout.read_text() == PATIENT
    assert "wrong tone" in system.run("events", "hello").out


def running_op(control: Control) -> str:
    rollout = control.endpoint("hello").rollout
    return next((op.name for op in rollout.ops if op.state == "running"), "") if rollout else ""


def reverts(system: System, commit: str) -> bool:
    with git.Repo(system.repo) as opened:
        opened.git.pull("--quiet")
        return commit[:8] in str(opened.head.commit.message) and opened.head.commit.hexsha != commit


def test_a_killed_supervisor_is_not_missed_and_the_next_adopts(system: System) -> None:
    names = ("controller", "router-0")
    before = [child.pid(system.data.services / name) for name in names]
    supervisor = child.pid(system.data.services / "supervisor")
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not isinstance(child.state(system.data.services / "supervisor"), child.Running))
    assert system.invoke().code == Exit.OK
    system.up()
    assert [child.pid(system.data.services / name) for name in names] == before
    assert system.run("status", "hello").code == Exit.OK


def test_down_leaves_nothing_running_and_up_serves_again(system: System) -> None:
    port = json.loads(system.data.router.read_bytes())["url"]
    assert system.run("down").code == Exit.OK
    assert running(system.data.root) == []
    gone = system.run("status")
    assert gone.code == Exit.REFUSED
    assert "error[not-running]" in gone.err
    assert "why: none was started here, or it was stopped" in gone.err
    assert system.run("up", "--detach", "--workers", "1").code == Exit.OK
    assert json.loads(system.data.router.read_bytes())["url"] == port
    eventually(lambda: system.invoke().code == Exit.OK)

"""Doing what the head says, on adapters in memory: each action is safe to repeat, and a failure is no end."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headgate.actions import AskSmoke, End, EndSmoke, Run, StartSmoke, StopWorkflow, Submit
from headgate.draft import Draft
from headgate.evidence import Look, Result
from headgate.fault import Fault
from headgate.findings import TransientError
from headgate.ports import Run as EngineRun
from headgate.process import InstanceType, MetricSource, Settings
from headgate.rollout import Head, State, Undo
from headgate.target import SourcePath
from headgate.testing import World, deployment, target
from headgate.workload import Load, Purpose, Replica, Scaling, SecretKey, Workload
from headgate_controllers import acts
from headgate_controllers.acts import Acts, note_undo
from headgate_controllers.heads import Heads
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.revert import Reverted
from headgate_serving.servers.score import ScoreServer

BLUE, GREEN = deployment("blue"), deployment("green", instances=3)


class Machines:
    """A platform that writes down what it is told; `full`: it cannot now."""

    def __init__(self) -> None:
        self.runs = "image"
        self.applied: list[Workload] = []
        self.removed: list[tuple[str, str]] = []
        self.full = False

    def apply(self, workload: Workload) -> None:
        if self.full:
            raise TransientError("the disk is full")
        self.applied.append(workload)

    def observe(self, endpoint: str) -> Sequence[Replica]:
        return ()

    def remove(self, endpoint: str, revision: str) -> None:
        self.removed.append((endpoint, revision))

    def logs(self, replica: Replica, *, follow: bool, kind: str = "inference-server") -> Iterator[bytes]:
        return iter(())


class Workflows:
    def __init__(self) -> None:
        self.submitted: list[Mapping[str, Any]] = []
        self.stopped: list[str] = []

    def submit(self, workflow: Mapping[str, Any]) -> None:
        self.submitted.append(workflow)

    def status(self, name: str) -> EngineRun | None:
        return None

    def stop(self, name: str) -> None:
        self.stopped.append(name)


class Desk:
    def __init__(self, folder: Path) -> None:
        self.platform, self.engine = Machines(), Workflows()
        small = InstanceType(2.0, 1.5, 2, "nvidia.com/mig-1g.5gb", "a100")
        self.settings = Settings(instance_types={"small": small})
        self.record = SqliteRecord(folder / "record.db")
        self.heads = Heads(self.record, lambda: 0.0)
        self.folder = folder
        self.repo = EndpointsRepo(str(folder / "endpoints-repo"), folder / "mirror.git")
        self.woken = threading.Event()
        self.kept: list[tuple[str, str, Look]] = []
        self.acts = Acts(
            heads=self.heads,
            platform=self.platform,
            engine=self.engine,
            servers={"score": ScoreServer("python")},
            repo=self.repo,
            workflow=lambda rollout: {"name": rollout.id},
            settings=lambda: self.settings,
            keep=lambda rollout, op, looks: self.kept.extend((rollout, op, look) for look in looks),
            wake=lambda _: self.woken.set(),
        )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.acts.close()
    made.record.close()


def mirroring() -> Head:
    world = World(result=Result.INCONCLUSIVE).commit(target("b1", [BLUE], {"blue": 100}))
    return world.commit(target("a2", [BLUE, GREEN], {"green": 100})).head


def test_a_revision_runs_as_its_deployment_and_its_instance_type_say(desk: Desk) -> None:
    desk.acts.perform(mirroring(), Run(GREEN.revision))
    (workload,) = desk.platform.applied
    assert (workload.replicas, workload.cpus, workload.memory_mb) == (3, 2.0, 1536)
    assert (workload.gpus, workload.gpu_resource, workload.node_pool) == (2, "nvidia.com/mig-1g.5gb", "a100")
    assert (workload.deployment, workload.purpose) == ("green", Purpose.SERVE)


def test_a_secret_is_handed_on_by_reference_and_is_no_value_of_the_launch(desk: Desk) -> None:
    head = mirroring()
    state = head.revisions[GREEN.revision]
    source = replace(GREEN.source, variables={"A": "1", "DB": "${{secretref:db/url}}"})
    asked = replace(head.asked, deployments={"green": replace(GREEN, source=source)}) if head.asked else None
    desk.acts.perform(replace(head, asked=asked, revisions={GREEN.revision: state}), Run(GREEN.revision))
    (workload,) = desk.platform.applied
    assert workload.secrets == {"DB": SecretKey("db", "url")}
    assert "secretref" not in str(workload.launch)
    assert '"A":"1"' in str(workload.launch)


def test_what_was_applied_is_not_applied_again_until_it_was_ended(desk: Desk) -> None:
    head = mirroring()
    for _ in range(3):
        desk.acts.perform(head, Run(GREEN.revision))
    assert len(desk.platform.applied) == 1
    desk.acts.perform(head, End(GREEN.revision))
    desk.acts.perform(head, Run(GREEN.revision))
    assert (len(desk.platform.applied), desk.platform.removed) == (2, [("fraud", GREEN.revision)])


def test_what_could_not_be_applied_is_applied_with_the_next_pass(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.platform.full = True
    desk.acts.perform(mirroring(), Run(GREEN.revision))
    assert "the disk is full; tried again with the next pass" in caplog.text
    desk.platform.full = False
    desk.acts.perform(mirroring(), Run(GREEN.revision))
    assert len(desk.platform.applied) == 1


def scaled(head: Head) -> Head:
    assert head.asked
    green = replace(GREEN, run=replace(GREEN.run, scaling=Scaling(2, 6)))
    return replace(head, asked=replace(head.asked, deployments={"green": green}))


def test_an_autoscaler_takes_nothing_away_while_a_rollout_runs_or_a_revision_is_kept_warm(desk: Desk) -> None:
    running = scaled(mirroring())
    ended = replace(running, rollout=None)
    state = replace(running.revisions[GREEN.revision], warm_until=9e9)
    warm = replace(ended, revisions={**ended.revisions, GREEN.revision: state})
    for head in (running, ended, warm):
        desk.acts.perform(head, Run(GREEN.revision))
    assert [(w.scaling, w.only_up) for w in desk.platform.applied] == [
        (Scaling(2, 6), True),
        (Scaling(2, 6), False),
        (Scaling(2, 6), True),
    ]


def test_keda_scales_by_the_requests_that_a_replica_runs_at_once(desk: Desk) -> None:
    desk.settings = replace(desk.settings, keda="shop", metrics={"shop": MetricSource("prometheus", "http://p:9090")})
    desk.acts.perform(scaled(mirroring()), Run(GREEN.revision))
    desk.acts.perform(scaled(mirroring()), StartSmoke(GREEN.revision))
    loads = [w.load for w in desk.platform.applied]
    assert loads == [Load("http://p:9090", GREEN.run.max_concurrent_per_instance), None]


def test_one_machine_and_a_smoke_replica_do_not_scale(desk: Desk) -> None:
    desk.acts.perform(scaled(mirroring()), StartSmoke(GREEN.revision))
    desk.platform.runs = "folder"
    desk.acts.perform(scaled(mirroring()), Run(GREEN.revision))
    assert [(w.scaling, w.only_up, w.replicas) for w in desk.platform.applied] == [(None, False, 1), (None, False, 3)]


def test_a_smoke_replica_is_one_and_ends_as_none(desk: Desk) -> None:
    for action in (StartSmoke(GREEN.revision), EndSmoke(GREEN.revision)):
        desk.acts.perform(mirroring(), action)
    assert [(w.purpose, w.replicas) for w in desk.platform.applied] == [(Purpose.SMOKE, 1), (Purpose.SMOKE, 0)]


def test_a_smoke_answer_is_there_when_the_endpoint_is_woken(desk: Desk) -> None:
    head = mirroring()
    assert head.active
    desk.acts.perform(head, AskSmoke(GREEN.revision, "http://127.0.0.1:9"))
    assert desk.woken.wait(30)
    assert desk.acts.smokes(head.active)[GREEN.revision].gate == "smoke"
    assert desk.acts.smokes(replace(head.active, state=State.SUCCEEDED))
    assert not desk.acts.smokes(head.active)


def test_of_what_failed_only_what_may_come_again_is_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "RETRY_S", 0.0)
    head = mirroring()
    assert head.active
    lacking = replace(GREEN, smoke_request=SourcePath("gone.json", "0" * 40))
    asked = replace(head.active.target, deployments={"green": lacking})
    for i in range(50):  # each with a sample request that no commit has
        rollout = replace(head.active, id=f"ro-fraud-{i}", target=asked)
        desk.woken.clear()
        desk.acts.perform(replace(head, rollout=rollout), AskSmoke(GREEN.revision, "http://127.0.0.1:9"))
        assert desk.woken.wait(30)
    assert len(desk.acts._not_before) == 1


def test_what_breaks_beside_the_loop_is_said_and_left_alone_for_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def breaks(*_: object, **__: object) -> None:
        nonlocal asked
        asked += 1
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(acts.smoke, "ask", breaks)
    monkeypatch.setattr(acts, "RETRY_S", 60.0)
    for _ in range(3):
        desk.acts.perform(mirroring(), AskSmoke(GREEN.revision, "http://127.0.0.1:9"))
        assert desk.woken.wait(30)
    desk.acts.close()
    assert asked == 1
    assert "nobody thought of this" in caplog.text


def test_answers_for_rollouts_that_another_took_the_place_of_are_not_held(desk: Desk) -> None:
    head = mirroring()
    assert head.active
    for i in range(3):
        rollout = replace(head.active, id=f"ro-fraud-{i}")
        desk.heads.change("fraud", lambda draft, rollout=rollout: draft.set(rollout=rollout))
        desk.woken.clear()
        desk.acts.perform(replace(head, rollout=rollout), AskSmoke(GREEN.revision, "http://127.0.0.1:9"))
        assert desk.woken.wait(30)
    assert [of for of, _ in desk.acts._smokes] == ["ro-fraud-2"]


def test_a_sample_request_that_gets_no_connection_is_said_and_asked_again(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as model:
        address = f"http://127.0.0.1:{model.getsockname()[1]}"
    head = asking(mirroring(), desk)
    assert head.active
    desk.acts.perform(head, AskSmoke(GREEN.revision, address))
    assert desk.woken.wait(30)
    assert desk.acts.smokes(head.active) == {}
    assert desk.acts.unasked(head.active)[GREEN.revision].fault is Fault.UNREACHABLE
    desk.acts._not_before.clear()
    desk.woken.clear()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_server((host, int(port))) as model:
        desk.acts.perform(head, AskSmoke(GREEN.revision, address))
        connection, _ = model.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n1")
            assert desk.woken.wait(30)
    assert desk.acts.smokes(head.active)[GREEN.revision].result is Result.PASS
    assert desk.acts.unasked(head.active) == {}


def asking(head: Head, desk: Desk) -> Head:
    """The same, with a sample request in a repo."""
    where = desk.folder / "endpoints-repo"
    for command in (["init", "-q", str(where)], ["-C", str(where), "commit", "-q", "--allow-empty", "-m", "none"]):
        if command[-1] == "none":
            (where / "ask.json").write_text("{}")
            subprocess.run(["git", "-C", str(where), "add", "."], check=True)
            command = [command[0], command[1], "-c", "user.name=a", "-c", "user.email=a@b", *command[2:]]
        subprocess.run(["git", *command], check=True)
    desk.repo.fetch()
    found = subprocess.run(["git", "-C", str(where), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert head.active
    asked = replace(GREEN, smoke_request=SourcePath("ask.json", "0" * 40))
    wanted = replace(head.active.target, deployments={"green": asked})
    return replace(head, rollout=replace(head.active, target=wanted, commit=found.stdout.strip()))


def test_workflows_are_submitted_and_stopped_by_name(desk: Desk) -> None:
    head = mirroring()
    assert head.active
    desk.acts.perform(head, Submit(head.active.id))
    desk.acts.perform(head, StopWorkflow("ro-old-1"))
    assert (desk.engine.submitted, desk.engine.stopped) == ([{"name": head.active.id}], ["ro-old-1"])


def test_a_revert_is_noted_once_and_only_the_one_that_was_owed() -> None:
    undo = Undo("ro-1/revert", "revert", target("a2", [GREEN], {"green": 100}), None, "fraud: no")
    draft = Draft(Head("fraud", undo=undo), 1.0)
    note_undo(draft, "ro-other/revert", Reverted("cafe", "made"))
    assert draft.head.undo == undo
    note_undo(draft, "ro-1/revert", Reverted("cafe", "made"))
    assert draft.head.undo
    assert (draft.head.undo.state, draft.head.undo.result) == ("done", "cafe")
    note_undo(draft, "ro-1/revert", Reverted("beef", "made again"))
    assert draft.head.undo.result == "cafe"
    assert [e.kind for e in draft.events] == ["revert.done"]

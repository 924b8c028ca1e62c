"""Argo as the engine, on an API server of ours with a player of phases: submitted once, adopted, stopped, refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from argoplayer import Player, server_writes
from headgate.control import OpReply, OpRequest, OpState
from headgate.findings import TransientError
from headgate.planning import make_plan
from headgate.ports import Run
from headgate.rollout import Head
from headgate.testing import deployment, target
from headgate_kit.layout import DataFolder
from headgate_pipelines import rollout
from headgate_pipelines.engines.argo.engine import ArgoEngine
from headgate_pipelines.engines.settings import OpSettings
from kubeserver import KubeServer, wait_for

TOKEN = "op_very-secret"
Make = Callable[..., ArgoEngine]


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as found:
        yield found


@pytest.fixture
def player(server: KubeServer) -> Iterator[Player]:
    found = Player(server.cluster(), server_writes(server))
    yield found
    found.close()


@pytest.fixture
def make(server: KubeServer, tmp_path: Path) -> Iterator[Make]:
    engines: list[ArgoEngine] = []

    def start(**more: Any) -> ArgoEngine:
        ask = more.pop("ask", None)
        settings = OpSettings(argo_steps="plugin" if ask else "container")
        env = {"HEADGATE_CONTROL": "http://c:7070", "HEADGATE_TOKEN": TOKEN, "HEADGATE_DATA": "/of/the/controller"}
        engine = ArgoEngine(DataFolder(tmp_path), env=env, cluster=server.cluster(), settings=settings, **more)
        if ask:
            engine.attend(ask, lambda rollout, token: token == f"op of {rollout}")
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


def single(name: str, word: str) -> dict[str, Any]:
    template = {"name": "main", "container": {"image": "i", "command": [word]}}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {"entrypoint": "main", "templates": [template]},
    }


def planned(name: str) -> Mapping[str, Any]:
    blue, green = deployment("blue"), deployment("green", "2")
    plan = make_plan(Head("fraud", traffic={blue.revision: 1000}), target("c0ffee", [blue, green], {"green": 100})).plan
    assert plan is not None
    return rollout.workflow(plan, name)


def ended(engine: ArgoEngine, name: str) -> Run:
    wait_for(lambda: phase(engine, name) in ("Succeeded", "Failed", "Error"))
    run = engine.status(name)
    assert run is not None
    return run


def phase(engine: ArgoEngine, name: str) -> str:
    run = engine.status(name)
    return run.phase if run else ""


def test_a_token_is_in_a_secret_that_goes_when_the_workflow_ends(
    make: Make, server: KubeServer, player: Player
) -> None:
    engine = make()
    engine.submit(single("w", "sleep"))
    (secret,) = server.all("secrets")
    assert secret["stringData"] == {"token": TOKEN}
    assert TOKEN not in json.dumps(server.all("workflows"))
    engine.stop("w")
    ended(engine, "w")
    wait_for(lambda: not server.all("secrets"))


def test_every_change_of_phase_is_told_and_nothing_twice(make: Make, server: KubeServer, player: Player) -> None:
    told: list[str] = []
    engine = make(on_change=told.append)
    engine.submit(single("w", "hello"))
    ended(engine, "w")
    wait_for(lambda: len(told) >= 2)
    with server.lock:
        server.put("argoproj.io/v1alpha1", "workflows", {**(server.find("workflows", "w") or {}), "extra": 1})
    engine.submit(single("other", "sleep"))
    wait_for(lambda: "other" in told)
    assert told.count("w") <= 3  # Pending, Running, Succeeded: the player may be faster than the watch


def test_an_engine_that_comes_back_knows_what_runs_and_submits_nothing_again(
    make: Make, server: KubeServer, player: Player
) -> None:
    first = make()
    first.submit(single("w", "sleep"))
    first.close()
    second = make()
    assert phase(second, "w") in ("Pending", "Running")
    second.submit(single("w", "hello"))
    second.stop("w")
    assert ended(second, "w").message == "Stopped with strategy 'Stop'"


def test_a_submit_whose_answer_was_lost_is_taken_for_what_it_was(
    make: Make, server: KubeServer, player: Player
) -> None:
    """The object is there, the watch does not know it yet."""
    engine = make()
    labels = {"app.kubernetes.io/managed-by": "headgate"}
    body = single("w", "sleep")
    with server.lock:  # nobody is told before the submit has been answered
        body["metadata"]["labels"] = labels
        server.objects[("argoproj.io/v1alpha1", "default", "workflows", "w")] = {
            **body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "1", "namespace": "default"}
        }  # fmt: skip
    engine.submit(single("w", "hello"))
    assert phase(engine, "w") == "Pending"


def test_a_workflow_of_the_same_name_that_is_not_ours_is_an_error(make: Make, server: KubeServer) -> None:
    server.put("argoproj.io/v1alpha1", "workflows", single("w", "hello"))
    engine = make()
    engine.submit(single("w", "hello"))
    run = engine.status("w")
    assert run is not None
    assert (run.phase, run.message) == ("Error", "Workflow w is there already, and was not made by Headgate")


def test_a_workflow_somebody_deletes_is_an_error(make: Make, server: KubeServer, player: Player) -> None:
    engine = make()
    engine.submit(single("w", "sleep"))
    wait_for(lambda: phase(engine, "w") == "Running")
    server.drop("workflows", "w")
    wait_for(lambda: phase(engine, "w") == "Error")
    engine.submit(single("w", "hello"))
    assert server.find("workflows", "w") is None, "what was there is not run again under its name"
    wait_for(lambda: not server.all("secrets"))


def test_a_workflow_the_cluster_refuses_is_an_error_in_its_words(make: Make, server: KubeServer) -> None:
    told: list[str] = []
    engine = make(on_change=told.append)
    server.fail(422, plural="workflows", verb="create")
    engine.submit(single("w", "hello"))
    run = engine.status("w")
    assert run is not None
    assert run.phase == "Error"
    assert "asked to fail" in run.message
    assert told == ["w"]


def test_an_api_server_that_is_away_leaves_the_submit_to_be_tried_again(
    make: Make, server: KubeServer, player: Player
) -> None:
    engine = make()
    server.fail(503, plural="workflows", verb="create")
    with pytest.raises(TransientError):
        engine.submit(single("w", "hello"))
    assert engine.status("w") is None
    engine.submit(single("w", "hello"))
    assert ended(engine, "w").phase == "Succeeded"


def test_while_the_api_server_was_never_reached_nothing_is_made_of_a_guess(
    server: KubeServer, tmp_path: Path, player: Player
) -> None:
    """A workflow that is to be stopped must not be taken for one that ended."""
    first = ArgoEngine(DataFolder(tmp_path), cluster=server.cluster(), settings=OpSettings(argo_steps="container"))
    first.start()
    first.submit(single("w", "sleep"))
    first.close()
    server.denied.add(("list", "workflows"))
    second = ArgoEngine(DataFolder(tmp_path), cluster=server.cluster(), settings=OpSettings(argo_steps="container"))
    second.start()
    assert second.status("w") == Run("w", "Running", "the API server does not answer")
    server.denied.clear()
    wait_for(lambda: (second.status("w") or Run("w", "")).message == "")
    second.stop("w")
    assert ended(second, "w").phase == "Failed"
    second.close()


def test_a_workflow_that_ended_and_was_collected_ended_as_it_did(
    make: Make, server: KubeServer, player: Player
) -> None:
    engine = make()
    engine.submit(single("w", "hello"))
    ended(engine, "w")
    server.drop("workflows", "w")
    engine.submit(single("other", "hello"))
    ended(engine, "other")
    assert phase(engine, "w") == "Succeeded"


class Record:
    """Holds an op until it was asked twice, as soaks do; a verdict may say no."""

    def __init__(self, *, held: str = "", no: str = "") -> None:
        self.held, self.no = held, no
        self.asked: dict[str, int] = {}
        self._lock = threading.Lock()

    def ask(self, verb: str, request: OpRequest) -> OpReply:
        with self._lock:
            op = request.op_key.rpartition("/")[2]
            self.asked[op] = self.asked.get(op, 0) + 1
            if op == self.no:
                return OpReply(OpState.NO, "latency-p99: fail, 31 % slower than the stable")
            if op == self.held and self.asked[op] == 1:
                return OpReply(OpState.WAIT, f"{op} is running")
            return OpReply(OpState.DONE, f"{op}: every gate passed", {"digest": "abc"} if op == "smoke" else {})


def test_a_rollout_of_plugin_steps_is_answered_without_a_pod(make: Make, server: KubeServer, player: Player) -> None:
    record = Record()
    engine = make(ask=record.ask)
    engine.submit(planned("ro-fraud-1"))
    assert ended(engine, "ro-fraud-1").phase == "Succeeded"
    ops = ["smoke", "deploy", "mirror", "step-5", "step-50", "step-100", "finalize", "close"]
    assert record.asked == dict.fromkeys(ops, 1)
    assert player.messages["step-5"] == "step-5: every gate passed"
    assert server.all("pods") == []


def test_a_verdict_that_says_no_fails_its_node_with_its_words(make: Make, server: KubeServer, player: Player) -> None:
    record = Record(no="step-5")
    engine = make(ask=record.ask)
    engine.submit(planned("ro-fraud-1"))
    run = ended(engine, "ro-fraud-1")
    assert (run.phase, run.message) == ("Failed", "latency-p99: fail, 31 % slower than the stable")
    assert list(record.asked)[-2:] == ["step-5", "close"]


def test_what_is_held_is_asked_again_until_it_is_over(make: Make, server: KubeServer, player: Player) -> None:
    record = Record(held="step-5")
    engine = make(ask=record.ask)
    engine.submit(planned("ro-fraud-1"))
    assert ended(engine, "ro-fraud-1").phase == "Succeeded"
    assert record.asked["step-5"] == 2


def test_two_controllers_and_a_restart_answer_the_same(make: Make, server: KubeServer, player: Player) -> None:
    record = Record(held="deploy")
    first, second = make(ask=record.ask), make(ask=record.ask)
    first.submit(planned("ro-fraud-1"))
    wait_for(lambda: "deploy" in record.asked)
    first.close()
    third = make(ask=record.ask)
    assert ended(third, "ro-fraud-1").phase == "Succeeded"
    assert ended(second, "ro-fraud-1").phase == "Succeeded"

"""The executor plugin: one question to the record, one result for Argo; the sidecar's door; the task-set agent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from controlstub import ControlStub
from headgate.control import OpReply, OpRequest, OpState
from headgate.findings import HeadgateError, TerminalError, TransientError
from headgate_pipelines.engines.argo.mode import SIDECAR
from headgate_pipelines.plugin.__main__ import PORT
from headgate_pipelines.plugin.agent import TaskSetAgent
from headgate_pipelines.plugin.execute import NodeResult, execute
from headgate_pipelines.plugin.sidecar import application, asks
from kubeserver import KubeServer, wait_for

STEP = {"verb": "step", "endpoint": "fraud", "opKey": "ro-1/step-5", "percent": "5"}


def plugged(**body: str) -> dict[str, Any]:
    return {"name": "step-5", "plugin": {"headgate": {**STEP, **body}}}


class Answer:
    """A record that answers what it was told to."""

    def __init__(self, *answers: OpReply | HeadgateError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, OpRequest]] = []

    def __call__(self, verb: str, request: OpRequest) -> OpReply:
        self.asked.append((verb, request))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, HeadgateError):
            raise answer
        return answer


DONE = OpReply(OpState.DONE, "passed")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(
            DONE,
            NodeResult("Succeeded", "passed", {"message": "passed"}),
            id="done",
        ),
        pytest.param(OpReply(OpState.NO, "latency: fail"), NodeResult("Failed", "latency: fail"), id="no"),
        pytest.param(OpReply(OpState.WAIT, "running"), NodeResult("Running", "running", requeue_s=1.0), id="wait"),
        pytest.param(OpReply(OpState.LATER, "smoke"), NodeResult("Running", "smoke", requeue_s=5.0), id="later"),
        pytest.param(
            OpReply(OpState.WORK), NodeResult("Error", "the record asks for work, which a plugin cannot do"), id="work"
        ),
        pytest.param(
            TransientError("away", retry_after_s=7.0), NodeResult("Running", "away", requeue_s=7.0), id="nobody answers"
        ),
        pytest.param(TerminalError("refused"), NodeResult("Error", "refused"), id="refused"),
    ],
)
def test_an_answer_becomes_a_node(answer: OpReply | HeadgateError, expected: NodeResult) -> None:
    ask = Answer(answer)
    assert execute(plugged(), ask) == expected
    assert ask.asked == [("step", OpRequest("ro-1/step-5", "fraud", {"percent": "5"}, 0.0))]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param({"verb": "build"}, "build runs in a pod", id="build"),
        pytest.param({"verb": "destroy"}, "verb `destroy` is not one of", id="an unknown verb"),
        pytest.param({"endpoint": ""}, "endpoint is missing", id="no endpoint"),
        pytest.param({"opKey": "ro-1"}, "opKey is not ROLLOUT/OP", id="no op"),
        pytest.param({"percents": "5"}, "unknown field percents", id="a typo"),
    ],
)
def test_a_body_that_means_nothing_is_an_error_and_asks_nobody(body: dict[str, str], says: str) -> None:
    ask = Answer(DONE)
    result = execute(plugged(**body), ask)
    assert result is not None
    assert (result.phase, ask.asked) == ("Error", [])
    assert says in result.message


@pytest.mark.parametrize(
    "template",
    [
        pytest.param({"name": "t", "container": {}}, id="a container"),
        pytest.param({"name": "t", "plugin": {"slack": {"text": "hi"}}}, id="another plugin"),
        pytest.param({"name": "t", "plugin": {"headgate": "step"}}, id="no mapping"),
    ],
)
def test_what_is_not_ours_is_left_to_others(template: dict[str, Any]) -> None:
    assert execute(template, Answer(DONE)) is None


def test_a_result_is_written_as_argo_reads_it() -> None:
    assert NodeResult("Succeeded", "ok", {"b": "2", "a": "1"}).document() == {
        "phase": "Succeeded",
        "message": "ok",
        "outputs": {"parameters": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]},
    }


# --- the sidecar -----------------------------------------------------------------------------------------------------


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ControlStub]:
    (tmp_path / "own").write_text("operator")
    with ControlStub() as found:
        monkeypatch.setenv("HEADGATE_CONTROL", found.url)
        monkeypatch.setenv("HEADGATE_TOKEN_FILE", str(tmp_path / "own"))
        yield found


class Sidecar:
    def __init__(self, token_file: Path) -> None:
        self._app = application(token_file, asks(patience_s=0.0))

    def post(self, *, token: str = "of-the-agent", **body: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://s") as client:
                headers = {"Authorization": f"Bearer {token}"}
                return await client.post("/api/v1/template.execute", headers=headers, **body)

        return asyncio.run(ask())


@pytest.fixture
def sidecar(tmp_path: Path, control: ControlStub) -> Sidecar:
    (tmp_path / "token").write_text("of-the-agent\n")
    return Sidecar(tmp_path / "token")


def call(sidecar: Sidecar, template: Any, token: str = "of-the-agent") -> httpx.Response:
    body = {"workflow": {"metadata": {"name": "ro-1"}}, "template": template}
    return sidecar.post(token=token, json=body)


def test_the_sidecar_asks_the_control_api_and_answers_the_agent(sidecar: Sidecar, control: ControlStub) -> None:
    answer = call(sidecar, plugged())
    said = {"parameters": [{"name": "message", "value": "/ops/step done"}]}
    assert answer.json() == {"node": {"phase": "Succeeded", "message": "/ops/step done", "outputs": said}}
    assert control.asked == [("/ops/step", "Bearer operator")]
    assert control.bodies[0]["op_key"] == "ro-1/step-5"


def test_a_token_in_the_body_is_what_the_control_api_is_asked_with(sidecar: Sidecar, control: ControlStub) -> None:
    call(sidecar, plugged(token="op_of_the_rollout"))
    assert control.asked == [("/ops/step", "Bearer op_of_the_rollout")]


def test_what_still_runs_is_asked_again_by_the_agent(sidecar: Sidecar, control: ControlStub) -> None:
    control.scripted["/ops/step"] = [(200, {"state": "wait", "message": "step-5 is running"})]
    assert call(sidecar, plugged()).json() == {
        "node": {"phase": "Running", "message": "step-5 is running"}, "requeue": "1s"
    }  # fmt: skip


def test_a_controller_that_is_away_is_no_verdict(sidecar: Sidecar, control: ControlStub) -> None:
    control.scripted["/ops/step"] = [(503, {})]
    assert call(sidecar, plugged()).json()["node"]["phase"] == "Running"


def test_a_token_the_controller_refuses_is_an_error(sidecar: Sidecar, control: ControlStub) -> None:
    control.scripted["/ops/step"] = [(401, {})]
    assert call(sidecar, plugged()).json()["node"]["phase"] == "Error"


def test_another_plugins_template_is_not_answered(sidecar: Sidecar) -> None:
    answer = call(sidecar, {"name": "t", "plugin": {"slack": {}}})
    assert (answer.status_code, answer.json()) == (200, {})


@pytest.mark.parametrize("token", ["", "wrong", "of-the-agent2"])
def test_who_has_not_the_agents_token_is_refused(sidecar: Sidecar, control: ControlStub, token: str) -> None:
    answer = call(sidecar, plugged(), token)
    assert answer.status_code == 401
    assert control.asked == []


def test_without_a_token_file_nobody_is_let_in(tmp_path: Path) -> None:
    assert call(Sidecar(tmp_path / "missing"), plugged(), token="").status_code == 503
    (tmp_path / "empty").touch()
    assert call(Sidecar(tmp_path / "empty"), plugged(), token="").status_code == 401


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"template": 5}'])
def test_a_call_that_means_nothing_is_refused(sidecar: Sidecar, body: bytes) -> None:
    assert sidecar.post(content=body).status_code == 422


# --- the task-set agent ----------------------------------------------------------------------------------------------

API, SETS = "argoproj.io/v1alpha1", "workflowtasksets"


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as found:
        yield found


def put(server: KubeServer, name: str, tasks: dict[str, Any], **more: Any) -> None:
    server.put(API, SETS, {"metadata": {"name": name, **more}, "spec": {"tasks": tasks}})


def nodes(server: KubeServer, name: str) -> dict[str, Any]:
    found = server.find(SETS, name) or {}
    return dict((found.get("status") or {}).get("nodes") or {})


def allowed(rollout: str, token: str) -> bool:
    return token == f"op of {rollout}"


@pytest.fixture
def agents(server: KubeServer) -> Iterator[Any]:
    found: list[tuple[TaskSetAgent, Any]] = []

    def start(ask: Answer) -> TaskSetAgent:
        cluster = server.cluster()
        agent = TaskSetAgent(cluster, ask, allowed)
        agent.start()
        found.append((agent, cluster))
        return agent

    yield start
    for agent, cluster in found:
        agent.close()
        cluster.close()


def test_a_node_is_answered_once_and_left_alone_when_it_is_over(server: KubeServer, agents: Any) -> None:
    ask = Answer(DONE)
    agents(ask)
    put(server, "ro-1", {"n1": plugged()})
    wait_for(lambda: "n1" in nodes(server, "ro-1"))
    assert nodes(server, "ro-1")["n1"]["phase"] == "Succeeded"
    with server.lock:  # the same again, as a watch that began anew would tell it
        put(server, "ro-1", {"n1": plugged(), "n2": plugged(opKey="ro-1/step-25")})
    put(server, "ro-2", {"m": plugged(opKey="ro-2/step-5")})
    wait_for(lambda: "m" in nodes(server, "ro-2"))
    patches = [a for a in server.requests if a.verb == "patch" and a.plural == SETS]
    assert {a.subresource for a in patches} == {"status"}


def test_another_plugins_tasks_and_finished_workflows_are_left_alone(server: KubeServer, agents: Any) -> None:
    ask = Answer(DONE)
    put(server, "other", {"n": {"name": "t", "plugin": {"slack": {}}}, "h": {"name": "t", "http": {"url": "x"}}})
    put(server, "ro-0", {"n": plugged(opKey="ro-0/x")}, labels={"workflows.argoproj.io/completed": "true"})
    agents(ask)
    put(server, "ro-1", {"n": plugged()})
    wait_for(lambda: "n" in nodes(server, "ro-1"))
    assert nodes(server, "other") == {}
    assert nodes(server, "ro-0") == {}
    assert len(ask.asked) == 1


@pytest.mark.parametrize(
    ("token", "phase"),
    [
        pytest.param("", "Error", id="none"),
        pytest.param("op of ro-9", "Error", id="of another rollout"),
        pytest.param("op of ro-1", "Succeeded", id="of this rollout"),
    ],
)
def test_a_teams_workflow_needs_the_rollouts_token(server: KubeServer, agents: Any, token: str, phase: str) -> None:
    ask = Answer(DONE)
    agents(ask)
    put(server, "train-and-launch", {"n": plugged(token=token)})
    wait_for(lambda: "n" in nodes(server, "train-and-launch"))
    assert nodes(server, "train-and-launch")["n"]["phase"] == phase
    assert len(ask.asked) == (phase == "Succeeded")


def test_what_is_held_is_answered_when_the_record_changes(server: KubeServer, agents: Any) -> None:
    passed = threading.Event()
    asked = threading.Semaphore(0)

    class Held(Answer):
        def __call__(self, verb: str, request: OpRequest) -> OpReply:
            asked.release()
            return DONE if passed.is_set() else OpReply(OpState.WAIT, "step-5 is running")

    agent = agents(Held(DONE))
    put(server, "ro-1", {"n": plugged()})
    wait_for(lambda: nodes(server, "ro-1").get("n", {}).get("phase") == "Running")
    assert nodes(server, "ro-1")["n"]["message"] == "step-5 is running"
    passed.set()
    agent.wake("fraud")
    wait_for(lambda: nodes(server, "ro-1")["n"]["phase"] == "Succeeded")


def test_an_answer_the_api_server_did_not_take_is_given_again(server: KubeServer, agents: Any) -> None:
    server.fail(503, times=1, plural=SETS, verb="patch")
    agents(Answer(DONE))
    put(server, "ro-1", {"n": plugged()})
    wait_for(lambda: nodes(server, "ro-1").get("n", {}).get("phase") == "Succeeded")


def test_the_sidecars_registration_has_what_argo_asks_for() -> None:
    """Port, resources and security context are mandatory; the token must not be in the text."""
    file = Path(__file__).parents[2] / "install" / "argo" / "executor-plugin.yaml"
    found = yaml.safe_load(file.read_text("utf-8"))
    assert found["metadata"]["labels"]["workflows.argoproj.io/configmap-type"] == "ExecutorPlugin"
    assert found["metadata"]["name"] == SIDECAR
    container = yaml.safe_load(found["data"]["sidecar.container"])
    assert container["command"] == ["python", "-m", "headgate_pipelines.plugin"]
    assert [port["containerPort"] for port in container["ports"]] == [PORT] == [int(container["args"][-1])]
    assert container["resources"]["limits"]
    assert container["securityContext"]["runAsNonRoot"] is True
    secret = {e["name"]: "valueFrom" in e for e in container["env"]}
    assert secret == {"HEADGATE_CONTROL": False, "HEADGATE_TOKEN": True}

"""The local engine runs the workflow Hera builds: ours, and a team's own that imports our ops."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hera.workflows import DAG, Container, Parameter, RetryStrategy, Steps, Task, Workflow, models

from headgate.findings import SpecError
from headgate.planning import make_plan
from headgate.ports import Run
from headgate.rollout import Head
from headgate.testing import deployment, target
from headgate_kit.layout import DataFolder
from headgate_pipelines import contract, ops, rollout
from headgate_pipelines.engines.local.processes import default_images
from headgate_pipelines.engines.local.run import LocalEngine

DEADLINE_S = 30.0


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


@pytest.fixture
def engine(data: DataFolder) -> Iterator[LocalEngine]:
    found = LocalEngine(data)
    found.start()
    yield found
    found.close()


class FakeControl(ThreadingHTTPServer):
    """A control API that says done to every verb, after `scripted` answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        self.scripted: dict[str, list[tuple[int, dict[str, Any]]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, body: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        self.asked.append((path, body, token))
        queue = self.scripted.get(path.partition("?")[0])
        if queue:
            return queue.pop(0)
        if path.startswith("/ops/open/"):
            return 200, {"rollout": "ro-fraud-1", "token": "op_secret"}
        return 200, {"state": "done", "message": f"{path} done", "outputs": {}}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, FakeControl)
        status, reply = self.server.answer(self.path, body, self.headers.get("Authorization", ""))
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def control() -> Iterator[FakeControl]:
    server = FakeControl()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def finished(engine: LocalEngine, name: str) -> Run:
    return reaches(engine, name, lambda run: run.phase != "Running")


def reaches(engine: LocalEngine, name: str, enough: Callable[[Run], bool]) -> Run:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        run = engine.status(name)
        if run is not None and enough(run):
            return run
        time.sleep(0.01)
    raise AssertionError(f"{name} did not get there: {engine.status(name)}")


def python(name: str, code: str, **more: Any) -> Container:
    """A container of the kind a team would write."""
    return Container(name=name, image="python", command=["python", "-c", code], **more)


def says(name: str, code: str = "print('hello')") -> dict[str, Any]:
    with Workflow(name=name, entrypoint="main") as workflow:
        python("main", code)
    return dict(workflow.to_dict())


def write(output: str, value: str) -> str:
    return f"open('/tmp/outputs/{output}', 'w').write({value!r})"


def test_a_rollout_asks_every_op_of_the_plan_in_order_and_closes(data: DataFolder, control: FakeControl) -> None:
    plan = make_plan(Head("fraud"), target("abc", [deployment("blue")], {"blue": 100})).plan
    assert plan is not None
    seen: list[str] = []
    engine = LocalEngine(
        data, env=lambda name: {"HEADGATE_CONTROL": control.url, "HEADGATE_TOKEN": f"of-{name}"}, on_change=seen.append
    )
    engine.start()
    engine.submit(rollout.workflow(plan, "ro-fraud-1"))
    run = finished(engine, "ro-fraud-1")
    engine.close()
    assert run.phase == "Succeeded", run
    names = [op.name for op in plan.ops]
    assert [body["op_key"] for _, body, _ in control.asked] == [f"ro-fraud-1/{n}" for n in [*names, "close"]]
    assert {token for _, _, token in control.asked} == {"Bearer of-ro-fraud-1"}
    assert control.asked[-1][1]["arguments"] == {"status": "Succeeded"}
    assert list(run.nodes or {}) == sorted([*names, "onExit"])
    assert set(seen) == {"ro-fraud-1"}


def test_an_op_that_is_told_no_ends_the_rollout_and_close_reports_it(data: DataFolder, control: FakeControl) -> None:
    plan = make_plan(Head("fraud"), target("abc", [deployment("blue")], {"blue": 100})).plan
    assert plan is not None
    control.scripted["/ops/smoke"] = [(200, {"state": "no", "message": "smoke: the sample request got 500"})]
    engine = LocalEngine(data, env={"HEADGATE_CONTROL": control.url})
    engine.start()
    engine.submit(rollout.workflow(plan, "ro-fraud-1"))
    run = finished(engine, "ro-fraud-1")
    engine.close()
    assert run.phase == "Failed"
    assert "the sample request got 500" in run.message
    assert run.nodes is not None
    assert (run.nodes["build"], run.nodes["smoke"], run.nodes["deploy"]) == ("Succeeded", "Failed", "Omitted")
    assert control.asked[-1][1]["arguments"] == {"status": "Failed"}


def test_a_teams_own_pipeline_imports_our_ops_and_runs(data: DataFolder, control: FakeControl) -> None:
    with Workflow(name="train-and-launch", entrypoint="main") as workflow:
        train = python(
            "train",
            write("commit", "abc123"),
            outputs=[Parameter(name="commit", value_from=models.ValueFrom(path="/tmp/outputs/commit"))],
        )
        opened = ops.open_rollout("fraud", "{{inputs.parameters.commit}}")
        opened.inputs = [Parameter(name="commit")]
        phases = [f("fraud", joined=True) for f in (ops.build, ops.smoke, ops.deploy, ops.finalize)]
        phases.insert(3, ops.step("fraud", 100, joined=True))
        with DAG(name="main"):
            first = Task(name="train", template=train)
            start = Task(name="open", template=opened, arguments={"commit": first.get_parameter("commit").value})
            last = first >> start
            for phase in phases:
                last = last >> Task(name=str(phase.name), template=phase, arguments=ops.of(start))
    engine = LocalEngine(data, env={"HEADGATE_CONTROL": control.url, "HEADGATE_TOKEN": "of-the-team"})
    engine.start()
    engine.submit(workflow.to_dict())
    run = finished(engine, "train-and-launch")
    engine.close()
    assert run.phase == "Succeeded", run
    paths = [path for path, _, _ in control.asked]
    assert paths[0] == "/ops/open/fraud?commit=abc123"
    assert paths[1:] == ["/ops/build", "/ops/smoke", "/ops/deploy", "/ops/step", "/ops/finalize"]
    assert control.asked[4][1]["op_key"] == "ro-fraud-1/step-100"
    assert {token for _, _, token in control.asked[1:]} == {"Bearer op_secret"}


def test_the_token_is_in_no_argument_and_no_file_that_stays(data: DataFolder, control: FakeControl) -> None:
    engine = LocalEngine(data, env={"HEADGATE_CONTROL": control.url, "HEADGATE_TOKEN": "very-secret"})
    engine.start()
    with Workflow(name="one", entrypoint="smoke") as workflow:
        ops.smoke("fraud")
    engine.submit(workflow.to_dict())
    finished(engine, "one")
    engine.close()
    assert control.asked[0][2] == "Bearer very-secret"
    left = [p for p in data.root.rglob("*") if p.is_file() and b"very-secret" in p.read_bytes()]
    assert left == []


def test_values_flow_through_nested_dags_and_steps(engine: LocalEngine) -> None:
    read = "import sys; assert sys.argv[1:] == ['v1-big', 'flat'], sys.argv"
    with Workflow(name="nested", entrypoint="main", arguments=[Parameter(name="size", value="big")]) as workflow:
        make = python(
            "make",
            "open('/tmp/outputs/v', 'w').write('v1-{{inputs.parameters.size}}')",
            inputs=[Parameter(name="size")],
            outputs=[Parameter(name="v", value_from=models.ValueFrom(path="/tmp/outputs/v"))],
        )
        check = python("check", read, args=["{{inputs.parameters.v}}", "{{inputs.parameters.shape}}"])
        check.inputs = [Parameter(name="v"), Parameter(name="shape", default="flat")]
        with Steps(name="inner", inputs=[Parameter(name="size")]) as inner:
            make(name="make", arguments={"size": "{{inputs.parameters.size}}"})
        inner.outputs = [
            Parameter(name="v", value_from=models.ValueFrom(parameter="{{steps.make.outputs.parameters.v}}"))
        ]
        with DAG(name="main"):
            a = Task(name="a", template=inner, arguments={"size": "{{workflow.parameters.size}}"})
            a >> Task(name="b", template=check, arguments={"v": "{{tasks.a.outputs.parameters.v}}"})
    engine.submit(workflow.to_dict())
    run = finished(engine, "nested")
    assert run.phase == "Succeeded", run
    assert run.nodes == {"a.make": "Succeeded", "b": "Succeeded"}


def test_a_transient_failure_is_tried_again_until_it_works(engine: LocalEngine, tmp_path: Path) -> None:
    marker = tmp_path / "tried"
    code = f"import os, sys; p = {str(marker)!r}; again = os.path.exists(p); open(p, 'a').write('x')"
    with Workflow(name="again", entrypoint="main") as workflow:
        pause = models.Backoff(duration="1s", cap="10ms")
        retry = RetryStrategy(limit="3", expression=contract.TRANSIENT, backoff=pause)
        python("main", f"{code}; sys.exit(0 if again else 75)", retry_strategy=retry)
    engine.submit(workflow.to_dict())
    assert finished(engine, "again").phase == "Succeeded"
    assert marker.read_text() == "xx"


def test_a_stop_ends_running_ops_omits_the_rest_and_runs_on_exit(engine: LocalEngine, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    with Workflow(name="stopped", entrypoint="main", on_exit="bye") as workflow:
        forever = python("forever", "import time; time.sleep(600)")
        python("bye", f"open({str(ended)!r}, 'w').write('{{{{workflow.status}}}}')")
        with DAG(name="main"):
            Task(name="one", template=forever) >> Task(name="two", template=forever)
    engine.submit(workflow.to_dict())
    reaches(engine, "stopped", lambda run: bool(run.nodes))
    engine.stop("stopped")
    run = finished(engine, "stopped")
    assert (run.phase, run.message) == ("Failed", "Stopped")
    assert run.nodes == {"one": "Failed", "two": "Omitted", "onExit": "Succeeded"}
    assert ended.read_text() == "Failed"


def test_an_op_that_takes_too_long_fails_its_workflow(engine: LocalEngine) -> None:
    with Workflow(name="late", entrypoint="main") as workflow:
        python("main", "import time; time.sleep(600)", timeout="200ms")
    engine.submit(workflow.to_dict())
    run = finished(engine, "late")
    assert run.phase == "Failed"
    assert "longer than its template allows" in run.message


def test_a_second_submit_of_one_name_changes_nothing(engine: LocalEngine, tmp_path: Path) -> None:
    count = tmp_path / "count"
    workflow = says("once", f"open({str(count)!r}, 'a').write('x')")
    engine.submit(workflow)
    finished(engine, "once")
    engine.submit(workflow)
    assert finished(engine, "once").phase == "Succeeded"
    assert count.read_text() == "x"


def test_what_an_op_said_last_is_the_message_of_its_failure(engine: LocalEngine) -> None:
    engine.submit(says("loud", "import sys; print('no more coal', file=sys.stderr); sys.exit(4)"))
    assert finished(engine, "loud").message == "main: no more coal"


def test_a_missing_output_is_an_error_and_a_default_is_not(engine: LocalEngine) -> None:
    for name, default in (("without", None), ("with", "none")):
        with Workflow(name=name, entrypoint="main") as workflow:
            place = models.ValueFrom(path="/tmp/outputs/v", default=default)
            python("main", "pass", outputs=[Parameter(name="v", value_from=place)])
        engine.submit(workflow.to_dict())
    assert finished(engine, "with").phase == "Succeeded"
    run = finished(engine, "without")
    assert run.phase == "Error"
    assert "it left no file /tmp/outputs/v" in run.message


def test_an_engine_that_was_closed_is_carried_on_by_the_next(data: DataFolder, tmp_path: Path) -> None:
    gate, count = tmp_path / "gate", tmp_path / "count"
    wait = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    wait = f"import os, time\nopen({str(count)!r}, 'a').write('x')\n{wait}"
    first = LocalEngine(data)
    first.start()
    first.submit(says("long", wait))
    reaches(first, "long", lambda run: count.exists())
    first.close()
    gate.touch()
    second = LocalEngine(data)
    second.start()
    assert finished(second, "long").phase == "Succeeded"
    second.close()
    assert count.read_text() == "x"


def test_a_script_template_runs(engine: LocalEngine, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    document: Mapping[str, Any] = {
        "metadata": {"name": "script"},
        "spec": {
            "entrypoint": "main",
            "templates": [
                {
                    "name": "main",
                    "script": {
                        "image": "python",
                        "command": ["python"],
                        "source": f"open({str(mark)!r}, 'w').write('{{{{workflow.name}}}}')",
                    },
                }
            ],
        },
    }
    engine.submit(document)
    assert finished(engine, "script").phase == "Succeeded"
    assert mark.read_text() == "script"


def test_an_image_nobody_mapped_is_refused_when_submitted(engine: LocalEngine) -> None:
    with Workflow(name="foreign", entrypoint="main") as workflow:
        Container(name="main", image="busybox", command=["sh"])
    with pytest.raises(SpecError, match="`sh` of image `busybox` is not known here"):
        engine.submit(workflow.to_dict())
    assert engine.status("foreign") is None


def test_old_finished_workflows_leave_only_their_name(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headgate_pipelines.engines.local.processes.Processes.kept", 2)
    engine = LocalEngine(data, images={**default_images(), "python": {"python": (sys.executable, "-S", "-E")}})
    engine.start()
    for number in range(4):
        engine.submit(says(f"w{number}", "pass"))
        finished(engine, f"w{number}")
    deadline = time.monotonic() + DEADLINE_S
    while len(list(data.ops.iterdir())) > 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.close()
    assert sorted(p.name for p in data.ops.iterdir()) == ["w2", "w3"]
    assert engine_knows(data, "w0")


def engine_knows(data: DataFolder, name: str) -> bool:
    engine = LocalEngine(data)
    run = engine.status(name)
    engine.close()
    return run is not None and run.phase == "Succeeded"


def test_an_op_that_was_told_its_end_is_looked_at_with_no_time_passing(data: DataFolder, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waits = f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.005)"
    now = time.time()
    engine = LocalEngine(data, clock=lambda: now)  # what is polled is never due
    engine.start()
    try:
        engine.submit(says("long", waits))
        appears(data, "pid.json")
        gate.touch()
        appears(data, "exit")
        engine.soon("long")
        assert finished(engine, "long").phase == "Succeeded"
        engine.soon("long")
        engine.soon("never-heard-of")
    finally:
        engine.close()


def appears(data: DataFolder, name: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while next(data.ops.rglob(name), None) is None:
        assert time.monotonic() < deadline, f"no {name}"
        time.sleep(0.01)

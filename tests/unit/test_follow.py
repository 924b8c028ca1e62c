"""The op `rollout` watches until a commit's rollout has ended, and says how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controlstub import ControlStub
from headgate_pipelines import contract, follow, op


class Controller:
    """Answers each look in turn, the last answer again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.paths: list[str] = []

    def __call__(self, path: str) -> Any:
        self.paths.append(path)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def shown(state: str, commit: str = "c0ffee", message: str = "", *ops: tuple[str, str, str]) -> dict[str, Any]:
    told = [{"name": name, "state": now, "message": said} for name, now, said in ops]
    return {"id": f"ro-fraud-{commit}-1", "commit": commit, "state": state, "message": message, "ops": told}


def run(controller: Controller, commit: str = "c0ffee", patience_s: float = 60.0) -> tuple[int, str, dict[str, str]]:
    return follow.rollout(controller, "fraud", commit, patience_s, pause_s=0.0)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        pytest.param("succeeded", contract.DONE, id="succeeded"),
        pytest.param("failed", contract.NO, id="failed"),
        pytest.param("aborted", contract.NO, id="aborted"),
        pytest.param("superseded", contract.NO, id="superseded"),
    ],
)
def test_how_the_rollout_ended_is_how_the_op_ends(state: str, code: int) -> None:
    controller = Controller([shown("running")], [shown("paused")], [shown(state, "c0ffee", "latency-p99")])
    ended, message, outputs = run(controller)
    assert (ended, message) == (code, f"rollout ro-fraud-c0ffee-1 {state}: latency-p99")
    assert outputs == {"rollout": "ro-fraud-c0ffee-1", "state": state, "message": message}


def test_each_op_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    smoke, step = ("smoke", "passed", "ok"), ("step-5", "running", "")
    controller = Controller(
        [shown("running", "c0ffee", "", smoke, ("step-5", "waiting", ""))],
        [shown("running", "c0ffee", "", smoke, ("step-5", "waiting", ""))],
        [shown("running", "c0ffee", "", smoke, step)],
        [shown("succeeded")],
    )
    run(controller)
    assert capsys.readouterr().out.splitlines() == ["smoke passed: ok", "step-5 running"]


def test_a_commit_the_controller_does_not_know_yet_is_waited_for() -> None:
    controller = Controller(None, [], [shown("succeeded", "bad")], [shown("succeeded")])
    assert run(controller)[0] == contract.DONE
    assert set(controller.paths) == {"/endpoints/fraud/rollouts"}


def test_a_commit_that_rolls_nothing_out_is_worth_another_try_and_no_more() -> None:
    code, message, outputs = run(Controller([shown("succeeded", "bad")]), patience_s=0.0)
    assert (code, outputs) == (contract.AGAIN, {})
    assert message == "fraud has no rollout of c0ffee after 0 s"


@pytest.mark.parametrize(
    ("state", "code", "patience"),
    [
        pytest.param("succeeded", contract.DONE, "60", id="succeeded"),
        pytest.param("failed", contract.NO, "60", id="failed"),
        pytest.param("", contract.AGAIN, "0", id="nobody knows of one"),
    ],
)
def test_the_op_asks_with_its_token_and_leaves_its_outputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, code: int, patience: str
) -> None:
    (tmp_path / "token").write_text("operator")
    with ControlStub() as control:
        monkeypatch.setenv(contract.ENV_CONTROL, control.url)
        monkeypatch.setenv(contract.ENV_TOKEN_FILE, str(tmp_path / "token"))
        monkeypatch.setenv(contract.ENV_OUTPUTS, str(tmp_path / "outputs"))
        monkeypatch.setenv(contract.ENV_TERMINATION, str(tmp_path / "said"))
        control.scripted["/endpoints/fraud/rollouts"] = [(200, [shown(state)])] if state else []
        assert op.main(["rollout", "fraud", "--commit", "c0ffee", "--patience", patience]) == code
        assert set(control.asked) == {("/endpoints/fraud/rollouts", "Bearer operator")}
    if state:
        assert (tmp_path / "outputs" / "state").read_text() == state
        assert json.loads((tmp_path / "said").read_text())["outputs"]["rollout"] == "ro-fraud-c0ffee-1"
    else:
        assert "no rollout of c0ffee" in json.loads((tmp_path / "said").read_text())["message"]

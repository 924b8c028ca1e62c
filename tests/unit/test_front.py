"""What a replica is told, and what it tells the user's code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from headgate.target import DeploymentTarget, EnvironmentPin, RunSettings, Source
from headgate.workload import CPUS, Artifact
from headgate_serving.placed import placed
from headgate_serving.servers.score import ScoreServer
from headgate_serving.settings import (
    Bundle,
    ServeSettings,
    Workers,
    read_bundle,
    settings_from,
    worker_environment,
    workers_from,
)

BUNDLE = Bundle(code="code/src", scoring_script="online/score.py", model="models/m/3")
SETTINGS = ServeSettings(bundle="/b", interpreter="/e/bin/python", environment="/e", variables={"A": "1"})


def deployment(server: str = "score") -> DeploymentTarget:
    source = Source(server, None, None, "score.py", EnvironmentPin("", ()), {"SECRET": "s"}, "/predict", "small")
    return DeploymentTarget("blue", "r1", source, RunSettings())


def test_the_score_server_claims_scoring_scripts_only() -> None:
    assert ScoreServer().claims(deployment())
    assert not ScoreServer().claims(deployment("mlflow"))


def test_a_launch_tells_everything_and_keeps_variables_out_of_argv() -> None:
    launch = ScoreServer("/h/python").launch(deployment(), Artifact("d", "/b", "/e"))
    assert launch.argv[0] == "/h/python"
    assert "s" not in launch.argv
    settings = settings_from(launch.env)
    assert (settings.bundle, settings.interpreter) == ("/b", "/e/bin/python")
    assert (settings.scoring_path, settings.variables) == ("/predict", {"SECRET": "s"})


def test_without_an_environment_the_model_runs_on_our_interpreter() -> None:
    launch = ScoreServer("/h/python").launch(deployment(), Artifact("d", "/b"))
    assert settings_from(launch.env).interpreter == "/h/python"


def test_user_code_gets_azures_names() -> None:
    env = worker_environment(SETTINGS, BUNDLE, {"PATH": "/bin", "HEADGATE_SERVE": "{}"})
    assert env["AZUREML_MODEL_DIR"] == "/b/models/m/3"
    assert (env["AML_APP_ROOT"], env["AZUREML_ENTRY_SCRIPT"]) == ("/b/code/src/online", "score.py")
    assert (env["A"], env["PATH"], env["VIRTUAL_ENV"]) == ("1", "/e/bin:/bin", "/e")
    assert not [name for name in env if name.startswith("HEADGATE_")]


def test_thread_counts_follow_the_cores_unless_the_deployment_says_otherwise() -> None:
    settings = ServeSettings(bundle="/b", interpreter="p", variables={"OMP_NUM_THREADS": "8"})
    env = worker_environment(settings, BUNDLE, {CPUS: "2.5"})
    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("8", "2")
    assert "MKL_NUM_THREADS" not in worker_environment(settings, BUNDLE, {})


def test_a_bundle_may_say_more_than_we_read(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(
        json.dumps({"code": "code/c", "scoring_script": "s.py", "model": None, "x": 1})
    )
    assert read_bundle(tmp_path) == Bundle("code/c", "s.py", None)


def test_what_is_placed_is_logged_and_what_is_missing_named(tmp_path: Path) -> None:
    (tmp_path / "code/src").mkdir(parents=True)
    (tmp_path / "code/src/score.py").write_text("12345")
    (tmp_path / "python").touch()
    settings = ServeSettings(bundle=str(tmp_path), interpreter=str(tmp_path / "python"))
    log = io.StringIO()
    assert placed(settings, Bundle("code/src", "score.py"), log) == ""
    assert f"scoring script: {tmp_path}/code/src/score.py, 5 bytes" in log.getvalue()
    missing = placed(settings, Bundle("code/src", "score.py", "models/m/1"), log)
    assert missing == f"the model is not there: {tmp_path}/models/m/1"


def test_workers_are_set_under_azures_names() -> None:
    assert workers_from({}) == Workers(1, False, 300)
    found = workers_from({"WORKER_COUNT": "4", "WORKER_PRELOAD": "True", "WORKER_TIMEOUT": "9"})
    assert found == Workers(4, True, 9)


@pytest.mark.parametrize("count", ["0", "-1", "many", "1000", "1.5"])
def test_a_number_of_workers_that_makes_no_sense_is_named(count: str) -> None:
    with pytest.raises(ValueError, match="WORKER_COUNT is"):
        workers_from({"WORKER_COUNT": count})

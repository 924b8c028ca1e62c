"""docs/pipelines.md: the pipeline it shows is one that engines take, and the documents it names are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hera.workflows import SecretEnv, Workflow

from headgate_console.main import run
from headgate_console.templates import given
from headgate_controllers.options import BUILD_VARIABLES
from headgate_pipelines import contract
from headgate_pipelines.engines.local.compile import compile_workflow
from headgate_pipelines.engines.local.processes import default_images
from headgate_pipelines.engines.settings import OpSettings
from headgate_pipelines.templates import documents

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"


def example() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), found)
    return found


def test_the_pipeline_of_the_docs_runs_on_the_local_engine() -> None:
    shown = example()
    workflow = shown["retrain"]("7")
    assert isinstance(workflow, Workflow)
    images = {**default_images(), shown["TRAINER"]: {"python": ("python",), "sh": ("sh",)}}
    spec = compile_workflow(workflow.to_dict(), images)
    assert [leaf.path for leaf in spec.leaves()] == ["train", "evaluate", "propose", "launched"]
    last = list(spec.leaves())[-1]
    words = ["".join(part if isinstance(part, str) else part.name for part in text) for text in last.argv]
    assert words[-4:] == ["rollout", "fraud", "--commit", "commit"]


def test_on_a_cluster_the_password_is_a_secrets() -> None:
    secret = SecretEnv(name="GH_TOKEN", secret_name="bot", secret_key="token")
    document = example()["retrain"]("7", on_argo=True, credentials=(secret,)).to_dict()
    propose = next(t for t in document["spec"]["templates"] if t["name"] == "propose")
    assert propose["container"]["env"][1]["valueFrom"] == {"secretKeyRef": {"name": "bot", "key": "token"}}


def test_on_argo_what_it_refers_to_is_exported_and_given_what_it_takes() -> None:
    document = example()["retrain"]("7", on_argo=True).to_dict()
    dag = next(t for t in document["spec"]["templates"] if "dag" in t)["dag"]
    task = next(task for task in dag["tasks"] if task["name"] == "launched")
    found = next(d for d in documents(OpSettings(), {}) if d["metadata"]["name"] == task["templateRef"]["name"])
    template = next(t for t in found["spec"]["templates"] if t["name"] == task["templateRef"]["template"])
    taken = {p["name"] for p in template["inputs"]["parameters"]}
    assert {p["name"] for p in task["arguments"]["parameters"]} == taken


def test_templates_are_printed_as_they_are_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in BUILD_VARIABLES:  # of whoever runs the tests
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HEADGATE_OP_IMAGE", "registry.example/runner:9")
    monkeypatch.setenv("HEADGATE_CONTROL", "http://headgate-controller.ml:7070")
    monkeypatch.setenv("HEADGATE_BUILDER", "oci")
    monkeypatch.setenv("HEADGATE_TOKEN", "very-secret")
    assert run(["templates", "--namespace", "ml"]) == 0
    printed = capsys.readouterr().out
    expected = documents(
        OpSettings(image="registry.example/runner:9"),
        {"HEADGATE_CONTROL": "http://headgate-controller.ml:7070", "HEADGATE_BUILDER": "oci"},
        namespace="ml",
    )
    assert list(yaml.safe_load_all(printed)) == expected
    assert "very-secret" not in printed


def test_every_template_the_docs_name_is_there() -> None:
    page = PAGE.read_text("utf-8")
    for document in documents(OpSettings(), given()):
        for template in document["spec"]["templates"]:
            assert f"`{template['name']}`" in page
            assert document["metadata"]["name"] in page


def test_a_setting_that_cannot_be_is_said_before_anything_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_BUILD_MEMORY", "lots")
    assert run(["templates"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "op-settings" in told.err
    assert contract.IMAGE not in told.err

"""The workflow of a typical rollout, as it goes to the engine. `make golden` rewrites tests/golden/workflow.yml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.planning import make_plan
from headgate.rollout import Head
from headgate.testing import deployment, target
from headgate_pipelines import rollout
from headgate_pipelines.engines.local.compile import compile_workflow
from headgate_pipelines.engines.local.processes import default_images

FILE = Path(__file__).parent / "workflow.yml"
WRITE = os.environ.get("HEADGATE_GOLDEN") == "write"
# Each was found to bite; see the module's own words.
FORBIDDEN = {
    "when",
    "suspend",
    "withItems",
    "withParam",
    "withSequence",
    "synchronization",
    "hooks",
    "script",
    "resource",
}
INT_OR_STRING = {"limit", "factor"}  # a number there is a schema error on the cluster
LONGEST_NAME = 63


@pytest.fixture
def workflow() -> dict[str, Any]:
    blue, green = deployment("blue"), deployment("green", "2")
    live = Head("fraud", traffic={blue.revision: 1000})
    plan = make_plan(live, target("c0ffee", [blue, green], {"green": 100})).plan
    assert plan is not None
    return dict(rollout.workflow(plan, "ro-fraud-c0ffee0000-1"))


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {k for item in value.values() for k in keys(item)}
    return {k for item in value for k in keys(item)} if isinstance(value, list) else set()


def test_it_is_as_it_was(workflow: dict[str, Any]) -> None:
    if WRITE:
        FILE.write_text(yaml.safe_dump(workflow, sort_keys=True, width=120), "utf-8")
    assert workflow == yaml.safe_load(FILE.read_text("utf-8")), "it differs: `make golden`, then read the diff"


def test_it_uses_nothing_that_was_found_to_bite(workflow: dict[str, Any]) -> None:
    assert not keys(workflow["spec"]) & FORBIDDEN


def test_numbers_that_the_cluster_reads_as_text_are_text(workflow: dict[str, Any]) -> None:
    for template in workflow["spec"]["templates"]:
        retry = template.get("retryStrategy", {})
        for name, value in {**retry, **retry.get("backoff", {})}.items():
            assert name not in INT_OR_STRING or isinstance(value, str)


def test_every_container_has_its_command_and_an_op_key_of_its_own(workflow: dict[str, Any]) -> None:
    containers = [t["container"] for t in workflow["spec"]["templates"] if "container" in t]
    assert all(c["command"] == ["python", "-m", "headgate_pipelines.op"] for c in containers)
    op_keys = [c["args"][c["args"].index("--op-key") + 1] for c in containers]
    assert len(op_keys) == len(set(op_keys))
    assert all(k.startswith("{{workflow.name}}/") for k in op_keys)


def test_it_compiles_for_one_machine_and_names_fit_the_cluster(workflow: dict[str, Any]) -> None:
    spec = compile_workflow(workflow, default_images())
    assert [leaf.path for leaf in spec.leaves()][-2:] == ["finalize", "onExit"]
    assert all(len(t["name"]) <= LONGEST_NAME for t in workflow["spec"]["templates"])

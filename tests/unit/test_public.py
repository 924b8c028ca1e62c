"""The kernel's public names: a plugin that imports them goes on importing them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import headgate

PUBLIC = {
    "evidence": "Answer Approval Batch Counts Detection Difference Look Need Outcome Pair PairKind Result Sample"
    " Traffic Verdict",
    "findings": "ConflictError Finding FindingsError HeadgateError Place PolicyDenied Severity SpecError TerminalError"
    " TransientError",
    "plan": "Op Plan",
    "ports": "Builder Catalogue Engine EvidenceSource Gate Platform Record Run Secrets Server Tree Window",
    "process": "InstanceType MetricSource MirrorPhase Process Settings",
    "rollout": "Event Head Rollout",
    "table": "EndpointRoute Mirror RouteRevision RouteTable",
    "target": "DeploymentTarget EnvironmentPin ModelPin RouterSettings RunSettings Source SourcePath Target",
    "workload": "Artifact Launch Probe Purpose Replica ReplicaState Workload",
}
EXPECTED = {name: module for module, names in PUBLIC.items() for name in names.split()}


def test_the_public_names_are_these_and_no_other() -> None:
    assert set(headgate.__all__) == {*EXPECTED, "__version__"}
    assert list(headgate.__all__) == sorted(headgate.__all__)
    assert set(headgate.__all__) <= set(dir(headgate))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_public_name_is_the_one_of_its_module(name: str) -> None:
    assert getattr(headgate, name).__module__ == f"headgate.{EXPECTED[name]}"


def test_a_type_checker_sees_the_same_names() -> None:
    tree = ast.parse(Path(headgate.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: f"{node.module}" for node in imports for alias in node.names} == {
        name: f"headgate.{module}" for name, module in EXPECTED.items()
    }


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'headgate' has no attribute 'Nothing'"):
        _ = headgate.Nothing  # type: ignore[attr-defined]


def test_importing_headgate_imports_nothing_it_does_not_need() -> None:
    code = (
        "import sys, headgate; print(*(m for m in sys.modules if m.partition('.')[0] not in sys.stdlib_module_names))"
    )
    core = Path(headgate.__file__).parents[1]
    found = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=core)
    assert set(found.stdout.split()) == {"__main__", "headgate", "headgate.version"}


@pytest.mark.parametrize("name", ["RouteTable", "Gate", "Head"])
def test_no_public_name_brings_a_parser_or_a_client(name: str) -> None:
    code = f"import sys; from headgate import {name}; print(*(m.split('.')[0] for m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"yaml", "jsonschema", "httpx", "fastapi", "hera", "git"} & set(found.stdout.split())

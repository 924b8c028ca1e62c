"""docs/plugins.md, carried out: its gate is installed as a distribution, found, named in rollout.yml, and held to the
promises of every gate."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from headgate import codec, plugins
from headgate.evidence import Counts, Look, Outcome, Result
from headgate.process import Settings
from headgate.reading import Reading, check_gates, read_endpoint
from headgate_kit.worktree import WorkTree
from headgate_policies.judge import judge_phase

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/plugins.md"
NAMED = re.compile(r"^```\w+ (?P<file>\S+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
ENDPOINT = "name: fraud\nauth_mode: key\ntraffic: {blue: 100}\n"
DEPLOYMENT = """\
name: blue
model: {path: ../code/m.pkl}
code_configuration: {code: ../code, scoring_script: score.py}
environment: {conda_file: ../code/conda.yml}
instance_type: small
"""


@pytest.fixture(scope="module")
def files() -> Mapping[str, str]:
    return {found["file"]: found["text"] for found in NAMED.finditer(PAGE.read_text(encoding="utf-8"))}


@pytest.fixture
def installed(files: Mapping[str, str], tmp_path: Path) -> Path:
    """A folder with the page's distribution in it, as an installer leaves one."""
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups) + "\n")
    for name in ("acme_timeouts.py", "test_timeouts.py"):
        (tmp_path / name).write_text(files[name], encoding="utf-8")
    return tmp_path


@pytest.fixture
def loaded(installed: Path, monkeypatch: pytest.MonkeyPatch) -> plugins.Loaded:
    monkeypatch.syspath_prepend(installed)
    monkeypatch.delitem(sys.modules, "acme_timeouts", raising=False)
    return plugins.load("headgate.gate")


def read(folder: Path, rollout: str, loaded: plugins.Loaded) -> tuple[Reading, tuple[str, ...]]:
    texts = {
        "endpoint.yml": ENDPOINT,
        "rollout.yml": rollout,
        "deployments/blue.yml": DEPLOYMENT,
        "code/score.py": "",
        "code/m.pkl": "",
        "code/conda.yml": "dependencies: [python=3.11]\n",
    }
    for name, text in texts.items():
        file = folder / "endpoints/fraud" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    tree = WorkTree(folder)
    reading = read_endpoint(tree, "fraud", Settings())
    gates = {name: gate.params for name, gate in loaded.adapters.items()}
    return reading, tuple(str(f) for f in (*reading.findings, *check_gates(reading, tree, gates)) if f.is_error)


def test_the_gate_is_found_beside_ours(loaded: plugins.Loaded) -> None:
    assert loaded.findings == ()
    assert {"error-rate", "latency", "mirror-diff", "timeout-budget"} <= set(loaded.adapters)


def test_rollout_yml_names_it_and_it_judges(files: Mapping[str, str], loaded: plugins.Loaded, tmp_path: Path) -> None:
    reading, errors = read(tmp_path / "repo", files["endpoints/fraud/rollout.yml"], loaded)
    assert errors == ()
    assert reading.target is not None
    slow = Look("step", 1, 0.0, 1.0, Counts({Outcome.OK: 900, Outcome.TIMEOUT: 6}), Counts({Outcome.OK: 900}))
    verdicts = judge_phase(
        reading.target.process, phase="step-5", kind="step", looks=[slow], gates=loaded.adapters, phases_total=3
    )
    (found,) = [verdict for verdict in verdicts if verdict.gate == "timeout-budget"]
    assert (found.result, found.phase, codec.to_data(found.parameters)) == (
        Result.FAIL,
        "step-5",
        {"most": 5, "enough": 1000},
    )
    assert found.explanation == "6 of 906 candidate requests timed out; 5 are tolerated"


def test_a_parameter_it_does_not_have_is_a_finding_at_its_line(loaded: plugins.Loaded, tmp_path: Path) -> None:
    _, errors = read(tmp_path / "repo", "gates:\n  timeout-budget:\n    mots: 5\n", loaded)
    (error,) = errors
    assert error.startswith("endpoints/fraud/rollout.yml:3:")
    assert "mots" in error


def test_its_conformance_suite_passes_as_its_author_runs_it(installed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_timeouts.py"],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b1\d passed", done.stdout), done.stdout

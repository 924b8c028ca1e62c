"""The loop over endpoints: bad luck with one is nobody else's. On a controller put together as in production."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headgate_controllers.adapters import Adapters
from headgate_controllers.api.news import News
from headgate_controllers.main import Parts, assemble
from headgate_controllers.options import Options
from headgate_kit.layout import DataFolder

DEPLOYMENT = (
    "name: blue\nmodel: {path: ../code/m.pkl}\ncode_configuration: {code: ../code, scoring_script: score.py}\n"
    "environment: {conda_file: ../code/conda.yml}\ninstance_type: small\n"
)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Two endpoints, each with a commit that was taken up; nothing is started."""
    repo = tmp_path / "repo"
    for name in ("churn", "fraud"):
        files = {
            "endpoint.yml": f"name: {name}\nauth_mode: key\ntraffic: {{blue: 100}}\n",
            "deployments/blue.yml": DEPLOYMENT,
            "code/score.py": "def init(): ...\n",
            "code/m.pkl": "weights",
            "code/conda.yml": "dependencies: [python=3.11]\n",
        }
        for path, text in files.items():
            file = repo / "endpoints" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    git = ("git", "-C", str(repo), "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for command in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    data = DataFolder(tmp_path / "data")
    data.prepare()
    made = assemble(Options(data, str(repo), None), Adapters(), "token", News())
    made.controller.commits.look()
    yield made
    for part in (made.acts, made.engine, made.platform, made.repo, made.record):
        part.close()


def rollout(parts: Parts, endpoint: str) -> str:
    active = parts.controller.heads.get(endpoint).active
    assert active is not None
    return active.id


def test_an_adapter_that_breaks_for_one_endpoint_leaves_the_others_their_actions(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = parts.engine.submit

    def breaks(workflow: Mapping[str, Any]) -> None:
        if workflow["metadata"]["name"] == rollout(parts, "churn"):
            raise ValueError("an adapter may be anybody's")
        submit(workflow)

    monkeypatch.setattr(parts.engine, "submit", breaks)
    parts.reconciler._guarded_passes(("churn", "fraud"))
    assert parts.engine.status(rollout(parts, "fraud")) is not None
    monkeypatch.undo()
    parts.reconciler._guarded_passes(("churn", "fraud"))
    assert parts.engine.status(rollout(parts, "churn")) is not None

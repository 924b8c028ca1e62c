"""A real MLflow server with two versions of a model, as a process of its own.

Found as $HEADGATE_MLFLOW, or as `mlflow` on the PATH; it is not installed with the tests (600 MB):
`uv tool install mlflow`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

import ports

PROGRAM = os.environ.get("HEADGATE_MLFLOW") or shutil.which("mlflow") or ""
MISSING = "no MLflow server: set HEADGATE_MLFLOW to the program mlflow (uv tool install mlflow)"
DEADLINE_S = 180.0


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Its URL."""
    places = ["--backend-store-uri", f"sqlite:///{folder}/db.sqlite", "--artifacts-destination", str(folder / "store")]
    with (folder / "mlflow.log").open("wb") as log, ports.held() as port:
        command = [PROGRAM, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *places]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        yield from _served(f"http://127.0.0.1:{port}", process, folder)


def _served(url: str, process: subprocess.Popen[bytes], folder: Path) -> Iterator[str]:
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not _answers(url):
            assert process.poll() is None, (folder / "mlflow.log").read_text()
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.2)  # between two looks; the deadline is above
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def register(url: str, name: str, version: int, files: Mapping[str, bytes]) -> None:
    """A run with these artefacts, registered as the next version, which must be this one."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60.0) as client:

        def ask(path: str, body: Mapping[str, object]) -> dict[str, dict[str, str]]:
            answer = client.post(f"/api/2.0/mlflow/{path}", json=dict(body))
            assert answer.status_code == 200, answer.text
            found: dict[str, dict[str, str]] = answer.json()
            return found

        if version == 1:
            ask("registered-models/create", {"name": name})
        run = ask("runs/create", {"experiment_id": "0"})["run"]["info"]
        source = f"{run['artifact_uri']}/model"  # type: ignore[index]
        for path, content in files.items():
            place = source.partition(":/")[2].lstrip("/")
            put = client.put(f"/api/2.0/mlflow-artifacts/artifacts/{place}/{path}", content=content)
            assert put.status_code == 200, put.text
        made = ask("model-versions/create", {"name": name, "source": source, "run_id": run["run_id"]})  # type: ignore[index]
        assert made["model_version"]["version"] == str(version)


def alias(url: str, name: str, label: str, version: int) -> None:
    body = {"name": name, "alias": label, "version": str(version)}
    answer = httpx.post(f"{url}/api/2.0/mlflow/registered-models/alias", json=body, trust_env=False)
    assert answer.status_code == 200, answer.text

"""Repos of many endpoints, written straight into git: 10,000 of them in seconds."""

from __future__ import annotations

import subprocess
from pathlib import Path

ENDPOINT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json
name: {name}
auth_mode: key
traffic: {traffic}
"""
DEPLOYMENT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: {deployment}
endpoint_name: {name}
code_configuration:
  code: ../code
  scoring_script: score.py
environment:
  image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest
  conda_file: ../conda.yml
environment_variables:
  MODEL: "{name}"
instance_type: Standard_DS3_v2
instance_count: 1
request_settings:
  request_timeout_ms: 3000
  max_concurrent_requests_per_instance: 2
"""
CONDA = "dependencies:\n  - pip:\n      - numpy\n"
SCORE = "def init():\n    pass\n\n\ndef run(raw_data):\n    return [1]\n"


def endpoint_name(number: int) -> str:
    return f"endpoint-{number:05}"


def files(number: int, deployments: tuple[str, ...]) -> dict[str, str]:
    """One endpoint; all have the same code, so git holds it once."""
    name = endpoint_name(number)
    folder = f"endpoints/{name}"
    traffic = f"{{{deployments[0]}: 100}}" if deployments else "{}"
    found = {f"{folder}/endpoint.yml": ENDPOINT.format(name=name, traffic=traffic)}
    for deployment in deployments:
        found[f"{folder}/deployments/{deployment}.yml"] = DEPLOYMENT.format(name=name, deployment=deployment)
    if deployments:
        found |= {f"{folder}/conda.yml": CONDA, f"{folder}/code/score.py": SCORE}
    return found


def make(folder: Path, endpoints: int, deployments: tuple[str, ...] = ("blue",)) -> Path:
    """A bare repo with one commit on main; answers its folder."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(folder)], check=True)
    tree = {path: text for number in range(endpoints) for path, text in files(number, deployments).items()}
    tree["headgate.yml"] = "removal_grace: 10m\n"
    commit(folder, tree, "many endpoints")
    return folder


def commit(folder: Path, tree: dict[str, str], message: str) -> str:
    """Adds a commit with these files to main; answers its id."""
    parent = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "-q", "--verify", "main"], capture_output=True, text=True, check=False
    ).stdout.strip()
    head = f"commit refs/heads/main\ncommitter Bench <bench@localhost> 1700000000 +0000\n{_data(message)}"
    head += f"from {parent}\n" if parent else ""
    body = "".join(f"M 100644 inline {path}\n{_data(text)}" for path, text in tree.items())
    subprocess.run(["git", "-C", str(folder), "fast-import", "--quiet"], input=(head + body).encode(), check=True)
    return subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "main"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}\n"

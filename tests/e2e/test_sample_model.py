"""Azure ML's own sample: from the commit to the answers its documentation shows."""

from __future__ import annotations

import http.client
import json
import shutil
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from headgate_console.demo.follow import Follower
from headgate_console.demo.say import Screen
from headgate_console.demo.system import System
from headgate_console.demo.workdir import WorkTree

pytestmark = pytest.mark.e2e
SAMPLE = Path(__file__).parent.parent / "data" / "sample-model"
EXPECTED = [11055.977245525679, 4503.079536107787]
ENDPOINT = "my-endpoint"


def commit_sample(tree: WorkTree) -> str:
    """The sample's files, its traffic (`az ml` sets it by a command), and a conda file that fits this interpreter.

    Every folder below endpoints/ is an endpoint, so the model's folder moves inside: one `../` less in the paths.
    """
    endpoint = tree.folder / "endpoints" / ENDPOINT
    shutil.copytree(SAMPLE / "my-endpoint", endpoint)
    shutil.copytree(SAMPLE / "model-1", endpoint / "model-1")
    blue = endpoint / "deployments" / "blue.yml"
    blue.write_text(blue.read_text().replace("../../model-1", "../model-1"))
    with (endpoint / "endpoint.yml").open("a") as file:
        file.write("traffic:\n  blue: 100\n")
    shutil.copy(SAMPLE / "model-1" / "sample-request.json", endpoint / "deployments")
    (endpoint / "model-1" / "environment").mkdir()
    pins = "\n".join(f"      - {name}=={metadata.version(name)}" for name in ("scikit-learn", "numpy", "joblib"))
    (endpoint / "model-1" / "environment" / "conda.yaml").write_text(f"dependencies:\n  - pip:\n{pins}\n")
    tree.git("add", "-A")
    tree.git("commit", "-q", "-m", "my-endpoint: Azure ML's sample")
    return tree.push()


def test_azures_sample_is_served_from_its_commit_and_answers_as_documented(place: Path) -> None:
    system, tree = System(place), WorkTree(place / "endpoints")
    try:
        system.begin(tree)
        commit = commit_sample(tree)
        follower = Follower(system.control, ENDPOINT, Screen(quiet=True), lambda seen: None)
        rollout = follower.rollout(commit)
        assert rollout.state == "succeeded", rollout.message

        url = urlsplit(system.control.endpoint(ENDPOINT).url)
        key = system.control.keys(ENDPOINT)["primary"]
        body = (SAMPLE / "model-1" / "sample-request.json").read_bytes()
        for secret, status in ((key, 200), ("not-the-key", 401)):
            connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
            headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
            connection.request("POST", url.path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            assert answer.status == status, text
            if status == 200:
                assert json.loads(text) == pytest.approx(EXPECTED, rel=1e-12)
                assert answer.headers["azureml-model-deployment"] == "blue"
    finally:
        system.down()

"""A registered model's whole rollout on a cluster: a commit names its version, the replica fetches it from an S3 store.

The store is a process of this machine ($HEADGATE_S3_SERVER), reached by pods at a node's address, with credentials from
a Secret. What is asked of it afterwards is what no pod needs: a version that serves is served on without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from bench.numbers import keep

import s3server
from installation import Installation, Recorder, ask, forwarder, within

ROLLOUT_S = 240.0
SCORE = """
import os, pathlib

def init():
    global text
    text = (pathlib.Path(os.environ["AZUREML_MODEL_DIR"]) / "greeting.txt").read_text()

def run(data):
    return {"said": text}
"""


@dataclass(frozen=True)
class Lake:
    world: Installation
    store: s3server.S3Server
    address: str  # where pods find it

    def write(self, reference: str) -> None:
        """The endpoint with that model; `@latest` and a number are written alike."""
        self.world.write()
        folder = self.world.work / "endpoints/greet"
        (folder / "code/score.py").write_text(SCORE)
        path = folder / "deployments/blue.yml"
        path.write_text(path.read_text().replace("model: {path: ../model}", f"model: azureml:greeting{reference}"))
        settings = self.world.work / "headgate.yml"
        lake = f"lake: {{kind: s3, url: s3://{s3server.BUCKET}/prod, endpoint: 'http://{self.address}'}}"
        settings.write_text(f"{settings.read_text()}models: init\ncatalogues:\n  {lake}\n")

    def settled(self, commit: str) -> None:
        name = f"ro-greet-{commit[:10]}-1"

        def state() -> str:
            return str((self.world.get("endpointrollout", name) or {}).get("status", {}).get("state", ""))

        within(ROLLOUT_S, lambda: state() not in ("", "running"), f"{name} ends")
        assert state() == "succeeded"

    def said(self) -> str:
        with self.world.forward("svc/headgate-router", "http") as port:
            status, body = ask(port, self.world.key())
        assert status == 200, body
        return str(json.loads(body)["said"])

    def fetched(self) -> list[str]:
        """What the storage-initializers of replicas that serve were asked for, and brought."""
        found = self.world.get("pods", selector="headgate.dev/part=model,headgate.dev/purpose=serve")["items"]
        names = []
        for pod in found:
            (initializer,) = pod["spec"]["initContainers"]
            (ended,) = pod["status"]["initContainerStatuses"]
            asked = next(e["value"] for e in initializer["env"] if e["name"] == "HEADGATE_FETCH")
            pin = json.loads(asked)["pin"]
            if ended["state"].get("terminated", {}).get("exitCode") == 0:
                names.append(f"{pin['name']}:{pin['version']}")
        return names


@pytest.fixture(scope="module")
def lake(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """Two versions in the store, the first of them live."""
    if not s3server.PROGRAM:
        pytest.skip(s3server.MISSING)
    nodes = installation.get("nodes")["items"]
    node = next(a["address"] for a in nodes[0]["status"]["addresses"] if a["type"] == "InternalIP")
    with s3server.running(tmp_path_factory.mktemp("s3")) as store:
        port = int(store.url.rpartition(":")[2])
        with forwarder(node, "127.0.0.1", port) as door:
            found = Lake(installation, store, f"{node}:{door}")
            store.put("prod/greeting/7/greeting.txt", b"good morning")
            store.put("prod/greeting/8/greeting.txt", b"good evening")
            store.put("prod/greeting/labels.yml", b"prod: 7\n")
            credentials = [f"{node}_{door}.access-key-id=reader", f"{node}_{door}.secret-access-key=reads"]
            literals = [f"--from-literal={text}" for text in credentials]
            installation.kubectl("create", "secret", "generic", "model-catalogues", *literals)
            found.write("@prod")
            first = installation.push("the model that is prod")
            installation.install(**{"catalogues.credentialsSecret": "model-catalogues"})
            within(120, lambda: installation.get("onlineendpoint", "greet"), "the endpoint is shown")
            found.settled(first)
            yield found


def test_a_commit_that_names_a_version_is_fetched_smoked_and_live(lake: Lake) -> None:
    assert lake.said() == "good morning"
    assert lake.fetched() == ["greeting:7"]
    image = lake.world.get("pods", selector="headgate.dev/part=model")["items"][0]["spec"]
    server = next(c for c in image["containers"] if c["name"] == "model")
    assert not [e for e in server["env"] if "CATALOGUE" in e["name"]], "the server sees no credentials"


def test_the_next_version_and_a_revert_fail_no_caller(lake: Lake) -> None:
    world = lake.world
    caller = Recorder(world, world.key())
    caller.start()
    lake.write(":8")
    lake.settled(world.push("the next version"))
    assert lake.said() == "good evening"
    assert "greeting:8" in lake.fetched()
    lake.store.put(
        "prod/greeting/labels.yml", b"prod: 8\n"
    )  # the label moves on; the revert's file means what it meant
    world.git("revert", "--no-edit", "HEAD")
    world.git("push", "-q", "origin", "HEAD:main")
    within(60, lambda: lake.said() == "good morning", "the revert is live")
    seen = caller.stop()
    world.note("requests during a catalogue model's rollout and revert", sum(seen.values()))
    assert seen.keys() == {200}, seen
    keep("cluster", {"catalogue_requests": sum(seen.values()), "catalogue_failed": 0})


def test_content_that_changed_under_its_version_never_serves(lake: Lake) -> None:
    """A pod that starts later holds what it fetched against the pin."""
    lake.store.put("prod/greeting/7/greeting.txt", b"bad morning!")
    lake.world.kubectl("delete", "pod", "-l", "headgate.dev/part=model,headgate.dev/deployment=blue", "--wait=false")

    def refused() -> bool:
        return "its model cannot be fetched" in lake.world.headgate("status", "greet").stdout

    within(120, refused, "the pod says that the model is another")
    lake.store.put("prod/greeting/7/greeting.txt", b"good morning")
    within(180, lambda: lake.world.headgate("status", "greet").returncode == 0, "it serves again")
    assert lake.said() == "good morning"

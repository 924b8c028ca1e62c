"""A catalogue's model on a real cluster: pinned in one pod, fetched from its volume by another before its server.

Turn on with HEADGATE_E2E=cluster, KUBECONFIG, HEADGATE_E2E_RUNNER=REGISTRY/headgate-runner@sha256:... and
HEADGATE_E2E_REGISTRY=REGISTRY, which this machine can push to. The volume is a folder of one node; where a cluster has
several, HEADGATE_E2E_POOL names a pool of one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from headgate import codec
from headgate.process import CatalogueSource
from headgate.target import DeploymentTarget, EnvironmentPin, ModelPin, Order, SourcePath
from headgate.testing import deployment
from headgate.workload import Artifact, Replica, ReplicaState, SecretKey, Workload
from headgate_controllers.platforms.kubernetes import KubernetesPlatform
from headgate_kit.kube import Cluster, Kind
from headgate_kit.kube.kinds import POD, SECRET
from headgate_kit.layout import DataFolder
from headgate_pipelines.builders.oci import OciBuilder
from headgate_serving.servers.score import ScoreServer
from installation import NAMESPACE, POOL, REGISTRY, RUNNER, needs
from kubeserver import wait_for

VOLUME = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False)
CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
PATIENCE_S = 240.0
LAKE = CatalogueSource("folder", "/mnt/headgate/models")

pytestmark = needs("HEADGATE_E2E_RUNNER", "HEADGATE_E2E_REGISTRY")

SCORE = """
import os, pathlib

def init():
    global text
    text = (pathlib.Path(os.environ["AZUREML_MODEL_DIR"]) / "weights/greeting.txt").read_text()

def run(data):
    return {"said": text, "token": os.environ.get("TOKEN", "")}
"""
PIN = """
import os, pathlib
from headgate import codec
from headgate.process import CatalogueSource
from headgate_kit.catalogue import open_catalogue
root = pathlib.Path("/mnt/headgate/models/greeting/7/weights")
root.mkdir(parents=True)
(root / "greeting.txt").write_text("good morning")
lake = open_catalogue("lake", CatalogueSource("folder", "/mnt/headgate/models"), pathlib.Path("/tmp"))
print("PIN " + codec.canonical(lake.pin("azureml:greeting@latest")).decode())
"""
WIPE = "import shutil; shutil.rmtree('/mnt/headgate/models/greeting')"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A namespace with a claim `models` on a folder of the node."""
    name = f"hg-e2e-{uuid.uuid4().hex[:8]}"
    outside, found = Cluster.connect("default"), Cluster.connect(name)
    outside.create(NAMESPACE, {"metadata": {"name": name}})
    folder = {"path": f"/var/tmp/{name}", "type": "DirectoryOrCreate"}
    both = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size = {"storage": "1Gi"}
    volume = {**both, "capacity": size, "hostPath": folder, "claimRef": {"namespace": name, "name": "models"}}
    outside.create(VOLUME, {"metadata": {"name": name}, "spec": {**volume, "persistentVolumeReclaimPolicy": "Retain"}})
    claim = {**both, "resources": {"requests": size}, "volumeName": name}
    found.create(CLAIM, {"metadata": {"name": "models"}, "spec": claim})
    yield found
    run(found, "wipe", WIPE)
    outside.delete(NAMESPACE, name)
    outside.delete(VOLUME, name)
    outside.close()
    found.close()


def run(cluster: Cluster, name: str, program: str) -> str:
    """A pod that writes to the volume, as root: the folder is the node's. Its log."""
    container = {
        "name": "main",
        "image": RUNNER,
        "command": ["python", "-c", program],
        "volumeMounts": [{"name": "models", "mountPath": "/mnt/headgate/models"}],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "securityContext": {"runAsUser": 0},
        "containers": [container],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    }
    if POOL:
        spec["nodeSelector"] = {"headgate.dev/pool": POOL}
    cluster.create(POD, {"metadata": {"name": name}, "spec": spec})

    def phase() -> str:
        return str(((cluster.get(POD, name) or {}).get("status") or {}).get("phase"))

    wait_for(lambda: phase() in ("Succeeded", "Failed"), PATIENCE_S)
    log = b"\n".join(cluster.logs(name)).decode()
    assert phase() == "Succeeded", log
    return log


@pytest.fixture(scope="module")
def pin(cluster: Cluster) -> ModelPin:
    (line,) = [line for line in run(cluster, "pin", PIN).splitlines() if line.startswith("PIN ")]
    return codec.decode(ModelPin, line.removeprefix("PIN "))


@pytest.fixture(scope="module")
def made(
    cluster: Cluster, pin: ModelPin, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DeploymentTarget, Artifact]:
    """A deployment and its image, which has everything but the model."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "files/src").mkdir(parents=True)
    (folder / "files/src/score.py").write_text(SCORE)
    plain = deployment("blue")
    code, none = SourcePath("src", "b" * 40), EnvironmentPin("", ())
    asked = replace(plain, source=replace(plain.source, model=pin, code=code, environment=none, variables={}))
    where = {"HEADGATE_REGISTRY": f"{REGISTRY}/{cluster.namespace}", "HEADGATE_BASE_IMAGE": RUNNER}
    builder = OciBuilder(DataFolder(folder), {}, {**where, "HEADGATE_REGISTRY_INSECURE": "1"})
    builder.apart = True
    artifact = builder.build(asked.source, folder / "files", folder / "build.log")
    assert artifact.apart
    return asked, artifact


def workload(made: tuple[DeploymentTarget, Artifact], revision: str, pin: ModelPin) -> Workload:
    asked, artifact = made
    order = Order(pin, LAKE, f"{artifact.location}/models/{pin.name}/{pin.version}")
    return Workload(
        "fraud",
        "blue",
        revision,
        1,
        ScoreServer().launch(asked, artifact),
        image=artifact.image,
        cpus=0.2,
        memory_mb=256,
        node_pool=POOL,
        fetch=codec.canonical(order).decode(),
    )


@pytest.fixture
def platform(cluster: Cluster) -> Iterator[KubernetesPlatform]:
    found = KubernetesPlatform(
        cluster=Cluster.connect(cluster.namespace), environ={"HEADGATE_CATALOGUE_CLAIM": "models"}
    )
    found.start()
    yield found
    for revision in {replica.revision for replica in found.observe("fraud")}:
        found.remove("fraud", revision)
    wait_for(lambda: not found.observe("fraud"), PATIENCE_S)
    found.close()


def until(platform: KubernetesPlatform, holds: Callable[[Replica], bool]) -> Replica:
    wait_for(lambda: any(holds(replica) for replica in platform.observe("fraud")), PATIENCE_S)
    return next(replica for replica in platform.observe("fraud") if holds(replica))


def test_a_model_is_fetched_before_the_server_starts(
    platform: KubernetesPlatform, made: tuple[DeploymentTarget, Artifact], pin: ModelPin
) -> None:
    platform.apply(workload(made, "r1", pin))
    replica = until(platform, lambda r: r.state is ReplicaState.READY)
    answer = httpx.post(f"{replica.address}/score", json={}, trust_env=False, timeout=10).json()
    assert answer["said"] == "good morning"
    log = b"".join(platform.logs(replica, kind="storage-initializer")).decode()
    assert "greeting:7 from /mnt/headgate/models: 1 files" in log
    assert "greeting:7 is in /opt/headgate/bundle/models/greeting/7" in log
    assert b"the model is ready" in b"".join(platform.logs(replica))


def test_a_model_that_is_not_what_was_pinned_is_a_stated_condition(
    platform: KubernetesPlatform, made: tuple[DeploymentTarget, Artifact], pin: ModelPin
) -> None:
    platform.apply(workload(made, "r2", replace(pin, digest="0" * 64)))
    replica = until(platform, lambda r: r.state is ReplicaState.FAILED)
    assert "its model cannot be fetched" in replica.message
    assert "not what it was when it was pinned" in replica.message
    assert b"model-changed" in b"".join(platform.logs(replica, kind="storage-initializer"))


def test_a_secret_that_another_party_brings_late_is_said_and_then_taken(
    platform: KubernetesPlatform, cluster: Cluster, made: tuple[DeploymentTarget, Artifact], pin: ModelPin
) -> None:
    asked = replace(workload(made, "r3", pin), secrets={"TOKEN": SecretKey("vault-made", "token")})
    platform.apply(asked)
    waits = until(platform, lambda r: bool(r.message) and "vault-made" in r.message)
    assert 'secret "vault-made" not found' in waits.message
    cluster.create(SECRET, {"metadata": {"name": "vault-made"}, "stringData": {"token": "from a vault"}})
    replica = until(platform, lambda r: r.state is ReplicaState.READY)
    answer = httpx.post(f"{replica.address}/score", json={}, trust_env=False, timeout=10).json()
    assert answer["token"] == "from a vault"
    assert "from a vault" not in json.dumps([codec.to_data(r) for r in platform.observe("fraud")])

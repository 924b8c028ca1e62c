"""A revision's image on a real cluster: built in a pod without privileges, pulled, started by the platform, asked.

Turn on with HEADGATE_E2E=cluster, KUBECONFIG, HEADGATE_E2E_RUNNER=REGISTRY/headgate-runner@sha256:... and
HEADGATE_E2E_REGISTRY=REGISTRY: plain HTTP, where nodes pull from and this machine and the build's pod can push to. A
registry on 127.0.0.1 is the node's own: the build's pod then uses the node's network. HEADGATE_E2E_PYTHON=3.10 names
another interpreter that the runner's base has.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headgate import codec
from headgate.target import DeploymentTarget, EnvironmentPin, ModelPin, SourcePath
from headgate.testing import deployment
from headgate.workload import Artifact, ReplicaState, Workload
from headgate_controllers.platforms.kubernetes import KubernetesPlatform
from headgate_kit.kube import Cluster
from headgate_kit.kube.kinds import POD
from headgate_kit.layout import DataFolder
from headgate_pipelines.builders.oci import OciBuilder
from headgate_serving.servers.score import ScoreServer
from installation import NAMESPACE, REGISTRY, RUNNER, needs
from kubeserver import wait_for

PYTHON = os.environ.get("HEADGATE_E2E_PYTHON", "")
PATIENCE_S = 120.0

pytestmark = needs("HEADGATE_E2E_RUNNER", "HEADGATE_E2E_REGISTRY")

SCORE = """
import json, os, pathlib, sys
import headgate_greeting

def init():
    global text
    text = (pathlib.Path(os.environ["AZUREML_MODEL_DIR"]) / "greeting.txt").read_text()

def run(data):
    who = json.loads(data)["name"]
    ours = any(name.startswith("headgate_serving") for name in sys.modules)
    python = "%d.%d" % sys.version_info[:2]
    return {"said": headgate_greeting.WORD + text + who, "prefix": sys.prefix, "python": python, "ours": ours}
"""
# What the op `build` does with what the control API sends, in the op's image.
BUILD = """
import base64, json, os, pathlib
from headgate import codec
from headgate.target import Source
from headgate_kit.layout import DataFolder
from headgate_pipelines.builders.oci import OciBuilder
root, asked = pathlib.Path("/tmp/files"), json.loads(os.environ["ASKED"])
for path, content in asked["files"].items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(base64.b64decode(content))
log = pathlib.Path("/tmp/build.log")
builder = OciBuilder(DataFolder(pathlib.Path("/var/lib/headgate")))
for source in asked["sources"]:
    made = builder.build(codec.decode(Source, source), root, log)
    print("ARTIFACT " + json.dumps(codec.to_data(made)))
print(log.read_text() if log.exists() else "nothing to build")
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"hg-e2e-{uuid.uuid4().hex[:8]}"
    cluster = Cluster.connect("default")
    cluster.create(NAMESPACE, {"metadata": {"name": name}})
    yield name
    cluster.delete(NAMESPACE, name)
    cluster.close()


@pytest.fixture(scope="module")
def cluster(namespace: str) -> Iterator[Cluster]:
    found = Cluster.connect(namespace)
    yield found
    found.close()


def wheel() -> bytes:
    """A package that no index has, so that none is needed."""
    name = "headgate_greeting-1.0"
    content = {
        "headgate_greeting.py": b"WORD = 'hello'\n",
        f"{name}.dist-info/METADATA": b"Metadata-Version: 2.1\nName: headgate-greeting\nVersion: 1.0\n",
        f"{name}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},sha256={_hash(data)},{len(data)}" for path, data in content.items()]
    content[f"{name}.dist-info/RECORD"] = "\n".join([*rows, f"{name}.dist-info/RECORD,,", ""]).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return made.getvalue()


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


FILES = {
    "endpoints/fraud/src/score.py": SCORE.encode(),
    "endpoints/fraud/model/greeting.txt": b", ",
    "wheels/headgate_greeting-1.0-py3-none-any.whl": wheel(),
}


def asked(text: str, python: str = "") -> DeploymentTarget:
    plain = deployment("blue")
    source = replace(
        plain.source,
        model=ModelPin("greeting", "1", SourcePath("endpoints/fraud/model/greeting.txt", "a" * 40)),
        code=SourcePath("endpoints/fraud/src", "b" * 40),
        environment=EnvironmentPin(
            python, ("headgate-greeting @ file:///tmp/files/wheels/headgate_greeting-1.0-py3-none-any.whl",)
        ),
        variables={"TEXT": text},
    )
    return replace(plain, source=source)


def build(cluster: Cluster, name: str, environ: dict[str, str], *deployments: DeploymentTarget) -> str:
    """Runs the builder in a pod, as little privileged as any of ours; its log."""
    files = {path: base64.b64encode(content).decode() for path, content in FILES.items()}
    work = {"files": files, "sources": [codec.to_data(d.source) for d in deployments]}
    variables = {**environ, "ASKED": json.dumps(work), "UV_NO_INDEX": "1"}
    closed = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": RUNNER,
        "command": ["python", "-c", BUILD],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "securityContext": closed,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "data", "mountPath": "/var/lib/headgate"}],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "hostNetwork": REGISTRY.startswith("127.0.0.1"),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "data", "emptyDir": {}}],
    }
    cluster.create(POD, {"metadata": {"name": name}, "spec": spec})

    def phase() -> str:
        return str(((cluster.get(POD, name) or {}).get("status") or {}).get("phase"))

    wait_for(lambda: phase() in ("Succeeded", "Failed"), PATIENCE_S)
    log = b"\n".join(cluster.logs(name)).decode()
    assert phase() == "Succeeded", log
    return log


def artifacts(log: str) -> list[Artifact]:
    lines = [line.partition(" ")[2] for line in log.splitlines() if line.startswith("ARTIFACT ")]
    return [codec.decode(Artifact, line) for line in lines]


def environ(namespace: str) -> dict[str, str]:
    registry = f"{REGISTRY}/{namespace}"
    return {"HEADGATE_REGISTRY": registry, "HEADGATE_BASE_IMAGE": RUNNER, "HEADGATE_REGISTRY_INSECURE": "1"}


def answer(namespace: str, asked: DeploymentTarget, artifact: Artifact, revision: str) -> Any:
    """What a replica that the platform started says to the sample request."""
    platform = KubernetesPlatform(cluster=Cluster.connect(namespace))
    platform.start()
    try:
        launch = ScoreServer().launch(asked, artifact)
        platform.apply(Workload("fraud", "blue", revision, 1, launch, image=artifact.image, cpus=0.2, memory_mb=256))
        wait_for(lambda: [r.state for r in platform.observe("fraud")] == [ReplicaState.READY], PATIENCE_S)
        (replica,) = platform.observe("fraud")
        assert b"the model is ready" in b"".join(platform.logs(replica))
        return httpx.post(f"{replica.address}/score", json={"name": "world"}, trust_env=False, timeout=10).json()
    finally:
        platform.remove("fraud", revision)
        wait_for(lambda: not platform.observe("fraud"), PATIENCE_S)
        platform.close()


def test_a_revision_is_built_in_a_pod_pulled_started_and_asked(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    one, two = asked(""), asked("another")
    log = build(cluster, "build", environ(namespace), one, two)
    artifact, other = artifacts(log)
    assert artifact.image != other.image
    assert log.count("environment: layer of") == 1, "installed once"
    assert log.count("environment: installed before") == 1
    assert OciBuilder(DataFolder(tmp_path), {}, environ(namespace)).find(one.source) == artifact, "found from elsewhere"
    again = build(cluster, "again", environ(namespace), one)
    assert artifacts(again) == [artifact]
    assert "nothing to build" in again
    said = answer(namespace, one, artifact, "r1")
    assert said.pop("python")
    assert said == {"said": "hello, world", "prefix": "/opt/headgate/environment", "ours": False}


@pytest.mark.skipif(not PYTHON, reason="HEADGATE_E2E_PYTHON names no other interpreter that the runner's base has")
def test_a_model_has_the_python_it_asks_for(cluster: Cluster, namespace: str) -> None:
    wanted = asked("", PYTHON)
    (artifact,) = artifacts(build(cluster, "other-python", environ(namespace), wanted))
    assert answer(namespace, wanted, artifact, "r2")["python"] == PYTHON


def test_the_three_images_share_their_layers_and_run_as_nobody(cluster: Cluster) -> None:
    host, _, name = RUNNER.partition("@")[0].partition("/")
    found = {}
    with httpx.Client(base_url=f"http://{host}/v2/", trust_env=False) as client:
        for kind in ("router", "runner", "controller"):
            part = name.replace("headgate-runner", f"headgate-{kind}").partition(":")[0]
            version = RUNNER.partition("@")[2] if kind == "runner" else os.environ.get("HEADGATE_E2E_TAG", "dev")
            headers = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
            manifest = client.get(f"{part}/manifests/{version}", headers=headers).raise_for_status().json()
            config = client.get(f"{part}/blobs/{manifest['config']['digest']}").raise_for_status().json()["config"]
            found[kind] = [layer["digest"] for layer in manifest["layers"]]
            assert config["User"] == "10001:10001"
            assert not config.get("Entrypoint")
    assert found["runner"][: len(found["router"])] == found["router"]
    assert found["controller"][: len(found["runner"])] == found["runner"]

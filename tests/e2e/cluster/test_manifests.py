"""What is installed without helm: by an overlay of the kustomization, and by install.yaml edited as its header says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from installation import CLAIMS, POOL, REGISTRY, ROOT, Installation, ask, missing, within

INSTALL = ROOT / "install"
NAMESPACE = "headgate"  # the one that the manifests are made for
ANSWERS_S = 180.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    if lacks := missing():
        pytest.skip(lacks)
    if subprocess.run(["kubectl", "get", "namespace", NAMESPACE], capture_output=True, check=False).returncode == 0:
        pytest.skip(f"the cluster has a namespace {NAMESPACE}, and this test would remove it: delete it first")
    with ExitStack() as stack:
        made = Installation(tmp_path, stack, NAMESPACE)
        made.prepare()
        yield made
    subprocess.run(["kubectl", "wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=110s"], check=True)


def environment(place: Installation) -> dict[str, str]:
    """What the controller is told here: this cluster's registry, its images, and that its nodes are small."""
    runner = place.images["runner"]["image"]
    return {
        "HEADGATE_REGISTRY": f"{REGISTRY}/{NAMESPACE}",
        "HEADGATE_BASE_IMAGE": runner,
        "HEADGATE_OP_IMAGE": runner,
        "HEADGATE_REGISTRY_INSECURE": "1",
        "HEADGATE_REGISTRY_ADDRESS": place.registry_address(),
        "HEADGATE_BUILD_CPUS": "50m",
        "HEADGATE_BUILD_MEMORY": "512Mi",
        "HEADGATE_BUILD_POOL": POOL,
    }


def pod(part: str, environ: dict[str, str]) -> dict[str, Any]:
    """What this cluster needs else of a pod, to be merged into it."""
    container: dict[str, Any] = {"name": part, "resources": {"requests": {"cpu": "20m"}}}
    found: dict[str, Any] = {"containers": [container]}
    if POOL:
        found["nodeSelector"] = {"headgate.dev/pool": POOL}
    if part == "controller":
        container["env"] = [{"name": name, "value": value} for name, value in environ.items()]
        if not CLAIMS:
            found["volumes"] = [{"name": "data", "emptyDir": {}, "persistentVolumeClaim": None}]
    return found


def patch(part: str, environ: dict[str, str]) -> dict[str, Any]:
    spec = {"template": {"spec": pod(part, environ)}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"headgate-{part}"}, "spec": spec}


def by_overlay(place: Installation, repo: str) -> None:
    """The example's, with its capitals filled in."""
    shutil.copytree(INSTALL, place.folder / "install")
    overlay = yaml.safe_load((INSTALL / "examples/kustomization.yaml").read_text().replace(REPO, repo))
    overlay["resources"] = ["../install"]
    for image in overlay["images"]:
        name, _, digest = place.images[image["name"].removeprefix("headgate-")]["image"].partition("@")
        image.pop("newTag")
        image |= {"newName": name, "digest": digest}
    environ = environment(place)
    overlay["patches"] += [{"patch": yaml.safe_dump(patch(part, environ))} for part in ("controller", "router")]
    file = place.folder / "overlay/kustomization.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(overlay))
    place.kubectl("apply", "--server-side", "-k", str(file.parent))


REPO = "https://GIT.EXAMPLE/endpoints.git"


def by_file(place: Installation, repo: str) -> None:
    """install.yaml, edited where its header says so; then what else this cluster needs, by patches."""
    text = (INSTALL / "install.yaml").read_text().replace("https://git.example/endpoints.git", repo)
    text = text.replace("registry.example/team", f"{REGISTRY}/{NAMESPACE}")
    for part in ("controller", "router", "runner"):
        text = re.sub(rf"headgate-{part}:[0-9.]+", place.images[part]["image"], text)
    assert not re.search(r"^[^#]*(git\.example|registry\.example)", text, flags=re.M), "the header names every place"
    place.kubectl("apply", "-f", "-", stdin=text)
    for part in ("controller", "router"):
        words = (
            "patch",
            f"deployment/headgate-{part}",
            "--type=strategic",
            "-p",
            yaml.safe_dump(patch(part, environment(place))),
        )
        place.kubectl(*words)


@pytest.mark.parametrize("apply", [by_overlay, by_file], ids=["kubectl apply -k", "kubectl apply -f install.yaml"])
def test_an_endpoint_answers_after(apply: Any, place: Installation) -> None:
    place.write("hello")
    place.push("first")
    apply(place, f"git://git.{NAMESPACE}:9418/endpoints.git")
    within(ANSWERS_S, lambda: place.get("onlineendpoint", "greet"), "the endpoint is shown")
    place.kubectl("wait", "--for=condition=Ready", "onlineendpoint/greet", "--timeout=110s")
    place.kubectl("rollout", "status", "deployment/headgate-router", "--timeout=110s")
    key = within(20, place.key, "the endpoint has a key")
    with place.forward("svc/headgate-router", "http") as port:
        assert ask(port, key) == (200, b'{"said": "hello", "to": "ada"}')

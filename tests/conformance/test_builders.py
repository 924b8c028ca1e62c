"""Every installed builder builds once, and nothing half."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

import ports
import registryserver
from headgate import plugins
from headgate.target import SourcePath
from headgate.testing import BUILDER, BuilderCase, Check, Wait, deployment
from headgate_kit.layout import DataFolder

BUILDERS = plugins.load("headgate.builder")
REGISTRY = shutil.which("docker-registry")


def test_every_installed_builder_is_held_to_its_promises() -> None:
    assert (set(BUILDERS.adapters), BUILDERS.findings) == ({"bundle", "oci"}, ())


def case(name: str, folder: Path) -> BuilderCase:
    code = folder / "files/endpoints/fraud/code"
    code.mkdir(parents=True)
    (code / "score.py").write_text("def init(): ...\ndef run(data): return data\n")
    (folder / "outside").mkdir()
    (folder / "outside/score.py").write_text("")
    source = replace(deployment("blue").source, code=SourcePath("endpoints/fraud/code", "1" * 40))
    builder = BUILDERS.adapters[name](DataFolder(folder / "data"))
    return BuilderCase(builder, source, folder / "files", folder / "build.log")


@contextmanager
def docker_registry(folder: Path, wait: Wait) -> Iterator[str]:
    """The registry most others are made of."""
    assert REGISTRY is not None
    with (folder / "registry.log").open("wb") as log, ports.held() as port:
        host = f"127.0.0.1:{port}"
        settings = f"{{version: 0.1, storage: {{filesystem: {{rootdirectory: {folder}}}}}, http: {{addr: '{host}'}}}}"
        (folder / "registry.yml").write_text(settings)
        running = subprocess.Popen([REGISTRY, "serve", str(folder / "registry.yml")], stdout=log, stderr=log)
        try:
            wait(lambda: running.poll() is not None or _answers(host))
            assert running.poll() is None, (folder / "registry.log").read_text()
            yield host
        finally:
            running.terminate()
            running.wait(10)


def _answers(host: str) -> bool:
    try:
        return httpx.get(f"http://{host}/v2/", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("check", BUILDER, ids=str)
def test_the_bundle_builder(check: Check[BuilderCase], tmp_path: Path) -> None:
    check(case("bundle", tmp_path))


@pytest.mark.parametrize("check", BUILDER, ids=str)
def test_the_image_builder(check: Check[BuilderCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registryserver.running() as server:
        registryserver.set_up(server.host, monkeypatch)
        check(case("oci", tmp_path))


@pytest.mark.skipif(
    REGISTRY is None, reason="docker-registry is not installed; Debian: apt-get install docker-registry"
)
@pytest.mark.parametrize("check", BUILDER, ids=str)
def test_the_image_builder_on_a_registry_of_the_world(
    check: Check[BuilderCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    with docker_registry(tmp_path, wait) as host:
        registryserver.set_up(host, monkeypatch)
        check(case("oci", tmp_path))

"""Every installed engine runs workflows once, to their end, or until they are stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hera.workflows import Container, Workflow

from argoplayer import Player, server_writes
from headgate import plugins
from headgate.testing import ENGINE, Check, EngineCase, Wait
from headgate_kit.layout import DataFolder
from headgate_pipelines.engines.settings import OpSettings
from kubelet import Kubelet
from kubeserver import KubeServer

ENGINES = plugins.load("headgate.engine")


@contextmanager
def local(folder: Path) -> Iterator[Any]:
    yield ENGINES.adapters["local"](DataFolder(folder))


@contextmanager
def pods(folder: Path) -> Iterator[Any]:
    """On an API server of ours, whose pods are processes. On a real one: tests/e2e/cluster."""
    with KubeServer() as server:
        kubelet = Kubelet(server, folder / "pods")
        yield ENGINES.adapters["pods"](
            DataFolder(folder), cluster=server.cluster(), settings=OpSettings(image="python")
        )
        kubelet.close()


@contextmanager
def argo(folder: Path) -> Iterator[Any]:
    """On an API server of ours, with a player of phases for a workflow controller."""
    with KubeServer() as server:
        player = Player(server.cluster(), server_writes(server))
        yield ENGINES.adapters["argo"](DataFolder(folder), cluster=server.cluster(), settings=OpSettings())
        player.close()


MADE: Mapping[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "argo": argo,
    "local": local,
    "pods": pods,
}


def test_every_installed_engine_is_held_to_its_promises() -> None:
    assert (set(ENGINES.adapters), ENGINES.findings) == (set(MADE), ())


def runs(name: str, code: str) -> Mapping[str, Any]:
    with Workflow(name=name, entrypoint="main") as workflow:
        Container(name="main", image="python", command=["python", "-c", code])
    return dict(workflow.to_dict())


@pytest.fixture(params=sorted(MADE))
def case(request: pytest.FixtureRequest, tmp_path: Path, wait: Wait) -> Iterator[EngineCase]:
    with MADE[request.param](tmp_path / "data") as engine:
        engine.start()
        yield EngineCase(
            engine,
            good=lambda name: runs(name, "print('hello')"),
            bad=lambda name: runs(name, "raise SystemExit(3)"),
            endless=lambda name: runs(name, "import time; time.sleep(600)"),
            wait=wait,
        )
        engine.close()


@pytest.mark.parametrize("check", ENGINE, ids=str)
def test_an_engine(check: Check[EngineCase], case: EngineCase) -> None:
    check(case)

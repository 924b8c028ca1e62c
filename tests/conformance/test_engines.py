"""Every installed engine runs workflows once, to their end, or until they are stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hera.workflows import Container, Workflow

from headgate import plugins
from headgate.testing import ENGINE, Check, EngineCase, Wait
from headgate_kit.layout import DataFolder

ENGINES = plugins.load("headgate.engine")


def test_every_installed_engine_is_held_to_its_promises() -> None:
    assert (set(ENGINES.adapters), ENGINES.findings) == ({"local"}, ())


def runs(name: str, code: str) -> Mapping[str, Any]:
    with Workflow(name=name, entrypoint="main") as workflow:
        Container(name="main", image="python", command=["python", "-c", code])
    return dict(workflow.to_dict())


@pytest.fixture(params=sorted(ENGINES.adapters))
def case(request: pytest.FixtureRequest, tmp_path: Path, wait: Wait) -> Iterator[EngineCase]:
    engine = ENGINES.adapters[request.param](DataFolder(tmp_path / "data"))
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

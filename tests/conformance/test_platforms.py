"""Every installed platform that needs no cluster keeps its promises, with real replicas of a small scoring script."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate import plugins
from headgate.testing import PLATFORM, Check, PlatformCase, Wait, deployment
from headgate.workload import Artifact, Workload
from headgate_kit import child
from headgate_kit.layout import DataFolder
from headgate_serving.servers.score import ScoreServer

PLATFORMS = plugins.load("headgate.platform")
ELSEWHERE = {"kubernetes"}  # needs a cluster: test_kubernetes_platform.py


def test_every_installed_platform_is_held_to_its_promises() -> None:
    assert (set(PLATFORMS.adapters), PLATFORMS.findings) == ({"process"} | ELSEWHERE, ())


def bundle(folder: Path) -> Artifact:
    (folder / "code/src").mkdir(parents=True)
    (folder / "code/src/score.py").write_text("def init(): ...\ndef run(data): return 1\n")
    (folder / "bundle.json").write_text(json.dumps({"code": "code/src", "scoring_script": "score.py"}))
    return Artifact("d", str(folder))


@pytest.fixture(params=sorted(set(PLATFORMS.adapters) - ELSEWHERE))
def case(request: pytest.FixtureRequest, tmp_path: Path, wait: Wait) -> Iterator[PlatformCase]:
    data = DataFolder(tmp_path / "data")
    data.prepare()
    launch = ScoreServer(sys.executable).launch(deployment("blue"), bundle(tmp_path / "bundle"))
    platform = PLATFORMS.adapters[request.param](data)
    platform.start()
    yield PlatformCase(platform, lambda revision: Workload("fraud", "blue", revision, 1, launch), wait)
    for revision in {r.revision for r in platform.observe("fraud")}:
        platform.remove("fraud", revision)
    platform.close()
    for lock in data.replicas.rglob("lock"):
        child.stop(lock.parent, grace_s=0)


@pytest.mark.parametrize("check", PLATFORM, ids=str)
def test_a_platform(check: Check[PlatformCase], case: PlatformCase) -> None:
    check(case)

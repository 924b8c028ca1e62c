"""Every installed builder builds once, and nothing half."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headgate import plugins
from headgate.target import SourcePath
from headgate.testing import BUILDER, BuilderCase, Check, deployment
from headgate_kit.layout import DataFolder

BUILDERS = plugins.load("headgate.builder")


def test_every_installed_builder_is_held_to_its_promises() -> None:
    assert (set(BUILDERS.adapters), BUILDERS.findings) == ({"bundle"}, ())


@pytest.mark.parametrize("check", BUILDER, ids=str)
@pytest.mark.parametrize("name", sorted(BUILDERS.adapters))
def test_a_builder(name: str, check: Check[BuilderCase], tmp_path: Path) -> None:
    code = tmp_path / "files/endpoints/fraud/code"
    code.mkdir(parents=True)
    (code / "score.py").write_text("def init(): ...\ndef run(data): return data\n")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/score.py").write_text("")
    source = replace(deployment("blue").source, code=SourcePath("endpoints/fraud/code", "1" * 40))
    builder = BUILDERS.adapters[name](DataFolder(tmp_path / "data"))
    check(BuilderCase(builder, source, tmp_path / "files", tmp_path / "build.log"))

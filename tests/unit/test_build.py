"""The work of the op `build`: what is fetched, what is reported."""

from __future__ import annotations

import dataclasses
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headgate import codec
from headgate.findings import TerminalError, TransientError
from headgate.process import CatalogueSource
from headgate.target import EnvironmentPin, Source, SourcePath
from headgate_kit.catalogue import open_catalogue
from headgate_kit.layout import DataFolder
from headgate_pipelines import build

Fetch = Callable[[str, Path], None]
SOURCE = Source("score", None, SourcePath("e/src", "c" * 40), "score.py", EnvironmentPin("", ()), {}, "/score", "")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    monkeypatch.setenv("HEADGATE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("HEADGATE_BUILDER", raising=False)
    return DataFolder(tmp_path / "data")


def work(*revisions: str) -> dict[str, Any]:
    builds = [
        {"revision": r, "source": codec.to_data(SOURCE), "files_url": f"/sources/fraud/{r}.tar"} for r in revisions
    ]
    return {"builds": builds, "interpreters": {}}


def sends(**files: str) -> tuple[Fetch, list[str]]:
    """A control API that sends these files; and what it was asked for."""
    asked: list[str] = []

    def fetch(url: str, into: Path) -> None:
        asked.append(url)
        with tarfile.open(into, "w") as archive:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))

    return fetch, asked


def test_what_is_built_is_reported_and_the_scratch_is_gone(data: DataFolder) -> None:
    fetch, asked = sends(**{"e/src/score.py": "x"})
    result = build.perform(work("r1"), fetch=fetch)
    artifact = result["artifacts"]["r1"]
    assert (Path(artifact["location"]) / "code/src/score.py").read_text() == "x"
    assert asked == ["/sources/fraud/r1.tar"]
    assert list(data.sources.iterdir()) == []


def test_what_was_built_before_is_not_fetched_again(data: DataFolder) -> None:
    fetch, asked = sends(**{"e/src/score.py": "x"})
    result = build.perform(work("r1", "r2"), fetch=fetch)
    assert build.perform(work("r1"), fetch=fetch)["artifacts"]["r1"] == result["artifacts"]["r2"]
    assert len(asked) == 1


def test_what_cannot_be_built_is_reported_as_a_finding(data: DataFolder) -> None:
    fetch, _ = sends(**{"e/src/other.py": "x"})
    failed = build.perform(work("r1", "r2"), fetch=fetch)["failed"]
    assert list(failed) == ["r1"]
    assert failed["r1"]["code"] == "scoring-script-missing"
    assert set(failed["r1"]) >= {"code", "message", "why", "fix", "place"}


def test_an_archive_that_leads_out_of_its_folder_is_refused(data: DataFolder, tmp_path: Path) -> None:
    fetch, _ = sends(**{"../../evil": "x"})
    failed = build.perform(work("r1"), fetch=fetch)["failed"]
    assert failed["r1"]["code"] == "source-refused"
    assert not list(tmp_path.rglob("evil"))


def test_more_than_the_limit_is_refused(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SOURCE_LIMIT", 3)
    fetch, _ = sends(**{"e/src/score.py": "long"})
    assert "more than 3 bytes" in build.perform(work("r1"), fetch=fetch)["failed"]["r1"]["message"]


def test_trouble_while_fetching_leaves_no_scratch(data: DataFolder) -> None:
    def fetch(url: str, into: Path) -> None:
        into.write_bytes(b"half")
        raise TransientError("gone")

    with pytest.raises(TransientError):
        build.perform(work("r1"), fetch=fetch)
    assert list(data.sources.iterdir()) == []


def test_a_builder_nobody_installed_is_said_by_name(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_BUILDER", "kaniko")
    with pytest.raises(TerminalError, match="no builder named kaniko is installed; there are: bundle"):
        build.perform(work(), fetch=sends()[0])


def test_without_a_data_folder_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADGATE_DATA", raising=False)
    with pytest.raises(TerminalError, match="HEADGATE_DATA is not set"):
        build.perform({}, fetch=sends()[0])


def test_a_model_of_a_catalogue_is_fetched_once_for_all_that_ask_for_it(data: DataFolder, tmp_path: Path) -> None:
    (tmp_path / "models/churn/7/sub").mkdir(parents=True)
    (tmp_path / "models/churn/7/sub/m.pkl").write_text("weights")
    declared = CatalogueSource("folder", str(tmp_path / "models"))
    pin = open_catalogue("lake", declared, tmp_path).pin("azureml:churn@latest")
    fetch, _ = sends(**{"e/src/score.py": "x"})
    asked = work("r1", "r2")
    for one, variable in zip(asked["builds"], "ab", strict=True):
        one["source"] = codec.to_data(dataclasses.replace(SOURCE, model=pin, variables={"WHO": variable}))
    asked["catalogues"] = {"lake": codec.to_data(declared)}
    first = build.perform({**asked, "builds": asked["builds"][:1]}, fetch=fetch)["artifacts"]["r1"]
    shutil.rmtree(tmp_path / "models")
    second = build.perform(asked, fetch=fetch)["artifacts"]["r2"]
    for made in (first, second):
        assert (Path(made["location"]) / "models/churn/7/sub/m.pkl").read_text() == "weights"
    assert first["location"] != second["location"]


def test_a_model_that_is_not_what_was_pinned_fails_the_build(data: DataFolder, tmp_path: Path) -> None:
    (tmp_path / "models/churn/7").mkdir(parents=True)
    (tmp_path / "models/churn/7/m.pkl").write_text("weights")
    declared = CatalogueSource("folder", str(tmp_path / "models"))
    pin = open_catalogue("lake", declared, tmp_path).pin("azureml:churn:7")
    (tmp_path / "models/churn/7/m.pkl").write_text("other weights")
    fetch, _ = sends(**{"e/src/score.py": "x"})
    asked = {**work("r1"), "catalogues": {"lake": codec.to_data(declared)}}
    asked["builds"][0]["source"] = codec.to_data(dataclasses.replace(SOURCE, model=pin))
    failed = build.perform(asked, fetch=fetch)["failed"]["r1"]
    assert failed["code"] == "model-changed"
    assert not list(data.sources.iterdir())

"""The work of the op `build`: what is fetched, what is reported."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headgate import codec
from headgate.findings import TerminalError, TransientError
from headgate.target import EnvironmentPin, Source, SourcePath
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

"""Bundles and environments as the local platform serves them: real files, real uv, a wheel made on the spot."""

from __future__ import annotations

import base64
import errno
import hashlib
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headgate.findings import SpecError, TransientError
from headgate.target import EnvironmentPin, ModelPin, Source, SourcePath
from headgate.workload import Artifact
from headgate_kit.files import read_json
from headgate_kit.layout import DataFolder
from headgate_pipelines.builders.bundle import BundleBuilder
from headgate_pipelines.builders.installer import OURS

CODE = SourcePath("endpoints/fraud/src", "c" * 40)
MODEL = ModelPin("fraud", "3", SourcePath("endpoints/fraud/models/blue.txt", "d" * 40))


def source(**changes: Any) -> Source:
    plain = Source("score", MODEL, CODE, "score.py", EnvironmentPin("", ()), {}, "/score", "small")
    return replace(plain, **changes)


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What the control API sends: the source's files, paths as in the repo."""
    root = tmp_path / "files"
    (root / "endpoints/fraud/src/lib").mkdir(parents=True)
    (root / "endpoints/fraud/src/score.py").write_text("def init(): ...\n")
    (root / "endpoints/fraud/src/lib/more.py").write_text("x = 1\n")
    (root / "endpoints/fraud/models").mkdir()
    (root / "endpoints/fraud/models/blue.txt").write_text("weights")
    return root


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "build.log"


@pytest.fixture
def wheel(tmp_path: Path) -> str:
    """A requirement that needs no index."""
    name = "headgate_greeting-1.0"
    place = tmp_path / f"{name}-py3-none-any.whl"
    content = {
        "headgate_greeting.py": b"WORD = 'hello'\n",
        f"{name}.dist-info/METADATA": b"Metadata-Version: 2.1\nName: headgate-greeting\nVersion: 1.0\n",
        f"{name}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},sha256={_hash(data)},{len(data)}" for path, data in content.items()]
    content[f"{name}.dist-info/RECORD"] = "\n".join([*rows, f"{name}.dist-info/RECORD,,", ""]).encode()
    with zipfile.ZipFile(place, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return f"headgate-greeting @ {place.as_uri()}"


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", "")


def in_threads(work: Callable[[], Artifact], count: int) -> list[Artifact]:
    found: list[Artifact] = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_bundle_has_code_model_and_a_manifest(data: DataFolder, files: Path, log: Path) -> None:
    made = BundleBuilder(data).build(source(), files, log)
    folder = Path(made.location)
    assert folder.parent == data.bundles
    assert (folder / "code/src/score.py").is_file()
    assert (folder / "code/src/lib/more.py").is_file()
    assert (folder / "models/fraud/3/blue.txt").read_text() == "weights"
    manifest = read_json(folder / "bundle.json")
    assert (manifest["code"], manifest["scoring_script"], manifest["model"]) == (
        "code/src",
        "score.py",
        "models/fraud/3",
    )
    assert made == Artifact(manifest["digest"], str(folder), "")


def test_a_registered_model_is_what_its_version_holds(data: DataFolder, files: Path, log: Path) -> None:
    (files / "catalogue/fraud/7/weights").mkdir(parents=True)
    (files / "catalogue/fraud/7/weights/w.bin").write_bytes(b"w")
    pin = ModelPin("fraud", "7", None, "catalogue/fraud/7", "e" * 64)
    made = BundleBuilder(data).build(source(model=pin), files, log)
    assert (Path(made.location) / "models/fraud/7/weights/w.bin").read_bytes() == b"w"


def test_nothing_is_built_twice(data: DataFolder, files: Path, log: Path) -> None:
    builder = BundleBuilder(data)
    assert builder.find(source()) is None
    made = builder.build(source(), files, log)
    shutil.rmtree(files)
    assert builder.build(source(), files, log) == made == builder.find(source())


def test_builders_that_race_make_one_bundle_and_one_environment(
    data: DataFolder, files: Path, log: Path, wheel: str
) -> None:
    asked = source(environment=EnvironmentPin("", (wheel,)))
    found = in_threads(lambda: BundleBuilder(data).build(asked, files, log), 4)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert log.read_text().count("headgate-greeting==1.0") == 1, "installed once"
    assert [p.name for p in data.bundles.iterdir() if not p.name.startswith(".")] == [Path(found[0].location).name]


def test_an_environment_is_shared_by_all_who_ask_for_it(data: DataFolder, files: Path, log: Path, wheel: str) -> None:
    builder, pin = BundleBuilder(data), EnvironmentPin("", (wheel,))
    one = builder.build(source(environment=pin), files, log)
    two = builder.build(source(environment=pin, variables={"A": "1"}), files, log)
    assert one.location != two.location
    assert one.environment == two.environment
    assert Path(one.environment).parent == data.environments
    code = "import headgate_greeting; print(headgate_greeting.WORD)"
    said = subprocess.run([f"{one.environment}/bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "hello\n"


def test_an_environment_that_was_half_made_does_not_count(data: DataFolder, files: Path, log: Path, wheel: str) -> None:
    asked = source(environment=EnvironmentPin("", (wheel,)))
    left = data.environments / asked.environment.digest[:32]
    (left / "bin").mkdir(parents=True)
    (left / "bin/python").write_text("half")
    builder = BundleBuilder(data)
    assert builder.find(asked) is None
    made = builder.build(asked, files, log)
    subprocess.run([f"{made.environment}/bin/python", "-c", "import headgate_greeting"], check=True)


def test_a_bundle_that_was_half_made_does_not_count(data: DataFolder, files: Path, log: Path) -> None:
    builder = BundleBuilder(data)
    whole = Path(builder.build(source(), files, log).location)
    left = data.bundles / f".{whole.name}.new-dead"
    shutil.move(whole, left)
    assert builder.find(source()) is None
    assert Path(builder.build(source(), files, log).location) == whole
    assert not left.exists()


def test_a_package_that_is_nowhere_is_a_finding_with_the_installers_words(
    data: DataFolder, files: Path, log: Path
) -> None:
    asked = source(environment=EnvironmentPin("", ("headgate-no-such-package==9",)))
    with pytest.raises(SpecError) as caught:
        BundleBuilder(data).build(asked, files, log)
    (finding,) = caught.value.findings
    assert finding.code == "environment-unresolved"
    assert "headgate-no-such-package" in finding.message
    assert "No solution found" in finding.why
    assert "No solution found" in log.read_text()
    assert not any(p.is_dir() for p in data.environments.iterdir()), "nothing half-made stays"


def test_an_interpreter_that_is_not_here_is_a_finding(data: DataFolder, files: Path, log: Path) -> None:
    with pytest.raises(SpecError) as caught:
        BundleBuilder(data).build(source(environment=EnvironmentPin("3.2", ())), files, log)
    (finding,) = caught.value.findings
    assert finding.code == "interpreter-missing"
    assert "Python 3.2 is not on this machine" in finding.message
    assert finding.why


def test_an_interpreter_named_in_the_settings_is_taken(data: DataFolder, files: Path, log: Path) -> None:
    asked = source(environment=EnvironmentPin("3.99", ()))
    with pytest.raises(SpecError, match="can't be executed"):
        BundleBuilder(data, {"3.99": "/nowhere/python"}).build(asked, files, log)
    builder = BundleBuilder(data, {"3.99": str(Path(sys.executable).resolve())})
    assert Path(builder.build(asked, files, log).environment, "bin/python").exists()


def test_our_own_version_without_packages_needs_no_environment(data: DataFolder, files: Path, log: Path) -> None:
    assert BundleBuilder(data).build(source(environment=EnvironmentPin(OURS, ())), files, log).environment == ""


def test_a_scoring_script_that_is_not_there_is_a_finding(data: DataFolder, files: Path, log: Path) -> None:
    with pytest.raises(SpecError) as caught:
        BundleBuilder(data).build(source(scoring_script="gone.py"), files, log)
    assert caught.value.findings[0].code == "scoring-script-missing"
    assert caught.value.findings[0].place.file == "endpoints/fraud/src/gone.py"


@pytest.mark.parametrize(
    "changes",
    [
        {"code": SourcePath("../../etc", "c")},
        {"code": SourcePath("/etc", "c")},
        {"model": replace(MODEL, name="..")},
        {"model": replace(MODEL, version="a/b")},
        {"scoring_script": "../../../../etc/passwd"},
    ],
    ids=["code above", "absolute", "model name", "model version", "script"],
)
def test_nothing_leads_out_of_its_folder(data: DataFolder, files: Path, log: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        BundleBuilder(data).build(source(**changes), files, log)
    assert caught.value.findings[0].code == "path-outside"


def test_a_full_disk_is_said_plainly_and_leaves_nothing(
    data: DataFolder, files: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(TransientError, match="no space left"):
        BundleBuilder(data).build(source(), files, log)
    assert [p.name for p in data.bundles.iterdir() if p.is_dir()] == []

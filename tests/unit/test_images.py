"""The script that builds the images, as far as it needs neither buildah nor docker."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from scripts import script

ROOT = Path(__file__).parents[2]
CONTAINERFILE = (ROOT / "install/images/Containerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return script("install/images/build.py")


def test_an_upper_layer_holds_nothing_that_a_lower_one_has(build: ModuleType, tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for file in ("shared/a.py", "shared/deep/b.py", "own/c.py", "headgate-1.dist-info/RECORD"):
        (upper / file).parent.mkdir(parents=True, exist_ok=True)
        (upper / file).write_text(file)
    for file in ("shared/a.py", "shared/deep/b.py", "headgate-1.dist-info/METADATA"):
        (lower / file).parent.mkdir(parents=True, exist_ok=True)
        (lower / file).write_text(file)
    build.subtract(upper, lower)
    assert sorted(str(p.relative_to(upper)) for p in upper.rglob("*") if p.is_file()) == ["own/c.py"]
    assert not (upper / "shared").exists(), "no empty folder stays"


def test_a_base_with_an_old_python_is_refused(build: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"Python 3\.9; Headgate needs 3\.11 or newer"):
        build.layers(tmp_path / "layers", "x86_64 3 9", None)


def test_a_command_that_fails_ends_the_build_with_its_own_words(build: ModuleType) -> None:
    with pytest.raises(SystemExit, match="exit 7\nthe reason"):
        build.run(["sh", "-c", "echo the reason >&2; exit 7"], {"PATH": "/usr/bin:/bin"})


def test_an_image_says_why_its_data_path_is_python(build: ModuleType) -> None:
    assert build.data_path("compiled", "") == "compiled"
    assert build.data_path("python no C compiler: `gcc` is not on the PATH", "") == (
        "python (no C compiler: `gcc` is not on the PATH)"
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        pytest.param("python no headers of Python 3.12: x", "no headers of Python 3.12: x", id="nothing was compiled"),
        pytest.param("python", "is its Python of another version", id="what was compiled is not used"),
    ],
)
def test_a_compiler_that_was_named_and_is_of_no_use_ends_the_build(build: ModuleType, said: str, why: str) -> None:
    with pytest.raises(SystemExit, match=why):
        build.data_path(said, "registry.example/compiler:1")


@pytest.mark.parametrize("name", ["router", "runner", "controller"])
def test_no_image_is_made_on_the_compiler(name: str) -> None:
    bases = {stage: source for source, stage in re.findall(r"^FROM (\S+) AS (\S+)", CONTAINERFILE, flags=re.M)}
    while name in bases:
        name = bases[name]
    assert name == "${BASE}"


@pytest.mark.parametrize("name", ["router", "runner", "controller"])
def test_an_image_is_a_stage_that_runs_as_nobody_in_particular(build: ModuleType, name: str) -> None:
    assert name in build.NAMES
    stage = re.split(r"^FROM ", CONTAINERFILE, flags=re.M)
    (own,) = [text for text in stage if re.match(rf"\S+ AS {name}\n", text)]
    users = re.findall(r"^USER (\S+)", own, flags=re.M)
    assert users[-1:] == ["10001:10001"] or not users
    assert re.search(r"^CMD \[", own, flags=re.M)

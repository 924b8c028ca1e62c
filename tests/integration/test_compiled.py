"""What `make compile` and a wheel with HEADGATE_COMPILE=1 make, and that a run that asks for it is served by it."""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from headgate_router.datapath import data_path

ROOT = Path(__file__).resolve().parents[2]
ROUTER = ROOT / "router"
MODULES: tuple[str, ...] = runpy.run_path(str(ROOT / "install/compile.py"))["MODULES"]

compiled = pytest.mark.skipif(
    os.environ.get("HEADGATE_COMPILED") != "1",
    reason="runs on what `make compile` made: `make test-compiled` (it sets HEADGATE_COMPILED=1 and PYTHONPATH)",
)


@pytest.mark.parametrize("module", MODULES)
def test_what_is_to_be_compiled_is_there(module: str) -> None:
    assert (ROUTER / f"headgate_router/{module}.py").is_file()


@pytest.mark.skipif(os.environ.get("HEADGATE_COMPILED") == "1", reason="HEADGATE_COMPILED=1: the other way round")
def test_without_being_asked_to_the_router_is_python() -> None:
    assert data_path() == "python"


@compiled
@pytest.mark.parametrize("module", MODULES)
def test_each_module_is_compiled_from_the_source_of_this_tree(module: str) -> None:
    imported = importlib.import_module(f"headgate_router.{module.replace('/', '.')}")
    assert imported.__file__ is not None
    made = Path(imported.__file__)
    assert made.suffix in (".so", ".pyd")
    source = made.parent / f"{Path(module).name}.py"
    assert source.read_bytes() == (ROUTER / f"headgate_router/{module}.py").read_bytes(), "run `make compile` again"


@compiled
def test_a_compiled_router_says_so() -> None:
    assert data_path() == "compiled"


@compiled
def test_a_compiled_router_needs_no_tool_of_the_compiler() -> None:
    assert not {"mypyc", "librt", "mypy"} & set(sys.modules)


def wheel(into: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False)


def test_a_wheel_is_for_every_machine_unless_machine_code_is_asked_for(tmp_path: Path) -> None:
    done = wheel(tmp_path, HEADGATE_COMPILE="")
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.iterdir()
    assert made.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(made).namelist() if name.endswith(".so")]


def test_a_wheel_that_cannot_have_the_machine_code_it_was_asked_for_is_not_made(tmp_path: Path) -> None:
    done = wheel(tmp_path, HEADGATE_COMPILE="1", CC="no-such-compiler")
    assert done.returncode != 0
    assert "HEADGATE_COMPILE=1: no C compiler: `no-such-compiler` is not on the PATH" in done.stderr
    assert not list(tmp_path.iterdir())


@compiled
def test_a_wheel_that_was_asked_to_has_each_module_twice_and_says_what_it_is_for(tmp_path: Path) -> None:
    done = wheel(tmp_path, HEADGATE_COMPILE="1")
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.iterdir()
    assert f"-cp{sys.version_info[0]}{sys.version_info[1]}-" in made.name
    names = zipfile.ZipFile(made).namelist()
    for module in MODULES:
        assert f"headgate_router/{module}.py" in names
        assert [name for name in names if name.startswith(f"headgate_router/{module}.") and name.endswith(".so")]

"""What `make compile` makes, and that a run that asks for it is served by it."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
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

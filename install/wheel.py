"""A step of the wheel's build: with HEADGATE_COMPILE=1 the router's data path is in it as machine code.

    HEADGATE_COMPILE=1 pip wheel --no-deps .

Such a wheel is for one version of Python on one kind of machine, and its name says so; its sources are in it too.
Without the variable, and for an editable install, it is as if this file were not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NEEDS = ("mypy>=1.13", "setuptools>=70")


class MachineCode(BuildHookInterface[Any]):
    """Refuses to build, with the reason, where it was asked for and cannot be done."""

    _scratch = ""

    def dependencies(self) -> list[str]:
        # With what the router imports: a type that the compiler does not find is a slower way through it.
        return [*NEEDS, *self.metadata.core.dependencies] if self._asked else []

    @property
    def _asked(self) -> bool:
        return os.environ.get("HEADGATE_COMPILE") == "1"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not self._asked or version == "editable":
            return
        root = Path(self.root)
        self._scratch = tempfile.mkdtemp(prefix="wheel-")
        for package in ("core/headgate", "core/headgate_kit", "router/headgate_router"):
            shutil.copytree(root / package, Path(self._scratch, Path(package).name))
        command = [sys.executable, str(root / "install/compile.py"), self._scratch]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"HEADGATE_COMPILE=1: {ended.stderr.strip() or ended.stdout.strip()}")
        for made in Path(self._scratch).rglob("*.so"):
            build_data["force_include"][str(made)] = made.relative_to(self._scratch).as_posix()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._scratch:
            shutil.rmtree(self._scratch)

"""A short temporary folder: Unix sockets below pytest's own would not fit their 104 bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hg-e2e-", dir="/tmp")).resolve()
    yield folder
    shutil.rmtree(folder)

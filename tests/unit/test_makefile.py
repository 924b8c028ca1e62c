"""What a contributor types first: the Makefile's own list of itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_target_and_each_is_phony() -> None:
    text = (ROOT / "Makefile").read_text()
    told = re.findall(r"^([\w-]+):.*## ", text, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert set(told) <= set(phony[1].split())
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([\w-]+) ", shown, re.MULTILINE) == told

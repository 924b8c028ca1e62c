"""The numbers of a benchmark, kept: one flat file each, with the machine they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def keep(benchmark: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces these numbers in `results/<benchmark>.json`, leaves the others, and answers all of them."""
    file = RESULTS / f"{benchmark}.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    known |= found
    known["machine"] = {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }
    file.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    return known

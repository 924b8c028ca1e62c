"""What lies where for a replica, as Azure's storage-initializer log tells it; and what is missing."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from headgate_serving.settings import Bundle, ServeSettings


def placed(settings: ServeSettings, bundle: Bundle, log: TextIO) -> str:
    """Writes one line per thing; returns what is missing, empty when the bundle is whole."""
    root = Path(settings.bundle)
    things = {"code": root / bundle.code, "scoring script": root / bundle.code / bundle.scoring_script}
    if bundle.model:
        things["model"] = root / bundle.model
    things["interpreter"] = Path(settings.interpreter)
    missing = ""
    for name, path in things.items():
        there = path.exists()
        line(log, f"{name}: {path}" + (f", {size(path)} bytes" if there and name != "interpreter" else ""))
        if not there:
            missing = missing or f"the {name} is not there: {path}"
            line(log, f"{name}: missing")
    line(log, f"environment: {settings.environment or 'Headgate’s own'}")
    return missing


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        os.stat(os.path.join(folder, name), follow_symlinks=False).st_size
        for folder, _, names in os.walk(path)
        for name in names
    )


def line(log: TextIO, text: str) -> None:
    log.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds').replace('+00:00', 'Z')} {text}\n")

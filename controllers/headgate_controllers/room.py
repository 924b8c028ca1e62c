"""Whether the data folder has room to go on. Looks when it is asked, and frees nothing: that is for a person to say."""

from __future__ import annotations

import os
from pathlib import Path

from headgate.findings import Finding, Place

NEEDED = 16 * 1024 * 1024  # bytes: a rollout's record, evidence and start-up of replicas; bundles come on top


def room(folder: Path) -> tuple[Finding, ...]:
    """A finding while less than `NEEDED` is left; empty: there is room."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free >= NEEDED:
        return ()
    return (
        Finding(
            code="disk-full",
            message=f"{free // 1024:,} KiB are left in the data folder",
            why="nothing new can be recorded or started; callers are answered, and what was recorded is whole",
            fix="free some space: it goes on by itself",
            place=Place(str(folder)),
        ),
    )

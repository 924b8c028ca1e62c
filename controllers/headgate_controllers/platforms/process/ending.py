"""Takes replicas out of service: first out of sight, then drained, then killed, then removed with their last logs kept.

A replica to be ended is moved to `.ending` in one rename: from then on it belongs to nobody else, a new replica of its
name may start beside it, and a controller that is killed finds it there and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from headgate_controllers.platforms.process.folder import LOGS, read_address
from headgate_kit import child

log = logging.getLogger(__name__)
OUT_OF_SIGHT_S = 2.0  # routers learn within an exchange (1 s) that a replica that may still be routed to goes away
DRAIN_S = 40.0  # after SIGTERM: above the front's own limit for requests in flight
KEPT_LOGS = 20  # folders of ended replicas
POLL_S = 0.1


def set_aside(folder: Path, root: Path) -> Path | None:
    """Moves a replica's folder under `.ending`. None: it was not there."""
    name = f"{folder.parent.parent.name}@{folder.parent.name}@{folder.name}@{time.time_ns():x}"
    target = root / ".ending" / name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return folder.rename(target)
    except FileNotFoundError:
        return None


async def end(folder: Path, *, linger: bool) -> None:
    """Drains and removes a replica that was set aside. May be interrupted and begun again.

    Args:
        linger: it may still be in a route table.
    """
    if linger and read_address(folder):
        await asyncio.sleep(OUT_OF_SIGHT_S)
    await _until_ended(folder, signal.SIGTERM, DRAIN_S)
    await _until_ended(folder, signal.SIGKILL, DRAIN_S)
    await asyncio.to_thread(_remove, folder)


async def _until_ended(folder: Path, number: signal.Signals, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    sent = False
    while isinstance(child.state(folder), child.Running) and time.monotonic() < deadline:
        sent = sent or child.send(folder, number)
        await asyncio.sleep(POLL_S)


def _remove(folder: Path) -> None:
    kept = folder.parent.parent / ".ended" / folder.name
    with suppress(FileNotFoundError):  # interrupted before: half of it is gone already
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in LOGS:
            if (folder / name).exists():
                os.replace(folder / name, kept / name)
        child.reset(folder)
        shutil.rmtree(folder)
    _prune(kept.parent)


def _prune(ended: Path) -> None:
    by_age = sorted(ended.iterdir(), key=lambda p: p.name.rpartition("@")[2])
    for old in by_age[:-KEPT_LOGS]:
        shutil.rmtree(old, ignore_errors=True)

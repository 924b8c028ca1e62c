"""The keys of token issuers as last fetched, on disk: for a worker that starts while an issuer is away.

Public keys only. Refuses what is older than a day: an issuer that withdrew a key in the meantime could not say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate import codec
from headgate.findings import TransientError
from headgate_kit.files import write_atomic

log = logging.getLogger("headgate.router")

MAX_AGE_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Kept:
    at: float  # wall clock, when they were fetched
    keys: Sequence[Mapping[str, Any]]  # JWKs


class KeyFile:
    """Not thread-safe: one event loop. `file`: None: nothing is kept."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._kept = _read(file)
        self._writing = asyncio.Lock()

    def keys(self, name: str, now: float) -> Sequence[Mapping[str, Any]]:
        """Of an issuer; (): none are kept, or they are too old."""
        kept = self._kept.get(name)
        return kept.keys if kept is not None and now - kept.at <= MAX_AGE_S else ()

    async def keep(self, name: str, keys: Sequence[Mapping[str, Any]], now: float, known: Collection[str]) -> None:
        """Writes them beside the event loop, and drops all that are not of a `known` issuer."""
        if self._file is None:
            return
        self._kept = {key: kept for key, kept in self._kept.items() if key in known} | {name: Kept(now, keys)}
        async with self._writing:
            await asyncio.to_thread(_write, self._file, dict(self._kept))


def _read(file: Path | None) -> dict[str, Kept]:
    """Nothing when there is nothing that can be read: the issuers will say."""
    if file is None or not file.exists():
        return {}
    try:
        return codec.decode(dict[str, Kept], file.read_bytes())
    except (OSError, codec.CodecError) as error:
        log.warning("the issuers' keys on disk cannot be read: %s", error)
        return {}


def _write(file: Path, kept: Mapping[str, Kept]) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, codec.canonical(kept))
    except (OSError, TransientError) as error:  # serving goes on; only a start without the issuer suffers
        log.error("the issuers' keys were not saved: %s", error)

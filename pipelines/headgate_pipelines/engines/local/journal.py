"""The engine's own file: which workflows there are and how far each has come. SQLite, durable before anything is done.

Refuses nothing and decides nothing. A name is kept for ever, so that a workflow which was collected is not run again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from headgate import codec
from headgate_kit.files import open_database
from headgate_pipelines.engines.local.state import Phase, RunState

SCHEMA = """
CREATE TABLE IF NOT EXISTS workflow (
    name TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    document TEXT NOT NULL,
    state TEXT NOT NULL,
    phase TEXT NOT NULL,
    stop INTEGER NOT NULL DEFAULT 0,
    submitted_at REAL NOT NULL,
    collected INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS running ON workflow (phase) WHERE phase = 'Running';
"""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    document: Mapping[str, Any]
    state: RunState
    stop: bool  # somebody asked for its end


class Journal:
    """Safe from several threads."""

    def __init__(self, path: Path) -> None:
        self._database = open_database(path)
        self._lock = threading.Lock()
        with self._lock:
            self._database.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def add(self, name: str, endpoint: str, document: Mapping[str, Any], now: float) -> bool:
        """False: one of that name is known already, and is left as it is."""
        values = (name, endpoint, _json(document), _json(RunState(now)), Phase.RUNNING, now)
        with self._lock:
            cursor = self._database.execute(
                "INSERT OR IGNORE INTO workflow (name, endpoint, document, state, phase, submitted_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
            return cursor.rowcount == 1

    def write(self, name: str, state: RunState) -> None:
        with self._lock:
            self._database.execute(
                "UPDATE workflow SET state = ?, phase = ? WHERE name = ?", (_json(state), state.phase, name)
            )

    def ask_stop(self, name: str) -> bool:
        """False: it is unknown or has ended."""
        with self._lock:
            cursor = self._database.execute(
                "UPDATE workflow SET stop = 1 WHERE name = ? AND phase = ?", (name, Phase.RUNNING)
            )
            return cursor.rowcount == 1

    def state(self, name: str) -> RunState | None:
        with self._lock:
            found = self._database.execute("SELECT state FROM workflow WHERE name = ?", (name,)).fetchone()
        return codec.decode(RunState, found[0]) if found else None

    def running(self) -> list[Row]:
        """Oldest first."""
        with self._lock:
            rows = self._database.execute(
                "SELECT name, document, state, stop FROM workflow WHERE phase = ? ORDER BY submitted_at, name",
                (Phase.RUNNING,),
            ).fetchall()
        return [
            Row(name, msgspec.json.decode(document), codec.decode(RunState, state), bool(stop))
            for name, document, state, stop in rows
        ]

    def outlived(self, kept: int) -> list[str]:
        """Finished workflows beyond the newest `kept` of their endpoint whose attempts' traces are still there."""
        with self._lock:
            rows = self._database.execute(
                "SELECT name FROM (SELECT name, collected, row_number() OVER"
                " (PARTITION BY endpoint ORDER BY submitted_at DESC, name DESC) AS place"
                " FROM workflow WHERE phase != ?) WHERE place > ? AND NOT collected",
                (Phase.RUNNING, kept),
            ).fetchall()
        return [name for (name,) in rows]

    def collect(self, name: str) -> None:
        """Its traces are gone; what stays is its name and how it ended."""
        with self._lock:
            self._database.execute("UPDATE workflow SET collected = 1, document = '{}' WHERE name = ?", (name,))


def _json(value: Any) -> str:
    return codec.canonical(value).decode()

"""The record in one SQLite file: heads by compare-and-swap, events, looks, evidence by digest. One process writes.

WAL with synchronous=FULL: what was acknowledged is there after a power cut. A full disk is said in plain words and
leaves the last committed state; nothing here decides anything, and no secret value comes here.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headgate import codec
from headgate.evidence import Look
from headgate.findings import ConflictError, TerminalError, TransientError
from headgate.rollout import Event, Head
from headgate_kit.files import DiskFull, open_database

SCHEMA_VERSION = 1
KEPT_EVENTS = 1_000  # of an endpoint
KEPT_ROLLOUTS = 20  # of an endpoint: their looks and their stored outcome
KEPT_BOOTS = 200  # of router workers: a batch is sent again for seconds, not for days
ROLLOUT_KEY = "rollout:"  # meta keys that end with a rollout's id and go with it
EVENT_COLUMNS = "id, at, endpoint, kind, message, rollout, op, data"

_SCHEMA = """
CREATE TABLE head (endpoint TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, endpoint TEXT NOT NULL, kind TEXT NOT NULL,
                    message TEXT NOT NULL, rollout TEXT NOT NULL, op TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX event_endpoint ON event (endpoint, id);
CREATE INDEX event_rollout ON event (rollout) WHERE rollout != '';
CREATE TABLE look (id INTEGER PRIMARY KEY AUTOINCREMENT, rollout TEXT NOT NULL, op TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX look_op ON look (rollout, op, id);
CREATE TABLE received (worker TEXT NOT NULL, boot TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (worker, boot));
CREATE TABLE evidence (digest TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class SqliteRecord:
    """`headgate.ports.Record` and what else the controller keeps. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Raises TerminalError: not a record, damaged, or written by a newer Headgate; DiskFull; TransientError."""
        self._path = path
        self._lock = threading.RLock()
        with self._plainly():
            self._database = open_database(path)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # --- the port ------------------------------------------------------------------------------------------------

    def load(self, endpoint: str) -> tuple[Head, int]:
        rows = self._rows("SELECT body, version FROM head WHERE endpoint = ?", endpoint)
        return (codec.decode(Head, rows[0][0]), int(rows[0][1])) if rows else (Head(endpoint), 0)

    def commit(self, endpoint: str, head: Head, events: Sequence[Event], expect: int) -> int:
        body = codec.canonical(head).decode()
        with self.transaction() as database:
            if expect == 0:
                done = database.execute("INSERT OR IGNORE INTO head VALUES (?, 1, ?)", (endpoint, body))
            else:
                done = database.execute(
                    "UPDATE head SET body = ?, version = version + 1 WHERE endpoint = ? AND version = ?",
                    (body, endpoint, expect),
                )
            if done.rowcount != 1:
                raise ConflictError(f"the record of {endpoint} is no longer at version {expect}")
            self._add_events(database, events)
        return expect + 1

    def adopt(self, endpoint: str, head: Head, version: int) -> None:
        """A head that was kept elsewhere, instead of ours: it is newer."""
        with self.transaction() as database:
            body = codec.canonical(head).decode()
            database.execute("INSERT OR REPLACE INTO head VALUES (?, ?, ?)", (endpoint, version, body))

    def put(self, evidence: bytes) -> str:
        digest = hashlib.sha256(evidence).hexdigest()
        with self.transaction() as database:
            database.execute("INSERT OR IGNORE INTO evidence VALUES (?, ?)", (digest, zlib.compress(evidence)))
        return digest

    def get(self, digest: str) -> bytes:
        """Raises KeyError when there is no evidence of that digest."""
        rows = self._rows("SELECT body FROM evidence WHERE digest = ?", digest)
        if not rows:
            raise KeyError(digest)
        return zlib.decompress(rows[0][0])

    # --- the rest of what the controller remembers -----------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything written inside is there afterwards, or nothing is. One inside another is part of the outer one.

        Raises:
            DiskFull: nothing was written.
            TransientError: another process holds the file.
        """
        with self._lock, self._plainly():
            if self._database.in_transaction:
                yield self._database
                return
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._database.execute("ROLLBACK")
                raise

    def heads(self) -> list[tuple[str, Head, int]]:
        """Every endpoint that was ever committed: its name, head and version, by name."""
        rows = self._rows("SELECT endpoint, body, version FROM head ORDER BY endpoint")
        return [(endpoint, codec.decode(Head, body), version) for endpoint, body, version in rows]

    def events(
        self, endpoint: str | None = None, *, after: int = 0, limit: int = KEPT_EVENTS, kind: str = ""
    ) -> list[tuple[int, Event]]:
        """Events with their ids, oldest first: the newest `limit`, or with `after` the first ones past that id."""
        order = "ASC" if after else "DESC"
        rows = self._rows(
            f"SELECT {EVENT_COLUMNS} FROM event WHERE id > ? AND (? IS NULL OR endpoint = ?) AND (? = '' OR kind = ?)"
            f" ORDER BY id {order} LIMIT ?",
            *(after, endpoint, endpoint, kind, kind, limit),
        )
        return [_event(*row) for row in (rows if after else reversed(rows))]

    def received(self, worker: str, boot: str) -> int:
        """The highest sequence stored of one boot of a router worker; 0: none."""
        rows = self._rows("SELECT sequence FROM received WHERE worker = ? AND boot = ?", worker, boot)
        return int(rows[0][0]) if rows else 0

    def receive(self, worker: str, boot: str, sequence: int, looks: Mapping[tuple[str, str], Sequence[Look]]) -> int:
        """Stores the looks (by rollout and op) of one exchange, once: one already received changes nothing.

        Returns the highest sequence stored.
        """
        with self.transaction() as database:
            known = self.received(worker, boot)
            if sequence <= known:
                return known
            database.execute("INSERT OR REPLACE INTO received VALUES (?, ?, ?)", (worker, boot, sequence))
            for (rollout, op), found in looks.items():
                self.add_looks(rollout, op, found)
        return sequence

    def add_looks(self, rollout: str, op: str, looks: Sequence[Look]) -> None:
        rows = [(rollout, op, zlib.compress(codec.canonical(look), 1)) for look in looks]
        with self.transaction() as database:
            database.executemany("INSERT INTO look (rollout, op, body) VALUES (?, ?, ?)", rows)

    def looks(self, rollout: str, op: str) -> list[Look]:
        """In the order they were received."""
        rows = self._rows("SELECT body FROM look WHERE rollout = ? AND op = ? ORDER BY id", rollout, op)
        return [codec.decode(Look, zlib.decompress(row[0])) for row in rows]

    def meta_get(self, key: str) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0][0]) if rows else None

    def meta_set(self, key: str, value: str) -> None:
        with self.transaction() as database:
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def collect(self, *, keep_events: int = KEPT_EVENTS, keep_rollouts: int = KEPT_ROLLOUTS) -> None:
        """Forgets the oldest events of each endpoint, and everything stored for rollouts of long ago."""
        kept = f"SELECT rollout FROM ({_NEWEST_ROLLOUTS}) WHERE place <= {int(keep_rollouts)}"
        # One that ended is stored; one whose events are all forgotten is known by that alone.
        ended = f"SELECT substr(key, {len(ROLLOUT_KEY) + 1}) FROM meta WHERE key GLOB '{ROLLOUT_KEY}*'"
        known = f"SELECT rollout FROM event WHERE rollout != '' UNION {ended}"
        with self.transaction() as database:
            database.execute(f"DELETE FROM look WHERE rollout IN ({known}) AND rollout NOT IN ({kept})")
            database.execute(
                f"DELETE FROM meta WHERE key GLOB '{ROLLOUT_KEY}*'"
                f" AND substr(key, {len(ROLLOUT_KEY) + 1}) NOT IN ({kept})"
            )
            database.execute(
                f"DELETE FROM event WHERE id IN (SELECT id FROM ({_NUMBERED_EVENTS}) WHERE place > ?)", (keep_events,)
            )
            database.execute(
                "DELETE FROM received WHERE rowid NOT IN (SELECT rowid FROM received ORDER BY rowid DESC LIMIT ?)",
                (KEPT_BOOTS,),
            )

    # --- inside ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise TerminalError(f"{self._path} was written by a newer Headgate (schema {version}); install that one")
        if version == 0:
            with self.transaction() as database:
                for statement in _SCHEMA.split(";\n"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock, self._plainly():
            return self._database.execute(query, values).fetchall()

    def _add_events(self, database: sqlite3.Connection, events: Sequence[Event]) -> None:
        rows = [
            (e.at, e.endpoint, e.kind, e.message, e.rollout, e.op, codec.canonical(dict(e.data)).decode())
            for e in events
        ]
        columns = EVENT_COLUMNS.removeprefix("id, ")
        database.executemany(f"INSERT INTO event ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """SQLite's errors as ours, which say who must act."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise DiskFull(self._path) from error
            raise TransientError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise TerminalError(
                f"{self._path} is not a record or is damaged ({error}); move it away to start from what git says"
            ) from error


_NEWEST_ROLLOUTS = (
    "SELECT rollout, ROW_NUMBER() OVER (PARTITION BY endpoint ORDER BY MAX(id) DESC) AS place"
    " FROM event WHERE rollout != '' GROUP BY endpoint, rollout"
)
_NUMBERED_EVENTS = "SELECT id, ROW_NUMBER() OVER (PARTITION BY endpoint ORDER BY id DESC) AS place FROM event"


def _event(
    number: int, at: float, endpoint: str, kind: str, message: str, rollout: str, op: str, data: str
) -> tuple[int, Event]:
    return number, Event(at, endpoint, kind, message, rollout, op, codec.decode(dict, data))

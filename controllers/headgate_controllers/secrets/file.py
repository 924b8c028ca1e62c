"""Endpoint keys and other secrets in one file that only its owner can read. Values never leave by a log or an error.

Two keys an endpoint, as Azure has them: callers move to the second while the first is replaced. Routers get digests.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headgate.findings import TerminalError
from headgate_kit.files import read_json, write_atomic
from headgate_kit.layout import DataFolder

PREFIX = "hg_"  # lets secret scanners find one that was committed
KEY_BYTES = 32
WHICH = ("primary", "secondary")


@dataclass(frozen=True, slots=True)
class Keys:
    primary: str = field(repr=False)
    secondary: str = field(repr=False)


class FileSecrets:
    """`headgate.ports.Secrets`, and the endpoints' keys. One process writes; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Raises TerminalError: the file is there but is not ours."""
        self._path = path
        self._lock = threading.Lock()
        try:
            content = read_json(path)
        except ValueError:  # its text would quote the content
            content = {"damaged": True}
        if path.exists():
            path.chmod(0o600)
        self._keys, self._values = self._checked({} if content is None else content)

    def get(self, ref: str) -> str:
        """Raises LookupError when there is no such secret; its text names the reference only."""
        with self._lock:
            if ref not in self._values:
                raise LookupError(f"there is no secret {ref}")
            return self._values[ref]

    def put(self, ref: str, value: str) -> None:
        with self._lock:
            self._write(self._keys, {**self._values, ref: value})

    def keys(self, endpoint: str) -> Keys:
        """The endpoint's keys, made the first time. Raises DiskFull: none could be made."""
        with self._lock:
            known = self._keys.get(endpoint)
            if known is None:
                known = {which: _new_key() for which in WHICH}
                self._write({**self._keys, endpoint: known}, self._values)
            return Keys(**known)

    def rotate(self, endpoint: str, which: str) -> Keys:
        """Replaces one key; the other stays valid. Raises ValueError: no such kind of key."""
        if which not in WHICH:
            raise ValueError(f"a key is {' or '.join(WHICH)}, not {which[:40]!r}")
        self.keys(endpoint)
        with self._lock:
            changed = {**self._keys[endpoint], which: _new_key()}
            self._write({**self._keys, endpoint: changed}, self._values)
            return Keys(**changed)

    def digests(self, endpoint: str) -> tuple[str, str]:
        """sha256 of each key, as 64 hex digits: what a router compares with."""
        keys = self.keys(endpoint)
        return _digest(keys.primary), _digest(keys.secondary)

    def _write(self, keys: dict[str, dict[str, str]], values: dict[str, str]) -> None:
        """On disk first: a key that a caller was shown is never lost."""
        content = {"endpoints": keys, "values": values}
        write_atomic(self._path, json.dumps(content, indent=1, sort_keys=True).encode(), mode=0o600)
        self._keys, self._values = keys, values

    def _checked(self, content: Any) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        keys = content.get("endpoints", {}) if isinstance(content, dict) else None
        values = content.get("values", {}) if isinstance(content, dict) else None
        fine = isinstance(keys, dict) and isinstance(values, dict) and "damaged" not in content
        if not fine or any(not isinstance(k, dict) or set(k) != set(WHICH) for k in (keys or {}).values()):
            raise TerminalError(
                f"{self._path} is damaged: restore it, or move it away and every endpoint gets new keys"
            )
        return dict(keys or {}), dict(values or {})


def open_secrets(data: DataFolder) -> FileSecrets:
    """Entry point `file` of group `headgate.secrets`."""
    return FileSecrets(data.secrets)


def _new_key() -> str:
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()

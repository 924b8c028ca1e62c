"""Which router workers run, as whoever runs them knows it. It says nothing of what they serve by: they say that.

Processes of this machine are known by their shim folders; pods: `platforms/kubernetes/routers.py`. Workers that
somebody else starts are in no roster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from headgate_kit import child
from headgate_kit.layout import DataFolder


class Roster(Protocol):
    def running(self) -> Mapping[str, bool]:
        """Worker -> whether it answers callers now. One that is missing may, for all that is known here."""
        ...

    def close(self) -> None: ...


class Processes:
    """Workers that a supervisor of this machine started. Safe from any thread."""

    def __init__(self, data: DataFolder) -> None:
        self._data = data

    def running(self) -> Mapping[str, bool]:
        folders = self._data.services.glob("router-*")
        return {folder.name: isinstance(child.state(folder), child.Running) for folder in folders}

    def close(self) -> None:
        """Nothing is held."""

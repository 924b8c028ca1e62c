"""Adapters of the `Secrets` port, and what the controller asks of one besides: the endpoints' keys.

An entry point of group `headgate.secrets` is called with the data folder and answers a `KeyStore`.
"""

from __future__ import annotations

from typing import Protocol

from headgate.ports import Secrets
from headgate_controllers.secrets.file import Keys


class KeyStore(Secrets, Protocol):
    """Secrets that also makes and keeps two keys an endpoint. Answers at once: it is asked in every pass."""

    def keys(self, endpoint: str) -> Keys: ...
    def rotate(self, endpoint: str, which: str) -> Keys: ...
    def digests(self, endpoint: str) -> tuple[str, str]: ...

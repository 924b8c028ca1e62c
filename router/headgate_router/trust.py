"""How this worker meets models that ask for mutual TLS: its certificate, and what came of the handshakes.

Whether a model asks for it is said by its address, `https://`. Refuses to speak plainly to one that does.
"""

from __future__ import annotations

import logging
import ssl
import time

from headgate_kit.identity import Identity
from headgate_router.dataplanes.builtin.failures import Untrusted

log = logging.getLogger("headgate.router")

SAID_S = 60.0  # the same failure is said once in that time, of however many replicas
MAX_SAID = 100  # failures remembered


class Trust:
    """Args:
    identity: what `--models-tls` names; None: nothing, and no such model is reached.
    """

    def __init__(self, identity: Identity | None = None) -> None:
        self.identity = identity
        self.failed = 0  # handshakes
        self._said: dict[str, float] = {}  # failure -> when it was said

    def context(self) -> ssl.SSLContext:
        """For the next connection. Raises Untrusted."""
        if self.identity is None:
            raise Untrusted("it asks for TLS, and this router was started without --models-tls")
        return self.identity.context

    def note(self, address: str, why: str) -> None:
        """Counts a handshake that failed, and says so now and then."""
        self.failed += 1
        now = time.monotonic()
        if now - self._said.get(why, float("-inf")) <= SAID_S:
            return
        if len(self._said) >= MAX_SAID:
            self._said.clear()
        self._said[why] = now
        log.error("upstream-tls: %s: %s", address, why)

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

SAID_S = 60.0  # the same failure is said once in that time


class Trust:
    """Args:
    identity: what `--models-tls` names; None: nothing, and no such model is reached.
    """

    def __init__(self, identity: Identity | None = None) -> None:
        self.identity = identity
        self.failed = 0  # handshakes
        self._said = ("", float("-inf"))

    def context(self) -> ssl.SSLContext:
        """For the next connection. Raises Untrusted."""
        if self.identity is None:
            raise Untrusted("it asks for TLS, and this router was started without --models-tls")
        return self.identity.context

    def note(self, address: str, why: str) -> None:
        """Counts a handshake that failed, and says so now and then."""
        self.failed += 1
        text, at = self._said
        now = time.monotonic()
        if why != text or now - at > SAID_S:
            self._said = (why, now)
            log.error("upstream-tls: %s: %s", address, why)

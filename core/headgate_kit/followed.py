"""An SSL context made of files, and made anew when they change: certificates are renewed while servers run.

Refuses files that do not load: the last good ones serve on.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from headgate.findings import FindingsError
from headgate_kit.files import stamp

log = logging.getLogger("headgate.tls")

LOOK_S = 2.0  # how often the files are looked at


class Followed:
    """Not thread-safe: one event loop."""

    def __init__(self, make: Callable[[], ssl.SSLContext], place: Path, files: tuple[Path, ...]) -> None:
        """Args:
            make: raises FindingsError: the files cannot be used.
            place: what the log says they are.
        Raises:
            FindingsError: of `make`.
        """
        self._make = make
        self._place = place
        self._files = files
        self._seen = stamp(*files)
        # For the next connection. Never changed itself: files swapped meanwhile would leave it half done.
        self.context = make()
        self.renewed = 0

    def renew(self) -> bool:
        """Takes the files up if they changed since the last look. False: they did not, or cannot be used."""
        now = stamp(*self._files)
        if now == self._seen:
            return False
        self._seen = now
        try:
            self.context = self._make()
        except FindingsError as error:
            log.error("%s; the last certificate serves on", error.findings[0].message)
            return False
        self.renewed += 1
        log.info("the certificate in %s is taken up", self._place)
        return True

    async def keep(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.renew()


def why(error: Exception) -> str:
    """In a word, why a file could not be loaded."""
    return getattr(error, "reason", "") or getattr(error, "strerror", "") or type(error).__name__

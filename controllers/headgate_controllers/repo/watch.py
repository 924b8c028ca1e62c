"""Looks at the origin until told to stop, and says when there is something to look at. Looking is the truth.

A webhook only wakes it; a missed one costs a poll interval, nothing else. It decides nothing and reads no commit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable

log = logging.getLogger("headgate.repo")

LOCAL_POLL_S = 0.05  # a stat of four files
REMOTE_POLL_S = 1.0  # one round trip
QUIET_S = 1.0  # without a change, before slow housekeeping may delay the next look


class Watch:
    """Calls `on_change` at once, and then whenever `look` answers something else, on a thread of its own."""

    def __init__(
        self, look: Callable[[], Hashable], on_change: Callable[[], None], *, poll_s: float, quiet: Callable[[], None]
    ) -> None:
        """`quiet` is called once after every change, when none has come for a second."""
        self._look = look
        self._on_change = on_change
        self._poll_s = poll_s
        self._quiet = quiet
        self._woken = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="repo-watch", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self._closed = True
        self._woken.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=10.0)

    def _run(self) -> None:
        seen: Hashable = None
        still_s = 0.0
        tidy = False
        while not self._closed:
            now = self._looked(seen)
            if now != seen:
                seen, still_s, tidy = now, 0.0, False
                self._tell(self._on_change)
            elif not tidy and still_s >= QUIET_S:
                tidy = True
                self._tell(self._quiet)
            if self._woken.wait(self._poll_s):
                self._woken.clear()
            still_s += self._poll_s

    def _looked(self, seen: Hashable) -> Hashable:
        try:
            return self._look()
        except Exception:
            log.exception("looking at the endpoints repo failed; looking on")
            return seen

    def _tell(self, heard: Callable[[], None]) -> None:
        try:
            heard()
        except Exception:  # the watch must outlive whatever its listener does
            log.exception("the listener of the endpoints repo failed; looking on")

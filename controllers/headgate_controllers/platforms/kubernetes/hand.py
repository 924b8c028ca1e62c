"""Writes to the cluster, on threads of its own: whoever asks for something never waits for the API server, and one
endpoint's slow webhook holds up no other.

What is asked for is kept until the server has taken it: a server that is away is tried again, one that refuses too
(a webhook or a quota may be mended), and `trouble` says why meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from headgate.findings import ConflictError, HeadgateError, TransientError
from headgate_kit.kube import Forbidden

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
BACKOFF_S = (0.2, 10.0)  # between tries: first, most
CLOSE_S = 5.0
HANDS = 4  # at once; what one of them waits for is mostly the network


@dataclass(slots=True)
class _Due:
    at: float  # monotonic
    pause_s: float = BACKOFF_S[0]


@dataclass(frozen=True, slots=True)
class Trouble:
    since: float  # seconds since the epoch
    text: str
    refused: bool  # the server does not want it; else it could not be asked
    rights: bool = False  # because we may not


class Hand(Generic[K]):
    """Args:
    work: makes one key so; raises HeadgateError when it could not. Safe to repeat.
    on_trouble: told when a key gets into trouble or out of it, on our threads.
    lane: what of a key is worked on by one thread at a time.
    """

    def __init__(
        self, work: Callable[[K], None], on_trouble: Callable[[K], None], lane: Callable[[K], Hashable]
    ) -> None:
        self._work = work
        self._on_trouble = on_trouble
        self._lane = lane
        self._taken: set[Hashable] = set()  # lanes that a thread is in
        self._news = threading.Condition()
        self._due: dict[K, _Due] = {}
        self._troubles: dict[K, Trouble] = {}
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"kubernetes-platform-{i}", daemon=True) for i in range(HANDS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Does what is due now. What waits for another try is asked for again by whoever comes next."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        ends = time.monotonic() + CLOSE_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, ends - time.monotonic()))

    def ask(self, key: K, after_s: float = 0.0) -> None:
        """Has it made so, soon; what was due later comes now."""
        at = time.monotonic() + after_s
        with self._news:
            due = self._due.setdefault(key, _Due(at))
            due.at = min(due.at, at)
            self._news.notify()

    def trouble(self, key: K) -> Trouble | None:
        return self._troubles.get(key)

    def _run(self) -> None:
        while True:
            taken = self._take()
            if taken is None:
                return
            key, pause_s = taken
            try:
                self._work(key)
            except HeadgateError as error:
                self._again(key, error, pause_s)
            except Exception:  # one object's bug must not end the thread
                log.exception("%s: could not be made so", key)
                self._again(key, TransientError("an error of Headgate's own; see the controller's log"), pause_s)
            else:
                if self._troubles.pop(key, None) is not None:
                    self._on_trouble(key)
            finally:
                with self._news:
                    self._taken.discard(self._lane(key))
                    self._news.notify_all()

    def _take(self) -> tuple[K, float] | None:
        with self._news:
            while True:
                now = time.monotonic()
                free = (k for k in self._due if self._lane(k) not in self._taken)
                key = min(free, key=lambda k: self._due[k].at, default=None)
                if key is not None and self._due[key].at <= now:
                    self._taken.add(self._lane(key))
                    return key, self._due.pop(key).pause_s
                if self._closing:
                    return None
                self._news.wait(None if key is None else self._due[key].at - now)

    def _again(self, key: K, error: HeadgateError, pause_s: float) -> None:
        told = error.retry_after_s if isinstance(error, TransientError) else 0.0
        rest = max(pause_s, told if told > 1.0 else 0.0)
        refused = not isinstance(error, TransientError | ConflictError)
        before = self._troubles.get(key)
        same = before is not None and before.refused == refused
        if before is None or before.text != str(error):
            log.warning("%s: %s; tried again in %.1f s", key, error, rest)
        self._troubles[key] = Trouble(
            before.since if same and before else time.time(), str(error), refused, isinstance(error, Forbidden)
        )
        with self._news:
            due = self._due.setdefault(key, _Due(time.monotonic() + rest))
            due.pause_s = min(pause_s * 2, BACKOFF_S[1])
        if before is None or before.text != str(error):
            self._on_trouble(key)

"""Every endpoint's head in memory, and the one way to change one: decide on a draft, record it, then show it.

The controller is the only writer. A change is one transaction of the record (head and events, compare-and-swap);
what is in memory is what was recorded. Nothing is acted on here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from headgate.draft import Draft
from headgate.rollout import Event, Head, Rollout
from headgate_controllers.records.sqlite import SqliteRecord

T = TypeVar("T")


class Heads:
    def __init__(self, record: SqliteRecord, clock: Callable[[], float]) -> None:
        self._record = record
        self._clock = clock
        self._lock = threading.RLock()
        self._heads: dict[str, Head] = {}
        self._versions: dict[str, int] = {}
        self._of_rollout: dict[str, str] = {}  # id of an endpoint's last rollout -> endpoint
        self._listeners: list[Callable[[str, tuple[Event, ...]], None]] = []
        self._at_end: list[Callable[[Rollout], None]] = []
        for endpoint, head, version in record.heads():
            self._keep(endpoint, head, version)

    def listen(self, heard: Callable[[str, tuple[Event, ...]], None]) -> None:
        """`heard(endpoint, events)` after each recorded change, on the thread that changed it."""
        self._listeners.append(heard)

    def listen_ends(self, heard: Callable[[Rollout], None]) -> None:
        """`heard(rollout)` for each rollout that ended, also one that a newer one took the place of."""
        self._at_end.append(heard)

    def names(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(sorted(self._heads))

    def count(self) -> int:
        return len(self._heads)

    def get(self, endpoint: str) -> Head:
        with self._lock:
            return self._heads.get(endpoint) or Head(endpoint)

    def version(self, endpoint: str) -> int:
        """How often it was changed; 0: never."""
        with self._lock:
            return self._versions.get(endpoint, 0)

    def endpoint_of(self, rollout: str) -> str:
        """Whose last rollout it is; empty: nobody's."""
        return self._of_rollout.get(rollout, "")

    def _keep(self, endpoint: str, head: Head, version: int) -> None:
        before = self._heads.get(endpoint)
        if before is not None and before.rollout is not None:
            self._of_rollout.pop(before.rollout.id, None)
        if head.rollout is not None:
            self._of_rollout[head.rollout.id] = endpoint
        self._heads[endpoint] = head
        self._versions[endpoint] = version

    def all(self) -> Iterable[Head]:
        with self._lock:
            return tuple(self._heads.values())

    def change(self, endpoint: str, decide: Callable[[Draft], T]) -> T:
        """Runs `decide` on a draft of the head and records what came of it; nothing changed: nothing is written.

        Raises:
            ConflictError: another controller wrote to this record.
            TransientError: the record cannot be written now (disk full); memory keeps what was recorded.
        """
        with self._lock:
            before = self.get(endpoint)
            draft = Draft(before, self._clock())
            result = decide(draft)
            if draft.head == before and not draft.events:
                return result
            version = self._record.commit(endpoint, draft.head, draft.events, self._versions.get(endpoint, 0))
            self._keep(endpoint, draft.head, version)
        events = tuple(draft.events)
        for heard in self._listeners:
            heard(endpoint, events)
        for rollout in draft.ended:
            for told in self._at_end:
                told(rollout)
        return result

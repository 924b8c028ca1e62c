"""Router workers: which there ought to be, which were heard of, and what all of them serve by.

"Acked by all" lets evidence begin and replicas end, so it is never said while a worker may still answer callers by an
older table. Names are recorded before a worker is given its first table: a controller that begins knows whom to wait
for. It refuses to guess what a silent worker serves by: the last it said, and nothing when this controller never
heard it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from headgate import codec
from headgate.control import LEASE_S, ExchangeRequest, WorkerStatus
from headgate_controllers.roster import Roster

NAMES = "router-workers"  # key in the record's meta


class Meta(Protocol):
    def meta_get(self, key: str) -> str | None: ...

    def meta_set(self, key: str, value: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Worker:
    heard_at: float | None = None  # None: not since this controller began
    boot: str = ""
    acked: int = 0  # 0: serves no table, or none that is known
    in_flight: int = 0
    refused: tuple[str, ...] = ()


class Workers:
    """Leases of router workers. Thread-safe.

    A worker is waited for while it is leased (heard of within `LEASE_S`) and while the roster says that it runs,
    however silent it is. Of others the roster knows that they do not run, or nothing: a name that is recorded, and of
    which nothing is known, has `RETURN_S` to be heard of by a new controller. Whoever is neither is lost: reported,
    not waited for, and forgotten after `FORGET_S`.
    """

    RETURN_S = 15.0  # a worker dials five times a second; until a cluster leads it to a new controller takes longer
    FORGET_S = 600.0

    def __init__(self, clock: Callable[[], float], record: Meta, roster: Roster) -> None:
        self._clock = clock
        self._record = record
        self._roster = roster
        self._began = clock()
        self._lock = threading.Lock()
        stored = record.meta_get(NAMES)
        self._recorded: frozenset[str] = frozenset(codec.decode(list[str], stored) if stored else ())
        self._workers: dict[str, _Worker] = {name: _Worker() for name in self._recorded}

    def heard(self, request: ExchangeRequest, newest: int) -> bool:
        """Takes note of an exchange; True when what the workers ack together may have changed.

        `newest`: the generation that is published. What is acked beyond it is another record's table, and none of ours.
        Raises: TransientError when a new name cannot be recorded; what it said is noted all the same.
        """
        acked = request.acked.generation if request.acked and request.acked.generation <= newest else 0
        with self._lock:
            before = self._workers.get(request.worker)
            found = _Worker(self._clock(), request.boot, acked, request.in_flight, request.refused)
            self._workers[request.worker] = found
        if request.worker not in self._recorded:
            self._write()
        return before is None or before.acked != acked or before.boot != request.boot

    def acked(self) -> int:
        """The generation that every worker serves which is waited for; 0 when there is none, or one serves none."""
        waited = self._waited()
        with self._lock:
            return min((self._workers.get(name, _Worker()).acked for name in waited), default=0)

    def status(self) -> tuple[WorkerStatus, ...]:
        """Those that are known; one that this controller never heard, once it had the time of a lease to be heard."""
        waited, now = self._waited(), self._clock()
        with self._lock:
            known = {**{name: _Worker() for name in waited}, **self._workers}
            ages = {name: now - self._since(worker) for name, worker in known.items()}
        return tuple(
            WorkerStatus(name, w.boot, w.acked, round(ages[name], 3), w.in_flight, ages[name] > LEASE_S, name in waited)
            for name, w in sorted(known.items())
            if (w.heard_at is not None or ages[name] > LEASE_S) and (name in waited or ages[name] <= self.FORGET_S)
        )

    def refusals(self) -> tuple[str, ...]:
        """Why workers refuse the table they were offered."""
        with self._lock:
            return tuple(f"{name}: {why}" for name, w in sorted(self._workers.items()) for why in w.refused)

    def _waited(self) -> frozenset[str]:
        running = self._roster.running()
        now = self._clock()
        with self._lock:
            own = {name for name, w in self._workers.items() if self._counts(w, running.get(name), now)}
        return frozenset(own | {name for name, runs in running.items() if runs})

    def _counts(self, worker: _Worker, runs: bool | None, now: float) -> bool:
        if worker.heard_at is None:
            return runs is None and now - self._began <= self.RETURN_S
        return now - worker.heard_at <= LEASE_S

    def _since(self, worker: _Worker) -> float:
        return self._began if worker.heard_at is None else worker.heard_at

    def _write(self) -> None:
        """Those of long ago are forgotten when somebody new is recorded: pods come with a name of their own."""
        waited, now = self._waited(), self._clock()
        with self._lock:
            for name in [n for n, w in self._workers.items() if now - self._since(w) > self.FORGET_S]:
                if name not in waited:
                    del self._workers[name]
            names = frozenset(self._workers)
            self._record.meta_set(NAMES, codec.canonical(sorted(names)).decode())
            self._recorded = names

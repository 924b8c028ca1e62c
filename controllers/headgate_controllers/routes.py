"""The route table that routers are given. Which of them serve by it: `workers.py`.

A generation is raised only when some route says something else than before; a route keeps the generation in which it
last changed, because evidence is counted by it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from headgate import codec
from headgate.control import LEASE_S, RouteStatus, TableStatus, WorkerStatus
from headgate.routing import same
from headgate.table import EndpointRoute, RouteTable, seal
from headgate_controllers.records.sqlite import SqliteRecord

TABLE = "route-table"  # key in the record's meta


class Routes:
    """Compiles and publishes. Thread-safe."""

    def __init__(self, record: SqliteRecord, clock: Callable[[], float]) -> None:
        self._record = record
        self._clock = clock
        self._began = clock()
        self._moved_at: dict[str, float] = {}  # endpoint -> when its route last changed, since we began
        self._lock = threading.Lock()
        stored = record.meta_get(TABLE)
        # Sealed anew: what an older version recorded may lack a field that has a default now.
        self._table = seal(codec.decode(RouteTable, stored) if stored else RouteTable(0, ""))
        self._listeners: list[Callable[[RouteTable], None]] = []

    @property
    def table(self) -> RouteTable:
        return self._table

    def settled(self, endpoint: str) -> bool:
        """Whether every worker had the time of a lease to take its route up, or to be counted as lost."""
        return self._clock() - self._moved_at.get(endpoint, self._began) > LEASE_S

    def listen(self, heard: Callable[[RouteTable], None]) -> None:
        self._listeners.append(heard)

    def publish(self, changed: Mapping[str, EndpointRoute | None], commit: str) -> tuple[str, ...]:
        """Takes up the routes that differ from what is served; None removes one. Answers the endpoints that changed.

        Recorded before any router can see it, so that a generation never names two tables.
        """
        with self._lock:
            table = self._table
            generation = table.generation + 1
            endpoints = dict(table.endpoints)
            moved = []
            for name, route in changed.items():
                known = endpoints.get(name)
                if route is None and known is not None:
                    del endpoints[name]
                elif route is not None and (known is None or not same(known, route)):
                    endpoints[name] = replace(route, generation=generation)
                else:
                    continue
                moved.append(name)
            if not moved:
                return ()
            table = seal(RouteTable(generation, commit or table.commit, endpoints))
            self._record.meta_set(TABLE, codec.canonical(table).decode())
            self._table = table
            self._moved_at |= dict.fromkeys(moved, self._clock())
        for heard in self._listeners:
            heard(table)
        return tuple(moved)


def status(
    table: RouteTable, acked: int, workers: tuple[WorkerStatus, ...], observed: Callable[[str], Mapping[str, int]]
) -> TableStatus:
    """The table as people read it. `observed`: endpoint -> live requests of the last minute by revision."""
    rows: list[RouteStatus] = []
    for name, route in sorted(table.endpoints.items()):
        counted = observed(name)
        total = sum(counted.values())
        mirrors = {m.revision: f"{m.kind.value} {m.per_mille / 10:g} %" for m in route.mirrors if m.per_mille}
        rows += [
            RouteStatus(
                endpoint=name,
                deployment=row.deployment,
                revision=row.revision,
                generation=route.generation,
                per_mille=row.per_mille,
                requests=counted.get(row.revision, 0),
                observed=counted.get(row.revision, 0) / total if total else None,
                mirror=mirrors.get(row.revision, ""),
                replicas=row.service or str(len(row.upstreams)),
                auth_mode=route.auth_mode,
                sticky=route.sticky,
            )
            for row in route.revisions
        ]
    return TableStatus(table.generation, table.hash, table.commit, acked, tuple(rows), workers)

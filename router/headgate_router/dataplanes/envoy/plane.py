"""Leads Envoy from one table to the next, so that no thread meets a route before what it leads to.

Clusters of both tables, then the copies' routes, then the callers'; then each thread is asked what it serves by. Only
when all of them have answered is a table acknowledged, and only then do clusters of the one before go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from headgate.table import RouteTable
from headgate_router.dataplanes.envoy.clusters import clusters, problems
from headgate_router.dataplanes.envoy.discovery import CLUSTERS, Discovery, Refused
from headgate_router.dataplanes.envoy.probes import Probes
from headgate_router.dataplanes.envoy.resources import (
    CALLERS,
    COPIES,
    Addresses,
    Resource,
    callers,
    copies,
)
from headgate_router.tunnels import Limits

log = logging.getLogger("headgate.router")


class Plane:
    """Not thread-safe: one event loop.

    Args:
        table: what is to be served by; None: nothing yet.
        addresses: where the replicas of a revision are.
        tunnels: how long a WebSocket may live.
        secrets: see `clusters`.
    """

    def __init__(
        self,
        discovery: Discovery,
        probes: Probes,
        table: Callable[[], RouteTable | None],
        addresses: Addresses,
        tunnels: Limits,
        secrets: str = "",
    ) -> None:
        self._secrets = secrets
        self._discovery = discovery
        self._probes = probes
        self._table = table
        self._addresses = addresses
        self._tunnels = tunnels
        self._version = 0
        self._clusters: dict[str, Resource] = {}  # every one that some thread may still send requests to
        self._leading: asyncio.Task[None] | None = None
        self._served = asyncio.Event()  # replaced at each acknowledgement
        self.acked: RouteTable | None = None  # all threads serve by it
        self.refused = ""  # why Envoy did not take the last table; empty: it did, or has not said

    def push(self) -> None:
        """The table, or where replicas are, has changed."""
        self.stop()
        self.refused = ""  # of the table before
        self._version += 1
        lead = self._lead(self._table(), str(self._version))
        self._leading = asyncio.get_running_loop().create_task(lead)

    def problems(self, table: RouteTable) -> tuple[str, ...]:
        return problems(table)

    async def served(self, seconds: float) -> None:
        """Waits until the table of now is acknowledged, or for so long."""
        try:
            async with asyncio.timeout(seconds):
                while self.acked is not self._table() and not self.refused:
                    await self._served.wait()
        except TimeoutError:
            log.warning("Envoy does not serve by table %d yet", getattr(self._table(), "generation", 0))

    def stop(self) -> None:
        if self._leading is not None:
            self._leading.cancel()

    async def _lead(self, table: RouteTable | None, version: str) -> None:
        offer, taken = self._discovery.offer, self._discovery.taken
        new = clusters(table, self._addresses, self._secrets) if table is not None else {}
        self._clusters |= new
        try:
            offer(CLUSTERS, version, list(self._clusters.values()))
            await taken(CLUSTERS, version)
            offer(COPIES, version, [copies(table)])
            await taken(COPIES, version)
            offer(CALLERS, version, [callers(table, version, self._tunnels)])
            await taken(CALLERS, version)
        except Refused as error:
            log.error("%s", error)
            self.refused = str(error)
            return self._tell()
        await self._probes.all_at(version)
        self.acked = table
        self._tell()
        if self._clusters.keys() != new.keys():
            self._clusters = new
            offer(CLUSTERS, f"{version}.", list(new.values()))
        return None

    def _tell(self) -> None:
        self._served.set()
        self._served = asyncio.Event()

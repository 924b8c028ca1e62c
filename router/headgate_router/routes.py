"""The table this worker serves by, and what lives as long as an address or a revision is in it.

A swap replaces one reference. Routes are made ready when first asked for: a table of thousands of endpoints costs a
worker only those it serves. Pools, limits and ejections outlive a swap; the running period of an unchanged route too.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from headgate.evidence import PairKind
from headgate.ports import Resolver
from headgate.table import EndpointRoute, RouteRevision, RouteTable
from headgate.traffic import WHOLE
from headgate_router import auth, headers
from headgate_router.addresses import Addresses
from headgate_router.choose import Chooser
from headgate_router.limits import InFlight
from headgate_router.oidc import Issuers
from headgate_router.redact import Path, path
from headgate_router.trust import Trust
from headgate_router.upstream import Replica, Replicas

EVERYTHING: Path = ()


@dataclass(slots=True)
class LiveRevision:
    route: RouteRevision
    replicas: Replicas
    copies: Replicas  # the same addresses with connections of their own: copies never take a caller's place
    in_flight: InFlight
    fields: list[tuple[bytes, bytes]]  # said on every answer
    lines: bytes  # the same, as they go out
    model_path: bytes


@dataclass(frozen=True, slots=True)
class LiveMirror:
    target: LiveRevision
    chance: float
    kind: PairKind


class LiveRoute:
    """One endpoint, ready to be asked."""

    __slots__ = ("chooser", "door", "mirrors", "redact", "revisions", "route", "sticky_by", "sticky_name")

    def __init__(
        self, route: EndpointRoute, revisions: dict[str, LiveRevision], random: Random, issuers: Issuers
    ) -> None:
        self.route = route
        self.revisions = revisions
        self.chooser = Chooser(route, random)
        self.door = auth.door(route, issuers)
        self.mirrors = [
            LiveMirror(revisions[mirror.revision], mirror.per_mille / WHOLE, mirror.kind)
            for mirror in route.mirrors
            if mirror.per_mille
        ]
        self.redact = [_path_or_all(text) for text in route.redact]
        by, _, name = route.sticky.partition(":")
        self.sticky_by = by if name else "none"
        self.sticky_name = name.encode() if by == "cookie" else name.lower().encode()


def _path_or_all(text: str) -> Path:
    """A rule we cannot read blanks the whole body: it was meant to hide something."""
    try:
        return path(text)
    except ValueError:
        return EVERYTHING


class Routes:
    """Not thread-safe: one event loop."""

    def __init__(
        self,
        random: Random,
        resolvers: Mapping[str, Resolver] | None = None,
        addresses: pathlib.Path | None = None,
        keys: pathlib.Path | None = None,
        trust: Trust | None = None,
    ) -> None:
        """`resolvers` and `addresses`, a file: see `Addresses`; `keys`, a file: see `Issuers`.

        `trust`: for replicas that ask for TLS; None: they are not reached.
        """
        self.trust = trust or Trust()
        self._random = random
        self.addresses = Addresses(self._moved, resolvers, addresses)
        self.issuers = Issuers(keys)
        self._live: dict[str, LiveRoute] = {}
        self._replicas: dict[str, Replica] = {}
        self._copies: dict[str, Replica] = {}
        self._limits: dict[tuple[str, str], InFlight] = {}
        self.table: RouteTable | None = None
        self.changed: Callable[[], None] = lambda: None  # told when the table, or where replicas are, is another

    def swap(self, table: RouteTable) -> None:
        """Serves by this table from the next request read on. The caller has checked it."""
        wanted = table.endpoints
        before = self.table.endpoints if self.table is not None else {}
        self._live = {name: live for name, live in self._live.items() if _same(wanted.get(name), live.route)}
        self.table = table
        self.issuers.keep(route.issuer for route in wanted.values() if route.issuer is not None)
        self._let_go(table, [route for name, route in before.items() if wanted.get(name) is not route])
        self.changed()

    def open(self, name: str, revision: str) -> tuple[int, int, int]:
        """Requests of a revision now: those that run, those that wait for a place, copies."""
        places = self._limits.get((name, revision))
        live = self._live.get(name)
        to = live.revisions.get(revision) if live is not None else None
        copies = sum(replica.in_flight for replica in to.copies.every) if to is not None else 0
        return (places.running, places.waiting, copies) if places is not None else (0, 0, copies)

    def find(self, name: str) -> LiveRoute | None:
        """None: no such endpoint in the table."""
        live = self._live.get(name)
        if live is not None:
            return live
        route = self.table.endpoints.get(name) if self.table is not None else None
        if route is None:
            return None
        revisions = {revision.revision: self._revision(route, revision) for revision in route.revisions}
        live = self._live[name] = LiveRoute(route, revisions, self._random, self.issuers)
        return live

    def _revision(self, route: EndpointRoute, revision: RouteRevision) -> LiveRevision:
        limit = max(1, revision.max_concurrent_per_instance * max(1, revision.instances))
        in_flight = self._limits.setdefault((route.name, revision.revision), InFlight(limit))
        in_flight.limit = limit
        addresses = self.addresses.of(revision)
        fields = [
            (b"azureml-model-deployment", revision.deployment.encode()),
            (b"headgate-revision", revision.revision.encode()),
            (b"headgate-generation", str(route.generation).encode()),
        ]
        return LiveRevision(
            route=revision,
            replicas=Replicas(_kept(self._replicas, addresses, self.trust), self._random),
            copies=Replicas(_kept(self._copies, addresses, self.trust), self._random),
            in_flight=in_flight,
            fields=fields,
            lines=headers.lines(fields),
            model_path=revision.scoring_path.encode("ascii", "replace"),
        )

    def _let_go(self, table: RouteTable, changed: Sequence[EndpointRoute]) -> None:
        """Retires what the table holds no more; a running answer ends undisturbed.

        Looks only at routes that were `changed` or are gone: of thousands, a commit changes a few.
        """
        gone = False
        for old in changed:
            new = table.endpoints.get(old.name)
            known = {revision.revision: revision for revision in new.revisions} if new is not None else {}
            for revision in old.revisions:
                now = known.get(revision.revision)
                if now is None:
                    self._limits.pop((old.name, revision.revision), None)
                gone |= (
                    now is None or now.service != revision.service or not set(revision.upstreams) <= {*now.upstreams}
                )
        if gone:
            self.addresses.keep(table)
            self._retire()

    def _moved(self, service: str) -> None:
        """The replicas of a service are others now: asked from the next request on; running answers end undisturbed."""
        for live in self._live.values():
            for revision in live.revisions.values():
                if revision.route.service == service:
                    addresses = self.addresses.of(revision.route)
                    revision.replicas.every = _kept(self._replicas, addresses, self.trust)
                    revision.copies.every = _kept(self._copies, addresses, self.trust)
        self._retire()
        self.changed()

    def _retire(self) -> None:
        addresses = set(self.addresses.every())
        if self.table is not None:
            addresses.update(a for route in self.table.endpoints.values() for r in route.revisions for a in r.upstreams)
        for pool in (self._replicas, self._copies):
            for address in pool.keys() - addresses:
                pool.pop(address).retire()

    def close(self) -> None:
        """Ends every pooled connection."""
        for pool in (self._replicas, self._copies):
            for replica in pool.values():
                replica.retire()
            pool.clear()


def _same(new: EndpointRoute | None, old: EndpointRoute) -> bool:
    return new is old or new == old


def _kept(pool: dict[str, Replica], addresses: Iterable[str], trust: Trust) -> list[Replica]:
    for address in addresses:
        if address not in pool:
            pool[address] = Replica(address, trust)
    return [pool[address] for address in addresses]

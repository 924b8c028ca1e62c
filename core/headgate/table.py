"""The route table: the one immutable message a router serves by. Compiled by the controller, swapped whole.

A table that was changed on its way (`received`) or does not add up (`problems`) is refused by every reader; the last
good one serves on.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headgate import codec
from headgate.evidence import PairKind
from headgate.process import Issuer
from headgate.traffic import WHOLE

_ADDRESS = re.compile(r"https?://(?:\[(?P<ip>[^\]]+)\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?\Z")
_LABEL = 63  # bytes of one part of a host's name

SCHEMA = 1  # raised when a field changes its meaning; a reader refuses a newer one


@dataclass(frozen=True, slots=True)
class RouteRevision:
    """One live, warm or mirrored revision and where its replicas answer."""

    revision: str
    deployment: str  # the name callers put in the header azureml-model-deployment
    per_mille: int  # share of live traffic; 0: reachable by header or as a mirror only
    upstreams: tuple[str, ...]  # ready replicas, http://127.0.0.1:PORT; may be empty: 503
    scoring_path: str = "/score"
    instances: int = 1  # n of the m x n in-flight limit; asked for, not ready
    max_concurrent_per_instance: int = 1  # m
    request_timeout_ms: int = 5_000
    max_queue_wait_ms: int = 500
    websocket: bool = False  # an upgrade to WebSocket is tunnelled; else refused
    service: str = ""  # where the router finds replicas itself, `k8s:NAMESPACE/SERVICE:PORT`; empty: `upstreams`


@dataclass(frozen=True, slots=True)
class Mirror:
    """Copies of live requests; outside the whole. Drawn independently of the split."""

    revision: str
    per_mille: int  # of live requests; echo: of live requests too
    kind: PairKind = PairKind.COMPARE


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    name: str
    generation: int  # of the table in which this route last changed: evidence is counted by it
    commit: str  # that asked for it
    revisions: tuple[RouteRevision, ...]
    mirrors: tuple[Mirror, ...] = ()
    auth_mode: str = "key"  # key | aml_token | aad_token: only that kind of credential is taken
    keys: tuple[str, ...] = ()  # key: sha256 hex of each accepted key; never the key
    signers: tuple[str, ...] = ()  # aml_token: the public keys, each a JWK as JSON
    issuer: Issuer | None = None  # aad_token: whose tokens
    repeatable: bool = True  # a request may run twice: one retry before any answer byte, mirroring
    sticky: str = "none"  # none | header:NAME | cookie:NAME
    redact: tuple[str, ...] = ()  # JSON paths blanked in pairs before they leave the router

    @property
    def split(self) -> dict[str, int]:
        """Revision -> per-mille of live traffic, of those that have some."""
        return {r.revision: r.per_mille for r in self.revisions if r.per_mille}


@dataclass(frozen=True, slots=True)
class RouteTable:
    generation: int
    commit: str  # of the endpoints repo, the newest handled
    endpoints: Mapping[str, EndpointRoute] = field(default_factory=dict)
    hash: str = ""
    schema: int = SCHEMA


def seal(table: RouteTable) -> RouteTable:
    """The same table with the hash of its content."""
    return replace(table, hash=codec.digest(replace(table, hash="")))


def received(sent: Mapping[str, Any]) -> RouteTable:
    """A table as it came, fields of a newer version dropped.

    Args:
        sent: its decoded JSON, whole: the hash is over what was sent, also over what is not understood here.
    Raises:
        CodecError: it is no table, or was changed on its way.
    """
    table = codec.decode(RouteTable, sent)
    if codec.digest({**sent, "hash": ""}) != table.hash:
        raise codec.CodecError("RouteTable: hash does not match the content")
    return table


def keeping(table: RouteTable, serving: RouteTable | None) -> RouteTable:
    """The same table, with the very routes of the one served by where they are equal: what did not change is then told
    by identity, and neither checked nor made ready again.
    """
    if serving is None:
        return table
    endpoints = dict(table.endpoints)
    for name, route in serving.endpoints.items():
        if endpoints.get(name) == route:
            endpoints[name] = route
    return replace(table, endpoints=endpoints)


def problems(table: RouteTable, serving: RouteTable | None = None) -> tuple[str, ...]:
    """Why a router must refuse this table, given the one it serves; empty: accept."""
    found: list[str] = []
    if table.schema > SCHEMA:
        found.append(f"schema {table.schema} is newer than {SCHEMA}")
    if serving is not None and table.generation < serving.generation:
        found.append(f"generation {table.generation} is older than {serving.generation}")
    checked = serving.endpoints if serving is not None else {}
    for name, route in table.endpoints.items():
        if checked.get(name) is not route:
            found += [f"{name}: {text}" for text in _route_problems(name, route)]
    return tuple(found)


def dialled(address: str) -> bool:
    """Whether a replica's address is one that can be dialled: http or https, an IP address or a name as DNS has them
    (an IPv6 address in brackets), perhaps a port, and nothing else.
    """
    found = _ADDRESS.match(address)
    if found is None or not 0 < int(found["port"] or 80) < 1 << 16:
        return False
    if found["name"]:
        return all(0 < len(label) <= _LABEL for label in found["name"].removesuffix(".").split("."))
    try:
        return bool(ipaddress.IPv6Address(found["ip"]))
    except ValueError:
        return False


def _route_problems(name: str, route: EndpointRoute) -> list[str]:
    found = [
        f"{row.revision}: no replica can be dialled at {address[:100]!r}: write http://HOST:PORT"
        for row in route.revisions
        for address in row.upstreams
        if not dialled(address)
    ]
    if route.name != name:
        found.append(f"listed under another name, {route.name}")
    shares = [r.per_mille for r in route.revisions]
    if any(share < 0 for share in shares) or sum(shares) not in (0, WHOLE):
        found.append(f"traffic adds up to {sum(shares)} per mille, expected {WHOLE} or 0")
    known = {r.revision: r for r in route.revisions}
    if len(known) != len(route.revisions):
        found.append("a revision is listed twice")
    for mirror in route.mirrors:
        target = known.get(mirror.revision)
        if target is None:
            found.append(f"mirror to {mirror.revision}, which has no upstreams here")
        elif mirror.kind is PairKind.COMPARE and target.per_mille:
            found.append(f"mirror to {mirror.revision}, which has live traffic")
        if not 0 <= mirror.per_mille <= WHOLE:
            found.append(f"mirror of {mirror.per_mille} per mille")
    return found

"""From EndpointSlices (discovery.k8s.io/v1) to the addresses a router asks. Pure; refuses to trust a slice's shape.

Ready and not terminating. When no replica is, those that still serve while they terminate, as kube-proxy does: a
draining replica answers, none does not. Sorted, so that equal slices give equal addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SERVICE_LABEL = "kubernetes.io/service-name"
SECURE = "https"  # a port's appProtocol
_SERVICE = re.compile(r"k8s:(?P<namespace>[a-z0-9-]{1,63})/(?P<name>[a-z0-9.-]{1,253}):(?P<port>[a-z0-9-]{1,63})\Z")

Slice = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServicePort:
    """`k8s:NAMESPACE/SERVICE:PORT`. PORT is the name of one of the slices' ports, or its number."""

    namespace: str
    name: str
    port: str


def parse(service: str) -> ServicePort:
    """Raises ValueError: not of that form."""
    found = _SERVICE.match(service)
    if found is None:
        raise ValueError(f"{service[:100]!r} is not k8s:NAMESPACE/SERVICE:PORT")
    return ServicePort(**found.groupdict())


@dataclass(frozen=True, slots=True)
class _Place:
    address: str
    zone: str
    hinted: frozenset[str]  # zones that are asked to use it; empty: none said
    ready: bool


def addresses(slices: Iterable[Slice], port: str, zone: str = "") -> tuple[str, ...]:
    """The addresses to ask, `http://IP:PORT`; `https://` where the port's `appProtocol` is `https`.

    Args:
        slices: of one service.
        zone: ours; empty: not known, every zone is as good.
    """
    by_family: dict[str, list[_Place]] = {}
    for one in slices:
        by_family.setdefault(_family(one), []).extend(_places(one, port))
    # A replica with addresses of two families is one replica: the first family that has any is used.
    for family in sorted(by_family):
        usable = [place for place in by_family[family] if place.ready] or by_family[family]
        if usable:
            return tuple(sorted({place.address for place in _near(usable, zone)}))
    return ()


def remaining(slices: Iterable[Slice], port: str, before: Sequence[str]) -> tuple[str, ...]:
    """Of the addresses that were asked before, those that are there still, whatever is said of their readiness.

    For when no replica is ready: a node whose kubelet died makes every pod on it unready, and most of them answer on.
    One that answers no more is found out by asking it. What ends is left out: it was told to.
    """
    listed = {
        address
        for one in slices
        for endpoint, address in _replicas(one, port)
        if (endpoint.get("conditions") or {}).get("terminating") is not True
    }
    return tuple(address for address in before if address in listed)


def zone_of(slices: Iterable[Slice], ip: str) -> str:
    """The zone that slices give for an address; empty: none lists it."""
    for endpoint in (endpoint for one in slices for endpoint in _list(one, "endpoints")):
        if ip in _list(endpoint, "addresses"):
            return str(endpoint.get("zone") or "")
    return ""


def _places(one: Slice, port: str) -> Iterator[_Place]:
    for endpoint, address in _replicas(one, port):
        conditions = endpoint.get("conditions") or {}
        ending = conditions.get("terminating") is True
        ready = conditions.get("ready") is not False and not ending  # the API: unknown counts as ready
        if not ready and not (ending and conditions.get("serving") is True):
            continue
        hints = frozenset(str(hint.get("name")) for hint in _list(endpoint.get("hints") or {}, "forZones"))
        yield _Place(address, str(endpoint.get("zone") or ""), hints, ready)


def _replicas(one: Slice, port: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every endpoint with its address, whatever its conditions are."""
    found = _port(_list(one, "ports"), port)
    if found is None:
        return
    number, scheme = found
    for endpoint in _list(one, "endpoints"):
        for ip in _list(endpoint, "addresses")[:1]:  # the API: consumers use the first
            host = f"[{ip}]" if _family(one) == "IPv6" else ip
            yield endpoint, f"{scheme}://{host}:{number}"


def _family(one: Slice) -> str:
    return str(one.get("addressType", "IPv4"))


def _port(ports: Sequence[Mapping[str, Any]], wanted: str) -> tuple[int, str] | None:
    """Its number and the scheme to speak there: by name, else by number, else the only one: a Service's port need not
    be its target's.
    """
    known = {str(port.get("name") or ""): port for port in ports if isinstance(port.get("port"), int)}
    named = known.get(wanted)
    numbered = [port for port in known.values() if str(port["port"]) == wanted]
    only = list(known.values()) if len(known) == 1 else []
    for port in ([named] if named else []) + numbered + only:
        return port["port"], "https" if port.get("appProtocol") == SECURE else "http"
    # A headless service without ports lists none: its replicas answer where they were said to.
    return (int(wanted), "http") if wanted.isdigit() and not ports else None


def _near(places: Sequence[_Place], zone: str) -> Sequence[_Place]:
    """Those of our zone, where that overloads nobody.

    The cluster's own hints decide when every replica has one. Without hints our zone must hold at least its fair
    share of the replicas: one replica beside us must not carry what ten elsewhere should.
    """
    if not zone:
        return places
    if all(place.hinted for place in places):
        return [place for place in places if zone in place.hinted] or places
    here = [place for place in places if place.zone == zone]
    return here if here and len(here) * len({place.zone for place in places}) >= len(places) else places


def _list(of: Mapping[str, Any], key: str) -> list[Any]:
    value = of.get(key)
    return value if isinstance(value, list) else []

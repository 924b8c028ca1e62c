"""A revision's replicas as one of Envoy's clusters: where they are, how many requests they are sent at once. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from headgate.table import RouteTable
from headgate_router.dataplanes.envoy import mutual
from headgate_router.dataplanes.envoy.resources import (
    CLUSTER_TYPE,
    MOST_COPIES,
    PROTOCOL,
    TYPE,
    Addresses,
    Resource,
    cluster_name,
    compared,
)

CONNECT_S = 1.0
IDLE_S = 30.0  # an unused connection to a replica
NO_LIMIT = 2**32 - 1


def problems(table: RouteTable) -> tuple[str, ...]:
    """Why Envoy cannot be told this table; empty: it can."""
    return tuple(
        f"{name}: replica {address[:100]} is no IP address and port"
        for name, route in table.endpoints.items()
        for revision in route.revisions
        for address in revision.upstreams
        if _socket(address) is None
    )


def _socket(address: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(address)
        return str(ipaddress.ip_address(parts.hostname or "")), parts.port or (443 if _secure(address) else 80)
    except ValueError:
        return None


def clusters(table: RouteTable, addresses: Addresses, secrets: str = "") -> dict[str, Resource]:
    """Name -> cluster: one of each revision, one more of each that is sent copies, with connections of its own.

    `secrets`: folder of what `mutual.tell` wrote; empty: replicas that ask for TLS are left out.
    """
    found = {}
    for name, route in table.endpoints.items():
        copied = {mirror.revision for mirror in compared(route)}
        for revision in route.revisions:
            every = [a for a in addresses(revision) if secrets or not _secure(a)]
            limit = max(1, revision.max_concurrent_per_instance * max(1, revision.instances))
            live = _cluster(cluster_name(name, revision.revision), every, limit, 2 * limit, secrets)
            found[live["name"]] = live
            if revision.revision in copied:
                copying = cluster_name(name, revision.revision, copies=True)
                copy = _cluster(copying, every, MOST_COPIES, MOST_COPIES, secrets)
                found[copy["name"]] = copy
    return found


def _secure(address: str) -> bool:
    return address.startswith("https:")


def _cluster(name: str, addresses: Sequence[str], limit: int, waiting: int, secrets: str) -> Resource:
    """`limit`: connections, `waiting`: requests that wait for one, also for one to be opened. Each thread may open one
    whatever the others have; a limit on requests would not let wait whoever meets such a thread, but refuse.
    """
    hosts = [(address, found) for address in addresses if (found := _socket(address)) is not None]
    tls = {"transport_socket_matches": mutual.matches(secrets)} if any(_secure(a) for a, _ in hosts) else {}
    return {
        **tls,
        "@type": CLUSTER_TYPE,
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_S}s",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},  # when all rest, all are asked
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [_host(*one) for one in hosts]}]},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": limit,
                    "max_pending_requests": waiting,
                    "max_requests": NO_LIMIT,
                    "max_retries": limit,
                }
            ]
        },
        "outlier_detection": _OUTLIERS,
        "typed_extension_protocol_options": {
            PROTOCOL: {
                "@type": f"{TYPE}{PROTOCOL}",
                "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _host(address: str, socket: tuple[str, int]) -> Resource:
    ip, port = socket
    return {
        "endpoint": {
            "hostname": urlsplit(address).netloc,  # what the model reads as Host
            "address": {"socket_address": {"address": ip, "port_value": port}},
        },
        **({"metadata": mutual.HOST} if _secure(address) else {}),
    }


# A replica that refuses or resets rests, longer each time. What a model answers never puts it out of use.
_OUTLIERS = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 1,
    "enforcing_consecutive_local_origin_failure": 100,
    "enforcing_local_origin_success_rate": 0,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "interval": "0.5s",
    "base_ejection_time": "0.5s",
    "max_ejection_time": "8s",
    "max_ejection_percent": 100,
}

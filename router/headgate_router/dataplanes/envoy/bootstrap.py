"""What Envoy is started with: its doors, its filters, and where it asks for clusters and routes. Pure.

Nothing here depends on the route table, so that no table ever drains a listener.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate_router import refusals
from headgate_router.dataplanes.envoy.resources import (
    ADMITTED,
    CALLERS,
    CONTROL,
    COPIES,
    COPY,
    COPY_DOOR,
    FAULT,
    FAULT_TYPE,
    GENERATION,
    LUA,
    MOST_COPIES,
    PROTOCOL,
    SCORE,
    SCORING_PATH,
    TYPE,
)
from headgate_router.refusals import Refusal

HEAD_KB = 64
HEAD_FIELDS = 1000
HEAD_S = 15  # from a head's first byte to its last
IDLE_S = 75  # between requests; longer than load balancers keep theirs
POLL_S = 30  # longer than the control process holds a question
REMEMBERED_S = 5  # an accepted credential, by each thread
_HTTP = f"{TYPE}envoy.extensions.filters.http"
_MUTATIONS = f"{TYPE}envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
_OURS = (ADMITTED, COPY, GENERATION, SCORE, SCORING_PATH, "headgate-mirror", "headgate-revision")
_HERE = Path(__file__)


@dataclass(frozen=True, slots=True)
class Places:
    """Unix sockets, in a folder that only this user can enter."""

    control: str  # the router's own process
    admin: str  # Envoy's
    probe: str  # where each thread says what it serves by
    copies: str


@dataclass(frozen=True, slots=True)
class Door:
    """Where callers come in."""

    host: str
    port: int
    domain: str  # NAME.domain is endpoint NAME; empty: by path only
    max_body: int  # bytes
    connections: int
    certificate: Path | None = None  # None: plain HTTP
    key: Path | None = None


def bootstrap(worker: str, door: Door, places: Places) -> dict[str, Any]:
    return {
        "node": {"id": worker, "cluster": "headgate"},
        "admin": {"address": _pipe(places.admin)},
        "dynamic_resources": {"cds_config": _asked("CDS")},
        "static_resources": {
            "clusters": [_local(CONTROL, places.control, 1024), _local(COPY_DOOR, places.copies, MOST_COPIES)],
            "listeners": [_callers(door), _probe(places.probe), _copies(places.copies)],
        },
        "overload_manager": {"resource_monitors": [_most(door.connections)]},
    }


def _callers(door: Door) -> dict[str, Any]:
    admits = [_admission(door.domain), _refusal()]
    tunnels = [*admits, _script("tunnel.lua", "headgate.tunnel"), _router()]  # what passes there is no body: no limit
    manager = {
        **_manager(CALLERS, CALLERS, [*admits, _body_limit(door.max_body), _router()]),
        "early_header_mutation_extensions": [
            {"name": "ours", "typed_config": {"@type": _MUTATIONS, "mutations": [{"remove": name} for name in _OURS]}}
        ],
        "access_log": [_log(_LIVE)],
        "local_reply_config": {"mappers": [_reply(*row) for row in _REPLIES]},
        "upgrade_configs": [{"upgrade_type": "websocket", "filters": tunnels}],  # which routes take them, routes say
    }
    chain: dict[str, Any] = {"filters": [_http(manager)]}
    if door.certificate is not None and door.key is not None:
        chain["transport_socket"] = _tls(door.certificate, door.key)
    return {
        "name": CALLERS,
        "address": {"socket_address": {"address": door.host, "port_value": door.port}},
        "enable_reuse_port": True,
        "filter_chains": [chain],
    }


def _probe(path: str) -> dict[str, Any]:
    """One connection to each thread: what it answers is what that thread serves by."""
    script = (
        "local t = {}\nfunction envoy_on_response(handle)\n"
        '  handle:headers():replace("headgate-thread", tostring(t))\nend'
    )
    return {
        "name": "probe",
        "address": _pipe(path),
        "connection_balance_config": {"exact_balance": {}},
        "filter_chains": [{"filters": [_http(_manager("probe", CALLERS, [_lua(script), _router()]))]}],
    }


def _copies(path: str) -> dict[str, Any]:
    manager = {**_manager(COPIES, COPIES, [_router()]), "access_log": [_log(_COPY)]}
    return {"name": COPIES, "address": _pipe(path), "filter_chains": [{"filters": [_http(manager)]}]}


def _manager(prefix: str, routes: str, filters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": f"{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "rds": {"route_config_name": routes, "config_source": _asked("RDS")},
        "http_filters": list(filters),
        "generate_request_id": False,
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
        "request_headers_timeout": f"{HEAD_S}s",
        "max_request_headers_kb": HEAD_KB,
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s", "max_headers_count": HEAD_FIELDS},
        "http_protocol_options": {"accept_http_10": True},
    }


def _http(manager: dict[str, Any]) -> dict[str, Any]:
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _admission(domain: str) -> dict[str, Any]:
    values = {
        "SUFFIX": f".{domain.lower().strip('.')}" if domain else "",
        "REMEMBERED_S": str(REMEMBERED_S),
    }
    script = _HERE.with_name("filter.lua").read_text()
    for name, value in values.items():
        script = script.replace(f"@{name}@", value)
    return _lua(script)


def _script(file: str, name: str = LUA) -> dict[str, Any]:
    return _lua(_HERE.with_name(file).read_text(), name)


def _lua(script: str, name: str = LUA) -> dict[str, Any]:
    code = {"default_source_code": {"inline_string": script}}
    return {"name": name, "typed_config": {"@type": f"{_HTTP}.lua.v3.Lua", **code}}


def _refusal() -> dict[str, Any]:
    """Of a revision that a route says it for: which one was drawn is known after the script."""
    return {"name": FAULT, "typed_config": {"@type": FAULT_TYPE}}


def _body_limit(most: int) -> dict[str, Any]:
    config = {"@type": f"{_HTTP}.body_size_limit.v3.BodySizeLimit", "max_request_bytes": most}
    return {"name": "envoy.filters.http.body_size_limit", "typed_config": config}


def _router() -> dict[str, Any]:
    codec = {"@type": f"{_HTTP}.upstream_codec.v3.UpstreamCodec"}
    upstream = [
        _script("replica.lua"),
        {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
    ]
    config = {"@type": f"{_HTTP}.router.v3.Router", "suppress_envoy_headers": True, "upstream_http_filters": upstream}
    return {"name": "envoy.filters.http.router", "typed_config": config}


def _local(name: str, path: str, most: int) -> dict[str, Any]:
    codec = {"@type": f"{_HTTP}.upstream_codec.v3.UpstreamCodec"}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _pipe(path)}}]}],
        },
        "circuit_breakers": {
            "thresholds": [{"max_connections": most, "max_pending_requests": most, "max_requests": most}]
        },
        "typed_extension_protocol_options": {
            PROTOCOL: {
                "@type": f"{TYPE}{PROTOCOL}",
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": [{"name": "envoy.filters.http.upstream_codec", "typed_config": codec}],
            }
        },
    }


def _asked(kind: str) -> dict[str, Any]:
    """By REST, held until there is news."""
    return {
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",  # nobody is served before there are routes
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": [CONTROL],
            "refresh_delay": "0.001s" if kind else "",
            "request_timeout": f"{POLL_S}s",
        },
    }


def _tls(certificate: Path, key: Path) -> dict[str, Any]:
    """Taken up anew when the files' folder sees a rename, as certificate tools and mounted secrets do it."""
    pair = {
        "certificate_chain": {"filename": str(certificate)},
        "private_key": {"filename": str(key)},
        "watched_directory": {"path": str(certificate.parent)},
    }
    context = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [pair],
    }
    config = {
        "@type": f"{TYPE}envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": context,
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _most(connections: int) -> dict[str, Any]:
    name = "envoy.resource_monitors.global_downstream_max_connections"
    kind = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    config = {"@type": f"{TYPE}{kind}", "max_active_downstream_connections": connections}
    return {"name": name, "typed_config": config}


def _pipe(path: str) -> dict[str, Any]:
    return {"pipe": {"path": path, "mode": 0o600}}


# What is said of each request that ended: one line on standard output.

_LIVE = {
    "kind": "live",
    "endpoint": "%METADATA(ROUTE:headgate:endpoint)%",
    "generation": "%METADATA(ROUTE:headgate:generation)%",
    "chosen": "%METADATA(ROUTE:headgate:chosen)%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "closed": "%DYNAMIC_METADATA(headgate:close)%",
    "bytes": "%BYTES_RECEIVED%",
    "first_us": "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%",
    "whole_us": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
    "ms": "%DURATION%",
}
_COPY = {**_LIVE, "kind": "copy", "generation": "%METADATA(ROUTE:headgate:generation)%"}


def _log(fields: dict[str, str]) -> dict[str, Any]:
    config = {
        "@type": f"{TYPE}envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {"json_format": fields},
    }
    return {"name": "envoy.access_loggers.stdout", "typed_config": config}


# What Envoy says by itself, in our words. The first that fits counts.

_REPLIES: Sequence[tuple[Refusal, Sequence[str], int]] = (
    (refusals.BUSY, ("UO",), 0),
    (refusals.TIMED_OUT, ("SI", "UT"), 0),
    (refusals.NOT_READY, ("UH", "UF", "NC"), 0),
    (refusals.BROKEN, ("UC", "UR", "UPE", "URX"), 0),
    (refusals.TOO_LARGE, (), 413),
    (refusals.HEAD_TOO_LARGE, (), 431),
    (refusals.TOO_SLOW, (), 408),
    (refusals.NO_WEBSOCKET, (), 403),
    (refusals.BAD_REQUEST, (), 400),
    (refusals.BAD_REQUEST, (), 501),
    (refusals.VERSION, (), 505),
    (refusals.VERSION, (), 426),
)


def _reply(refusal: Refusal, flags: Sequence[str], status: int) -> dict[str, Any]:
    by_status = {"comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": "headgate.status"}}}
    fields = [(key.decode(), value.decode()) for key, value in refusal.fields]
    return {
        "filter": {"response_flag_filter": {"flags": list(flags)}} if flags else {"status_code_filter": by_status},
        "status_code": refusal.status,
        "body_format_override": {
            "text_format_source": {"inline_string": refusal.body().decode()},
            "content_type": "application/json",
        },
        "headers_to_add": [{"header": {"key": k, "value": v}} for k, v in fields],
    }

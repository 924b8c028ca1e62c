"""A route table as Envoy's resources: the routes of callers and of copies; `clusters.py` has where they lead. Pure.

Every route that reaches a model asks for the header `headgate-admitted`, which no caller can set and `filter.lua` sets
last: where that script did not come to its end, nobody is let in. Refuses nothing by itself: what Envoy cannot do is
in the table of `docs/envoy.md`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from headgate.evidence import PairKind
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable
from headgate_router import refusals
from headgate_router.refusals import Refusal
from headgate_router.request import HELD
from headgate_router.tunnels import Limits

Resource = dict[str, Any]
Addresses = Callable[[RouteRevision], tuple[str, ...]]

CALLERS, COPIES = "callers", "copies"  # names of the route configurations
CONTROL = "headgate"  # the cluster of the router's own process
COPY_DOOR = "headgate-copies"  # the cluster through which copies come back into Envoy, to be counted
PAGES, PROBE = "pages.headgate", "probe.headgate"  # hosts that `filter.lua` asks for; no endpoint has a dot in its name
METADATA = "headgate"
ADMITTED, COPY, GENERATION = "headgate-admitted", "headgate-copy", "headgate-generation"
SCORE, SCORING_PATH = "headgate-score", "headgate-path"
OVERRIDE = "azureml-model-deployment"
TYPE = "type.googleapis.com/"
FAULT_TYPE = f"{TYPE}envoy.extensions.filters.http.fault.v3.HTTPFault"
CLUSTER_TYPE = f"{TYPE}envoy.config.cluster.v3.Cluster"
ROUTES_TYPE = f"{TYPE}envoy.config.route.v3.RouteConfiguration"
LUA, FAULT = "envoy.filters.http.lua", "envoy.filters.http.fault"
PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MOST_COPIES = 64  # and as many wait: of one target
_UPPER = re.compile("[A-Z]")
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"
_NEVER_PASSED = (
    "authorization", ADMITTED, COPY, GENERATION, "headgate-revision", "headgate-mirror", "proxy-authorization",
    "keep-alive", "proxy-connection", "te",
)  # fmt: skip


def cluster_name(endpoint: str, revision: str, *, copies: bool = False) -> str:
    return f"{endpoint}/{revision}{'/copies' if copies else ''}"


def host(endpoint: str) -> str:
    """The virtual host of an endpoint: hosts have no case, names do. `filter.lua` does the same."""
    return _UPPER.sub(lambda found: f"_{found[0].lower()}", endpoint)


def callers(table: RouteTable | None, version: str, tunnels: Limits) -> Resource:
    """What callers' requests are matched with. `version`: what the probe of each thread answers."""
    hosts = [_endpoint(route, tunnels) for route in table.endpoints.values()] if table is not None else []
    pages = {
        "cluster": CONTROL,
        "host_rewrite_literal": PAGES,
        "timeout": "10s",
    }
    return {
        "@type": ROUTES_TYPE,
        "name": CALLERS,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [
            *hosts,
            {"name": PAGES, "domains": [PAGES], "routes": [{"match": {"prefix": "/"}, "route": pages}]},
            {"name": PROBE, "domains": [PROBE], "routes": [_says(200, version.encode())]},
            {"name": "unknown", "domains": ["*"], "routes": [_refuses(refusals.NO_ENDPOINT)]},
        ],
    }


def copies(table: RouteTable | None) -> Resource:
    """Where copies go, once they have come back through a door of their own."""
    routes = []
    for name, route in table.endpoints.items() if table is not None else ():
        known = {revision.revision: revision for revision in route.revisions}
        for mirror in compared(route):
            target = known[mirror.revision]
            action = {"cluster": cluster_name(name, mirror.revision, copies=True), **_action(target.request_timeout_ms)}
            routes.append(
                {
                    "match": {"prefix": "/", "headers": [_is(COPY, cluster_name(name, mirror.revision))]},
                    "route": action,
                    "metadata": _metadata(route),
                    "request_headers_to_add": [_header(SCORING_PATH, target.scoring_path)],
                    "request_headers_to_remove": [COPY, GENERATION],
                }
            )
    return {
        "@type": ROUTES_TYPE,
        "name": COPIES,
        "virtual_hosts": [{"name": "copies", "domains": ["*"], "routes": [*routes, _refuses(refusals.NO_DEPLOYMENT)]}],
    }


def _endpoint(route: EndpointRoute, tunnels: Limits) -> Resource:
    admitted = [*_upgrades(route, tunnels), *_named(route), *_split(route)]
    return {
        "name": route.name,
        "domains": [host(route.name)],
        "request_headers_to_remove": list(_NEVER_PASSED),
        "response_headers_to_add": [
            _header("x-ms-request-id", "%REQ(x-ms-request-id)%"),
            _header("x-ms-client-request-id", "%DYNAMIC_METADATA(headgate:client_id)%"),
        ],
        "routes": [*admitted, {**_refuses(refusals.UNAUTHORIZED), "metadata": _metadata(route)}],
    }


def _upgrades(route: EndpointRoute, tunnels: Limits) -> Iterator[Resource]:
    """Requests to speak WebSocket: led as any other, but for their times, and never copied."""
    upgrade = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
    if not any(row.websocket for row in route.revisions):
        yield {**_refuses(refusals.NO_WEBSOCKET, [_is(ADMITTED, "yes"), upgrade]), "metadata": _metadata(route)}
        return
    live = [(row, row.per_mille) for row in route.revisions if row.per_mille]
    split = [_to(route, [], live)] if live else []
    for found in [*_named(route), *split]:
        asked = {**found, "match": {**found["match"], "headers": [*found["match"]["headers"], upgrade]}}
        yield {**asked, "route": _tunnel(found["route"], route, tunnels)} if "route" in found else asked


def _tunnel(action: Resource, route: EndpointRoute, limits: Limits) -> Resource:
    """Has times of its own. A revision that takes no WebSocket is drawn too, and refuses."""
    taking = {cluster_name(route.name, row.revision) for row in route.revisions if row.websocket}
    split = action["weighted_clusters"]
    clusters = [
        one if one["name"] in taking else {"name": one["name"], "weight": one["weight"], **_REFUSES_WEBSOCKET}
        for one in split["clusters"]
    ]
    return {
        **action,
        "weighted_clusters": {**split, "clusters": clusters},
        "idle_timeout": f"{limits.idle_s:.3f}s",
        "max_stream_duration": {"max_stream_duration": f"{limits.life_s:.3f}s"},
        "retry_policy": _retries(repeatable=False),
    }


_REFUSES_WEBSOCKET = {
    "typed_per_filter_config": {
        FAULT: {
            "@type": FAULT_TYPE,
            "abort": {"http_status": refusals.NO_WEBSOCKET.status, "percentage": {"numerator": 100}},
        }
    }
}


def _named(route: EndpointRoute) -> Iterator[Resource]:
    """What the header azureml-model-deployment asks for; such requests are not copied."""
    for name, rows in _by_name(route).items():
        yield _to(route, [_is(OVERRIDE, name)], rows, chosen=True)
    for row in route.revisions:
        yield _to(route, [_is(OVERRIDE, f"{row.deployment}@{row.revision}")], [(row, 1)], chosen=True)
    unknown = {"name": OVERRIDE, "present_match": True}
    yield {**_refuses(refusals.NO_DEPLOYMENT, [_is(ADMITTED, "yes"), unknown]), "metadata": _metadata(route)}


def _by_name(route: EndpointRoute) -> Mapping[str, list[tuple[RouteRevision, int]]]:
    """A name's live revisions in proportion; when none is live, the one listed last."""
    every: dict[str, list[RouteRevision]] = {}
    for row in route.revisions:
        every.setdefault(row.deployment, []).append(row)
    return {name: [(r, r.per_mille) for r in rows if r.per_mille] or [(rows[-1], 1)] for name, rows in every.items()}


def _split(route: EndpointRoute) -> Iterator[Resource]:
    live = [(row, row.per_mille) for row in route.revisions if row.per_mille]
    if not live:
        yield {**_refuses(refusals.NO_DEPLOYMENT, [_is(ADMITTED, "yes")]), "metadata": _metadata(route)}
        return
    mirrors = [_mirror(route, mirror) for mirror in compared(route)]
    if mirrors:  # a long body is not copied
        long = {"name": "content-length", "range_match": {"start": HELD + 1, "end": 2**62}}
        yield _to(route, [long], live)
    yield _to(route, [], live, mirrors)


def compared(route: EndpointRoute) -> Sequence[Mirror]:
    """The mirrors that are sent copies. Echo copies are for pairs only, and pairs are not made here."""
    if not route.repeatable:
        return ()
    return [mirror for mirror in route.mirrors if mirror.kind is PairKind.COMPARE and mirror.per_mille]


def _mirror(route: EndpointRoute, mirror: Mirror) -> Resource:
    """Drawn by the number that also draws the split, in parts of a million: whole rounds of 1,000, so that a copy is
    as likely whichever revision answers.
    """
    said = {COPY: cluster_name(route.name, mirror.revision), GENERATION: str(route.generation)}
    said["headgate-mirror"] = mirror.kind.value
    return {
        "cluster": COPY_DOOR,
        "runtime_fraction": {"default_value": {"numerator": mirror.per_mille * 1000, "denominator": "MILLION"}},
        "disable_shadow_host_suffix_append": True,
        "trace_sampled": False,
        "request_headers_mutations": [{"append": _header(name, value)} for name, value in said.items()],
    }


def _to(
    route: EndpointRoute,
    headers: Sequence[Resource],
    rows: Sequence[tuple[RouteRevision, int]],
    mirrors: Sequence[Resource] = (),
    *,
    chosen: bool = False,
) -> Resource:
    """A route to revisions by weight."""
    action = _action(max(row.request_timeout_ms for row, _ in rows))
    by, _, name = route.sticky.partition(":")
    sticky = bool(name) and not chosen
    if sticky:
        action["hash_policy"] = [{"cookie": {"name": name}} if by == "cookie" else {"header": {"header_name": name}}]
    if mirrors:
        action["request_mirror_policies"] = list(mirrors)
    action["weighted_clusters"] = {
        "clusters": [_weighted(route, row, weight) for row, weight in rows],
        **({"use_hash_policy": True} if sticky else {}),
    }
    action["retry_policy"] = _retries(repeatable=route.repeatable)
    return {
        "match": {"prefix": "/", "headers": [_is(ADMITTED, "yes"), *headers]},
        "route": action,
        "metadata": _metadata(route, chosen=chosen),
    }


def _weighted(route: EndpointRoute, row: RouteRevision, weight: int) -> Resource:
    return {
        "name": cluster_name(route.name, row.revision),
        "weight": weight,
        "request_headers_to_add": [_header(SCORING_PATH, row.scoring_path)],
        "response_headers_to_add": [
            _header(OVERRIDE, row.deployment),
            _header("headgate-revision", row.revision),
            _header(GENERATION, str(route.generation)),
            _header("ms-azureml-model-time", "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:ms)%"),
        ],
    }


def _action(timeout_ms: int) -> Resource:
    """Time without a byte, either way, ends a request; a whole answer may take hours."""
    return {"timeout": "0s", "idle_timeout": f"{timeout_ms / 1000:.3f}s", "auto_host_rewrite": True}


def _retries(*, repeatable: bool) -> Resource:
    """Always what surely was not processed; what may have been once, and only where running twice does no harm."""
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request" + (",reset" if repeatable else ""),
        "num_retries": 1,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 3,
    }


def _metadata(route: EndpointRoute, *, chosen: bool = False) -> Resource:
    said: Resource = {"endpoint": route.name, "generation": str(route.generation)}
    if chosen:
        said["chosen"] = "yes"
    return {"filter_metadata": {METADATA: said, LUA: said}}


def _refuses(refusal: Refusal, headers: Sequence[Resource] = ()) -> Resource:
    said = _says(refusal.status, refusal.body(), headers)
    fields = [("content-type", "application/json"), *((k.decode(), v.decode()) for k, v in refusal.fields)]
    return {**said, "response_headers_to_add": [_header(name, value) for name, value in fields]}


def _says(status: int, body: bytes, headers: Sequence[Resource] = ()) -> Resource:
    return {
        "match": {"prefix": "/", "headers": list(headers)},
        "direct_response": {"status": status, "body": {"inline_string": body.decode()}},
    }


def _is(name: str, value: str) -> Resource:
    return {"name": name, "string_match": {"exact": value}}


def _header(name: str, value: str) -> Resource:
    return {"header": {"key": name, "value": value}, "append_action": _OVERWRITE}

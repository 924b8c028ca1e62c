"""A route table as Envoy's clusters and routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from headgate.evidence import PairKind
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable
from headgate_router.dataplanes.envoy.clusters import clusters, problems
from headgate_router.dataplanes.envoy.resources import callers, cluster_name, copies, host
from headgate_router.tunnels import Limits

BLUE = RouteRevision("blue-1", "blue", 900, ("http://10.0.0.1:8080", "http://10.0.0.2:8080"), "/v1/predict")
GREEN = RouteRevision("green-2", "green", 100, ("http://[fd00::1]:8080",), instances=3, max_concurrent_per_instance=4)
WARM = RouteRevision("red-3", "red", 0, ())


def table(*revisions: RouteRevision, **more: Any) -> RouteTable:
    return RouteTable(7, "c", {"e": EndpointRoute("e", 5, "c", revisions, **more)})


def routes(given: RouteTable, name: str = "e") -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = callers(given, "1", Limits())["virtual_hosts"]
    (found,) = [one["routes"] for one in every if one["name"] == name]
    assert isinstance(found, list)
    return found


def asked(route: Mapping[str, Any]) -> dict[str, str]:
    """The headers that a route wants, with what they must say."""
    return {one["name"]: one.get("string_match", {}).get("exact", "") for one in route["match"]["headers"]}


def weights(route: Mapping[str, Any]) -> dict[str, int]:
    return {one["name"]: one["weight"] for one in route["route"]["weighted_clusters"]["clusters"]}


def test_weights_are_the_tables_per_mille_and_add_up() -> None:
    split = routes(table(BLUE, GREEN, WARM))[-2]
    assert weights(split) == {"e/blue-1": 900, "e/green-2": 100}
    assert asked(split) == {"headgate-admitted": "yes"}


def test_who_asks_for_tls_is_met_by_it_and_beside_plain_ones_or_not_at_all() -> None:
    both = replace(BLUE, upstreams=("http://10.0.0.1:8080", "https://10.0.0.2:8080"))
    cluster = clusters(table(both), lambda revision: revision.upstreams, "/keys")["e/blue-1"]
    marked = [one.get("metadata") for one in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]]
    ((name, wanted),) = marked[1]["filter_metadata"].items()
    assert marked == [None, {"filter_metadata": {"envoy.transport_socket_match": wanted}}]
    (match,) = cluster["transport_socket_matches"]
    assert (name, match["match"]) == ("envoy.transport_socket_match", wanted)
    assert match["transport_socket"]["typed_config"]["sni"] == "models.headgate"
    alone = clusters(table(both), lambda revision: revision.upstreams)["e/blue-1"]
    assert [one["endpoint"]["hostname"] for one in alone["load_assignment"]["endpoints"][0]["lb_endpoints"]] == [
        "10.0.0.1:8080"
    ]
    assert "transport_socket_matches" not in alone
    assert "transport_socket_matches" not in clusters(table(BLUE), lambda r: r.upstreams, "/keys")["e/blue-1"]


def test_every_route_to_a_model_wants_the_mark_that_only_the_filter_sets() -> None:
    every = routes(table(BLUE, GREEN, WARM))
    assert [asked(route).get("headgate-admitted") for route in every if "route" in route] == ["yes"] * 7
    assert every[-1]["direct_response"]["status"] == 401
    assert asked(every[-1]) == {}


def test_the_override_reaches_a_name_in_proportion_one_revision_exactly_and_nothing_else() -> None:
    again = replace(BLUE, revision="blue-9", per_mille=0)
    every = [route for route in routes(table(BLUE, again, GREEN, WARM)) if "azureml-model-deployment" in asked(route)]
    found = {asked(r)["azureml-model-deployment"]: weights(r) for r in every if "route" in r}
    assert found == {
        "blue": {"e/blue-1": 900},
        "green": {"e/green-2": 100},
        "red": {"e/red-3": 1},
        "blue@blue-1": {"e/blue-1": 1},
        "blue@blue-9": {"e/blue-9": 1},
        "green@green-2": {"e/green-2": 1},
        "red@red-3": {"e/red-3": 1},
    }
    assert [r["direct_response"]["status"] for r in every if "route" not in r] == [404]
    assert all(r["metadata"]["filter_metadata"]["headgate"]["chosen"] == "yes" for r in every if "route" in r)


def test_a_drained_endpoint_is_404_and_its_deployments_can_still_be_named() -> None:
    every = routes(table(WARM))
    assert [("route" in r, r.get("direct_response", {}).get("status")) for r in every] == [
        (False, 403), (True, None), (True, None), (False, 404), (False, 404), (False, 401),
    ]  # fmt: skip


def test_an_answer_says_which_revision_gave_it_under_which_generation() -> None:
    (blue, _) = routes(table(BLUE, GREEN))[-2]["route"]["weighted_clusters"]["clusters"]
    said = {one["header"]["key"]: one["header"]["value"] for one in blue["response_headers_to_add"]}
    assert said["azureml-model-deployment"] == "blue"
    assert (said["headgate-revision"], said["headgate-generation"]) == ("blue-1", "5")
    assert blue["request_headers_to_add"][0]["header"] == {"key": "headgate-path", "value": "/v1/predict"}


def test_a_clusters_limits_and_replicas_are_the_revisions() -> None:
    found = clusters(table(BLUE, GREEN), lambda revision: revision.upstreams)
    assert sorted(found) == ["e/blue-1", "e/green-2"]
    green = found["e/green-2"]
    assert green["circuit_breakers"]["thresholds"][0]["max_connections"] == 12
    (at,) = green["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert at["endpoint"]["hostname"] == "[fd00::1]:8080"
    assert at["endpoint"]["address"]["socket_address"] == {"address": "fd00::1", "port_value": 8080}
    assert len(found["e/blue-1"]["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2


def test_copies_go_through_a_door_of_their_own_to_connections_of_their_own() -> None:
    given = table(BLUE, replace(WARM, request_timeout_ms=700), mirrors=(Mirror("red-3", 200),))
    live = routes(given)[-2]["route"]
    (policy,) = live["request_mirror_policies"]
    assert policy["cluster"] == "headgate-copies"
    assert policy["runtime_fraction"]["default_value"] == {"numerator": 200_000, "denominator": "MILLION"}
    (copied, _) = copies(given)["virtual_hosts"][0]["routes"]
    assert copied["route"]["cluster"] == "e/red-3/copies"
    assert copied["route"]["idle_timeout"] == "0.700s"
    assert "e/red-3/copies" in clusters(given, lambda revision: revision.upstreams)


@pytest.mark.parametrize(
    "more",
    [
        {"mirrors": (Mirror("red-3", 200),), "repeatable": False},
        {"mirrors": (Mirror("blue-1", 200, PairKind.ECHO),)},
        {"mirrors": (Mirror("red-3", 0),)},
    ],
    ids=["not repeatable", "echo", "nothing"],
)
def test_what_is_not_to_be_copied_has_no_mirror(more: dict[str, Any]) -> None:
    given = table(BLUE, WARM, **more)
    assert "request_mirror_policies" not in routes(given)[-2]["route"]
    assert len(copies(given)["virtual_hosts"][0]["routes"]) == 1


def test_neither_long_bodies_nor_chosen_revisions_are_copied() -> None:
    every = [r for r in routes(table(BLUE, WARM, mirrors=(Mirror("red-3", 200),))) if "route" in r]
    copied = [r for r in every if "request_mirror_policies" in r["route"]]
    assert copied == every[-1:]
    assert every[-2]["match"]["headers"][1]["range_match"]["start"] == 1024 * 1024 + 1


@pytest.mark.parametrize(
    ("sticky", "policy"),
    [("header:x-user", {"header": {"header_name": "x-user"}}), ("cookie:user", {"cookie": {"name": "user"}})],
    ids=["header", "cookie"],
)
def test_a_sticky_split_hashes_what_the_caller_brings(sticky: str, policy: dict[str, Any]) -> None:
    action = routes(table(BLUE, GREEN, sticky=sticky))[-2]["route"]
    assert action["hash_policy"] == [policy]
    assert action["weighted_clusters"]["use_hash_policy"] is True


def test_a_handshake_is_led_as_any_request_with_times_of_its_own_and_no_copies() -> None:
    given = table(replace(BLUE, websocket=True), GREEN, WARM, mirrors=(Mirror("red-3", 200),), sticky="header:x-user")
    every = [one for one in routes(given) if "upgrade" in asked(one) and "route" in one]
    split = every[-1]["route"]
    assert weights(every[-1]) == {"e/blue-1": 900, "e/green-2": 100}
    assert (split["idle_timeout"], split["max_stream_duration"]) == ("120.000s", {"max_stream_duration": "14400.000s"})
    assert split["hash_policy"] == routes(given)[-2]["route"]["hash_policy"]
    assert not [one for one in every if "request_mirror_policies" in one["route"]]
    assert {asked(one).get("azureml-model-deployment") for one in every} > {"blue", "green@green-2", "red"}


def met(given: RouteTable, **headers: str) -> dict[str, Any]:
    """The route that Envoy takes for an admitted request: the first one that has nothing against it."""
    said = {"headgate-admitted": "yes", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return next(
        one
        for one in routes(given)
        if all(name in said and wanted in ("", said[name]) for name, wanted in asked(one).items())
    )


@pytest.mark.parametrize("headers", [{}, {"upgrade": "websocket"}], ids=["request", "handshake"])
def test_a_named_deployment_is_met_and_one_that_is_not_there_is_404_where_others_speak_websocket(
    headers: dict[str, str],
) -> None:
    given = table(replace(BLUE, websocket=True), GREEN, WARM)
    for name, cluster in (("blue", "e/blue-1"), ("green", "e/green-2"), ("red@red-3", "e/red-3")):
        found = met(given, azureml_model_deployment=name, **headers)
        assert list(weights(found)) == [cluster]
        assert ("upgrade" in asked(found)) is bool(headers)
    unknown = met(given, azureml_model_deployment="pink", **headers)
    assert unknown["direct_response"]["status"] == 404


def test_a_revision_that_takes_no_websocket_keeps_its_share_and_refuses() -> None:
    (blue, green) = next(
        one["route"]["weighted_clusters"]["clusters"]
        for one in routes(table(replace(BLUE, websocket=True), GREEN))
        if list(asked(one)) == ["headgate-admitted", "upgrade"]
    )
    assert "typed_per_filter_config" not in blue
    assert green["typed_per_filter_config"]["envoy.filters.http.fault"]["abort"]["http_status"] == 403
    assert "response_headers_to_add" not in green


def test_where_no_revision_takes_a_websocket_the_route_refuses() -> None:
    (refusing,) = [one for one in routes(table(BLUE, GREEN)) if "upgrade" in asked(one)]
    assert refusing["direct_response"]["status"] == 403


@pytest.mark.parametrize(("repeatable", "reset"), [(True, True), (False, False)], ids=["repeatable", "not"])
def test_only_a_repeatable_request_that_may_have_run_is_sent_again(repeatable: bool, reset: bool) -> None:
    retries = routes(table(BLUE, repeatable=repeatable))[-2]["route"]["retry_policy"]
    assert ("reset" in retries["retry_on"].split(",")) is reset
    assert "connect-failure" in retries["retry_on"].split(",")


def test_hosts_have_no_case_and_names_do() -> None:
    assert host("fraud-2") == "fraud-2"
    assert host("FraudA") == "_fraud_a"
    assert len({host(name) for name in ("fraud", "Fraud", "fRaud")}) == 3


def test_no_table_still_answers_pages_and_probes() -> None:
    every = {one["name"]: one for one in callers(None, "0", Limits())["virtual_hosts"]}
    assert sorted(every) == ["pages.headgate", "probe.headgate", "unknown"]
    assert every["probe.headgate"]["routes"][0]["direct_response"]["body"] == {"inline_string": "0"}
    assert every["unknown"]["routes"][0]["direct_response"]["status"] == 404


@pytest.mark.parametrize(("address", "port"), [("http://10.0.0.1", 80), ("https://10.0.0.1", 443)])
def test_an_address_without_a_port_means_its_schemes_own(address: str, port: int) -> None:
    cluster = clusters(table(BLUE), lambda revision: (address,), "/keys")["e/blue-1"]
    (host,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert host["endpoint"]["address"]["socket_address"] == {"address": "10.0.0.1", "port_value": port}


def test_a_replica_that_is_no_address_refuses_the_table() -> None:
    bad = replace(BLUE, upstreams=("http://model.local:80", "http://10.0.0.1:99"))
    assert problems(table(bad)) == ("e: replica http://model.local:80 is no IP address and port",)
    assert problems(table(BLUE, GREEN, WARM)) == ()


def test_names_of_clusters_tell_live_from_copies() -> None:
    assert cluster_name("e", "r") == "e/r"
    assert cluster_name("e", "r", copies=True) == "e/r/copies"

"""EndpointSlices as clusters write them, to addresses."""

from __future__ import annotations

from typing import Any

import pytest

from headgate_router.resolvers.slices import ServicePort, addresses, parse, remaining, zone_of


def place(ip: str, zone: str = "", *, hints: tuple[str, ...] = (), **conditions: bool | None) -> dict[str, Any]:
    hinted = {"hints": {"forZones": [{"name": name} for name in hints]}} if hints else {}
    return {"addresses": [ip], "conditions": conditions, **({"zone": zone} if zone else {}), **hinted}


def one(*endpoints: dict[str, Any], family: str = "IPv4", ports: Any = None) -> dict[str, Any]:
    listed = [{"name": "http", "port": 8080}] if ports is None else ports
    return {"addressType": family, "endpoints": list(endpoints), "ports": listed}


def hosts(*found: str) -> list[str]:
    return [address.removeprefix("http://").removesuffix(":8080") for address in found]


def test_a_service_is_read() -> None:
    assert parse("k8s:ml/fraud-1a2b:8080") == ServicePort("ml", "fraud-1a2b", "8080")
    assert parse("k8s:ml/fraud-1a2b:http").port == "http"


@pytest.mark.parametrize(
    "text", ["k8s:fraud:8080", "k8s:ml/fraud", "k8s:ML/fraud:1", "k8s:ml/a/b:1", "k8s:ml/fraud:1\n"]
)
def test_what_names_no_service_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="k8s:NAMESPACE/SERVICE:PORT"):
        parse(text)


@pytest.mark.parametrize(
    ("conditions", "used"),
    [
        pytest.param({"ready": True}, True, id="ready"),
        pytest.param({}, True, id="not-said-counts-as-ready"),
        pytest.param({"ready": None}, True, id="null-counts-as-ready"),
        pytest.param({"ready": False}, False, id="not-ready"),
        pytest.param({"ready": False, "serving": True, "terminating": True}, False, id="terminating"),
        pytest.param({"ready": True, "terminating": True}, False, id="published-though-not-ready-and-terminating"),
    ],
)
def test_who_is_asked_beside_a_ready_replica(conditions: dict[str, bool | None], used: bool) -> None:
    found = addresses([one(place("10.0.0.9", ready=True), place("10.0.0.1", **conditions))], "8080")
    assert ("http://10.0.0.1:8080" in found) is used
    assert "http://10.0.0.9:8080" in found


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        pytest.param({}, "http", id="nothing said"),
        pytest.param({"appProtocol": "https"}, "https", id="https"),
        pytest.param({"appProtocol": "kubernetes.io/h2c"}, "http", id="another protocol"),
        pytest.param({"appProtocol": None}, "http", id="null"),
    ],
)
@pytest.mark.parametrize("port", ["8080", "http", "80"])
def test_the_port_says_whether_its_replicas_speak_tls(said: dict[str, Any], scheme: str, port: str) -> None:
    here = one(place("10.0.0.1"), ports=[{"name": "http", "port": 8080, **said}])
    assert addresses([here], port) == (f"{scheme}://10.0.0.1:8080",)


def test_when_none_is_ready_those_that_serve_while_they_end_are_asked() -> None:
    ending = place("10.0.0.1", ready=False, serving=True, terminating=True)
    dead = place("10.0.0.2", ready=False, serving=False, terminating=True)
    starting = place("10.0.0.3", ready=False, serving=False)
    assert hosts(*addresses([one(ending, dead, starting)], "8080")) == ["10.0.0.1"]


def test_slices_are_joined_and_each_replica_is_there_once() -> None:
    found = addresses([one(place("10.0.0.2"), place("10.0.0.1")), one(place("10.0.0.2"))], "8080")
    assert hosts(*found) == ["10.0.0.1", "10.0.0.2"]


def test_a_replica_with_addresses_of_two_families_is_asked_at_one() -> None:
    both = [one(place("fd00::1"), family="IPv6"), one(place("10.0.0.1"))]
    assert addresses(both, "8080") == ("http://10.0.0.1:8080",)
    assert addresses(both[:1], "8080") == ("http://[fd00::1]:8080",)


@pytest.mark.parametrize(
    ("ports", "asked", "number"),
    [
        pytest.param([{"name": "http", "port": 9000}, {"name": "admin", "port": 1}], "http", 9000, id="by-name"),
        pytest.param([{"name": "a", "port": 9000}, {"name": "b", "port": 8080}], "8080", 8080, id="by-number"),
        pytest.param([{"name": "", "port": 9000}], "80", 9000, id="the-only-one"),
        pytest.param([], "8080", 8080, id="headless-without-ports"),
        pytest.param([{"name": "a", "port": 1}, {"name": "b", "port": 2}], "8080", None, id="neither"),
        pytest.param([], "http", None, id="a-name-nobody-gave"),
        pytest.param([{"name": "a", "port": None}], "http", None, id="no-number"),
    ],
)
def test_the_port(ports: list[Any], asked: str, number: int | None) -> None:
    found = addresses([one(place("10.0.0.1"), ports=ports)], asked)
    assert found == (() if number is None else (f"http://10.0.0.1:{number}",))


NEAR, FAR = place("10.0.0.1", "a"), place("10.0.0.2", "b")


@pytest.mark.parametrize(
    ("endpoints", "zone", "used"),
    [
        pytest.param([NEAR, FAR], "a", ["10.0.0.1"], id="our-zone-with-its-share"),
        pytest.param([NEAR, FAR], "", ["10.0.0.1", "10.0.0.2"], id="zone-not-known"),
        pytest.param([NEAR, FAR], "c", ["10.0.0.1", "10.0.0.2"], id="none-in-our-zone"),
        pytest.param(
            [NEAR, FAR, place("10.0.0.3", "b")], "a", ["10.0.0.1", "10.0.0.2", "10.0.0.3"], id="one-beside-us-of-three"
        ),
        pytest.param([NEAR, place("10.0.0.3", "a"), FAR], "a", ["10.0.0.1", "10.0.0.3"], id="most-in-our-zone"),
        pytest.param(
            [place("10.0.0.1", "a", hints=("b",)), place("10.0.0.2", "b", hints=("a",))], "a", ["10.0.0.2"],
            id="the-clusters-hints-decide",
        ),
        pytest.param(
            [place("10.0.0.1", "a", hints=("a",)), FAR], "b", ["10.0.0.2"], id="hints-of-some-are-no-hints"
        ),
    ],
)  # fmt: skip
def test_the_zone(endpoints: list[Any], zone: str, used: list[str]) -> None:
    assert hosts(*addresses([one(*endpoints)], "8080", zone)) == used


def test_those_asked_before_are_asked_on_while_they_are_listed_and_do_not_end() -> None:
    lost, other = place("10.0.0.1", ready=False), place("10.0.0.2", ready=False)
    ends = place("10.0.0.3", ready=False, serving=False, terminating=True)
    asked = [f"http://10.0.0.{n}:8080" for n in (1, 3, 4)]
    assert addresses([one(lost, other, ends)], "8080") == ()
    assert hosts(*remaining([one(lost, other, ends)], "8080", asked)) == ["10.0.0.1"]
    assert remaining([one(lost)], "8080", ()) == (), "one that never was ready is not asked"


def test_our_zone_is_found_by_our_address() -> None:
    known = [one(NEAR), one(FAR)]
    assert (zone_of(known, "10.0.0.2"), zone_of(known, "10.9.9.9")) == ("b", "")


@pytest.mark.parametrize("odd", [{}, {"endpoints": None}, {"endpoints": [{}], "ports": None}], ids=str)
def test_a_slice_without_endpoints_has_none(odd: dict[str, Any]) -> None:
    assert addresses([odd], "8080") == ()

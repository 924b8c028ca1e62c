from __future__ import annotations

from dataclasses import replace

import pytest

from headgate import codec
from headgate.evidence import PairKind
from headgate.table import SCHEMA, EndpointRoute, Mirror, RouteRevision, RouteTable, dialled, problems, received, seal


def route(*shares: int, mirrors: tuple[Mirror, ...] = ()) -> EndpointRoute:
    rows = tuple(RouteRevision(f"r{i}", f"d{i}", share, ("http://127.0.0.1:1",)) for i, share in enumerate(shares))
    return EndpointRoute("fraud", 1, "c" * 40, rows, mirrors)


def table(found: EndpointRoute, generation: int = 3) -> RouteTable:
    return seal(RouteTable(generation, "c" * 40, {"fraud": found}))


@pytest.mark.parametrize("shares", [(1000,), (950, 50), (0, 0), (1000, 0)])
def test_a_table_that_adds_up_is_accepted(shares: tuple[int, ...]) -> None:
    assert problems(table(route(*shares))) == ()


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (route(950), "adds up to 950"),
        (route(1100, -100), "adds up to 1000"),
        (replace(route(1000), name="other"), "another name"),
        (route(1000, mirrors=(Mirror("r9", 100),)), "no upstreams"),
        (route(900, 100, mirrors=(Mirror("r1", 100),)), "live traffic"),
        (route(1000, 0, mirrors=(Mirror("r1", 1001),)), "1001 per mille"),
    ],
    ids=["gap", "negative", "name", "mirror-unknown", "mirror-live", "mirror-share"],
)
def test_a_table_that_does_not_add_up_is_refused(found: EndpointRoute, says: str) -> None:
    assert any(says in text for text in problems(table(found)))


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1",
        "https://10.0.0.1",
        "http://[::1]:65535",
        "http://[fe80::1%eth0]:80",
        "http://model-0.models.ns.svc:8080",
        "http://under_score.example.:8080",
        f"http://{'a' * 63}.{'b' * 63}",
    ],
)
def test_addresses_that_a_router_can_dial_are_taken(address: str) -> None:
    assert dialled(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:80",
        "ftp://127.0.0.1",
        "http://",
        "http://:80",
        "http://[",
        "http://[::1",
        "http://[nobody]",
        "http://h:",
        "http://h:0",
        "http://h:65536",
        "http://h:x",
        "http://h:80/path",
        "http://user@h:80",
        "http://a b:80",
        "http://h:80\n",
        "http://h:80\r\nx: y",
        f"http://{'a' * 64}:80",
        f"http://{'a.' * 127}a:80",
        "http://a..b:80",
        "http://.:80",
        "http://b\u00fccher.example:80",
    ],
)
def test_addresses_that_nobody_can_have_refuse_the_table(address: str) -> None:
    assert not dialled(address)
    rows = (RouteRevision("r0", "d0", 1000, ("http://127.0.0.1:1", address)),)
    (said,) = problems(table(replace(route(1000), revisions=rows)))
    assert said.startswith("fraud: r0: no replica can be dialled at ")


def test_an_echo_goes_to_a_live_revision() -> None:
    assert problems(table(route(1000, mirrors=(Mirror("r0", 50, PairKind.ECHO),)))) == ()


def test_an_older_table_a_newer_schema_and_a_changed_byte_are_refused() -> None:
    serving = table(route(1000), generation=5)
    assert any("older" in p for p in problems(table(route(1000), generation=4), serving))
    assert any("newer" in p for p in problems(seal(replace(serving, schema=SCHEMA + 1))))
    with pytest.raises(codec.CodecError, match="hash does not match"):
        received({**codec.to_data(serving), "commit": "d" * 40})


def test_a_table_of_a_newer_version_is_whole_and_its_unknown_fields_are_counted() -> None:
    sent = codec.to_data(table(route(900, 100)))
    sent["endpoints"]["fraud"]["zone"] = "eu"
    sent["hash"] = codec.digest({**sent, "hash": ""})
    read = received(sent)
    assert problems(read) == ()
    assert codec.unknown_fields(sent, read) == ("endpoints.fraud.zone",)


def test_a_table_of_an_older_version_is_whole_with_our_defaults() -> None:
    sent = codec.to_data(table(route(1000)))
    for row in sent["endpoints"]["fraud"]["revisions"]:
        del row["service"]
    sent["hash"] = codec.digest({**sent, "hash": ""})
    assert received(sent).endpoints["fraud"].revisions[0].service == ""


def test_a_missing_field_refuses_the_message() -> None:
    data = codec.to_data(table(route(1000)))
    del data["endpoints"]["fraud"]["revisions"]
    with pytest.raises(codec.CodecError, match="revisions"):
        codec.decode(RouteTable, data)

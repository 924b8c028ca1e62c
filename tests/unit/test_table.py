from __future__ import annotations

from dataclasses import replace

import pytest

from headgate import codec
from headgate.evidence import PairKind
from headgate.table import SCHEMA, EndpointRoute, Mirror, RouteRevision, RouteTable, problems, received, seal


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

"""Values to canonical bytes and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from headgate import codec
from headgate.control import ExchangeRequest
from headgate.evidence import Counts, Look, Outcome
from headgate.rollout import Head
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate.testing import World, deployment, target


@dataclass(frozen=True)
class Part:
    size: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole:
    name: str
    parts: dict[str, Part] = field(default_factory=dict)
    list: tuple[Part, ...] = ()


def test_equal_values_have_equal_bytes_whatever_order_they_were_made_in() -> None:
    a, b = Whole("x", {"q": Part(1), "p": Part(2)}), Whole("x", {"p": Part(2), "q": Part(1)})
    assert codec.canonical(a) == codec.canonical(b)
    assert codec.canonical(a) == b'{"list":[],"name":"x","parts":{"p":{"names":[],"size":2},"q":{"names":[],"size":1}}}'
    assert codec.digest(a) == codec.digest(b)
    assert len(codec.digest(a)) == 64


def test_a_head_comes_back_from_bytes_text_and_data() -> None:
    head = World().commit(target("b1", [deployment("blue")], {"blue": 100})).head
    content = codec.canonical(head)
    assert codec.decode(Head, content) == codec.decode(Head, content.decode()) == head
    assert codec.decode(Head, codec.to_data(head)) == head


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "Whole: Input data was truncated"),
        (b"[]", "Whole: Expected `object`"),
        (b"{}", "missing required field `name`"),
        (b'{"name": 1}', r"Expected `str`, got `int` - at `\$.name`"),
        (b'{"name": "x", "parts": {"p": {}}}', r"missing required field `size` - at `\$.parts"),
        ({"name": None}, "Expected `str`, got `null`"),
    ],
)
def test_a_message_that_cannot_be_read_names_the_field(content: object, says: str) -> None:
    with pytest.raises(codec.CodecError, match=says):
        codec.decode(Whole, content)


def test_a_newer_message_is_read_and_what_was_dropped_is_told() -> None:
    data = {"name": "x", "zone": "eu", "parts": {"p": {"size": 1, "colour": 2}}}
    whole = codec.decode(Whole, data)
    assert whole == Whole("x", {"p": Part(1)})
    assert codec.unknown_fields(data, whole) == ("zone", "parts.p.colour")


def test_a_message_whole_in_all_its_fields_drops_nothing() -> None:
    message = ExchangeRequest("router-0", "b", 0, None)
    assert codec.unknown_fields(codec.to_data(message), message) == ()


def test_bytes_that_are_no_text_are_refused_like_any_other_message() -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(RouteTable, b'{"generation": 1, "commit": "\xff\xfe"}')


def test_fields_dropped_inside_lists_are_named_too() -> None:
    sent = seal(RouteTable(1, "c", {"a": EndpointRoute("a", 1, "c", (RouteRevision("r", "d", 1000, ("u",)),))}))
    data = codec.to_data(sent)
    row = {**data["endpoints"]["a"]["revisions"][0], "zone": "eu"}
    data["endpoints"]["a"]["revisions"] = [row]
    assert codec.unknown_fields(data, codec.decode(RouteTable, data)) == ("endpoints.a.revisions[0].zone",)


def test_keys_that_are_no_text_are_sorted_as_text() -> None:
    assert codec.canonical({100: 1, 9: 2, 10: 3}) == b'{"10":3,"100":1,"9":2}'
    counts = Counts({"ok": 3}, {99: 1, 9: 2, 100: 3})
    assert b'"latency":{"100":3,"9":2,"99":1}' in codec.canonical(counts)


@pytest.mark.parametrize(
    "value",
    [
        World().commit(target("b1", [deployment("blue")], {"blue": 100})).head,
        World().commit(target("b1", [deployment("blue")], {"blue": 100})).route,
        {Outcome.OK: 1, "a": 2, "Z": 3},
        {"é": 1, "z": [{"b": 1, "a": 2.5}], "\U0001f600": None},
        [frozenset({"b", "a", "c"})],
        Look("step", 3, 12.5, 1.0, Counts({Outcome.OK: 3}, dict.fromkeys((99, 9, 100), 1))),
    ],
    ids=["head", "route", "enum-keys", "text-beyond-ascii", "a-set", "look"],
)
def test_canonical_bytes_are_those_of_the_data_sorted(value: object) -> None:
    assert (
        codec.canonical(value)
        == json.dumps(codec.to_data(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )

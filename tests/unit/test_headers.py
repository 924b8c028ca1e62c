"""What goes on, what ends at the router, what it reads for itself."""

from __future__ import annotations

import pytest

from headgate_router import headers


def test_fields_pass_in_order_with_repeats() -> None:
    fields = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert headers.read(fields).passed == fields
    assert headers.of_answer(fields) == fields


@pytest.mark.parametrize("value", [b"X-One, close", b" x-one ,x-two", b"keep-alive, X-ONE"])
def test_what_connection_names_ends_here_both_ways(value: bytes) -> None:
    fields = [(b"connection", value), (b"x-one", b"1"), (b"kept", b"2")]
    assert headers.read(fields).passed == [(b"kept", b"2")]
    assert headers.of_answer(fields) == [(b"kept", b"2")]


def test_connection_cannot_take_away_the_length_of_an_answer() -> None:
    fields = [(b"connection", b"content-length"), (b"content-length", b"5")]
    assert headers.of_answer(fields) == [(b"content-length", b"5")]


@pytest.mark.parametrize(
    ("value", "length"), [(b"12", 12), (b"0", 0), (b"-1", None), (b"+1", None), (b"1" * 30, None), (b"", None)]
)
def test_only_a_plain_number_is_a_length(value: bytes, length: int | None) -> None:
    assert headers.read([(b"content-length", value)]).length == length


def test_a_caller_cannot_pretend_to_be_a_copy() -> None:
    asked = headers.read([(b"headgate-mirror", b"compare"), (b"headgate-revision", b"x"), (b"kept", b"1")])
    assert asked.passed == [(b"kept", b"1")]


def test_cookies_are_found_among_others() -> None:
    fields = [(b"cookie", b"a=1; user=x=y"), (b"cookie", b"b=2")]
    assert headers.cookie(fields, b"user") == b"x=y"
    assert headers.cookie(fields, b"b") == b"2"
    assert headers.cookie(fields, b"use") == b""


def test_a_reason_becomes_one_printable_line() -> None:
    assert headers.one_line(b"Out of\r\nmemory \xff") == b"Out of??memory ?"
    assert len(headers.one_line(b"x" * 5000)) == headers.MAX_REASON

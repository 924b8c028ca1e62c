"""Lines of Envoy's log of requests, in the books."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headgate.evidence import Batch
from headgate_router.count import Book
from headgate_router.dataplanes.envoy.lines import count
from headgate_router.tunnels import Why

WHOLE: dict[str, Any] = {
    "kind": "live", "endpoint": "e", "generation": "5", "chosen": None, "cluster": "e/rev", "status": 200,
    "flags": "-", "details": "via_upstream", "closed": None, "bytes": 20, "first_us": 3000, "whole_us": 4000, "ms": 5,
}  # fmt: skip


def booked(**more: Any) -> Batch:
    book = Book()
    count(book, json.dumps({**WHOLE, **more}).encode())
    (batch,) = book.seal(1.0)
    return batch


@pytest.mark.parametrize(
    ("more", "outcome", "status", "timed"),
    [
        ({}, "ok", "200", True),
        ({"status": 424}, "model_error", "424", True),
        ({"flags": "SI", "status": 408, "details": "stream_idle_timeout", "whole_us": None}, "timeout", "408", True),
        ({"flags": "SI", "details": "stream_idle_timeout", "whole_us": None}, "timeout", "200", True),
        ({"flags": "UO", "status": 429, "details": "overflow", "first_us": None}, "refused", "429", False),
        ({"flags": "UH", "status": 503, "details": "no_healthy", "first_us": None}, "refused", "503", False),
        ({"flags": "UC", "status": 502, "details": "reset", "first_us": None}, "refused", "502", False),
        ({"flags": "UC", "details": "reset_after", "whole_us": None}, "truncated", "200", False),
        ({"flags": "DC", "status": 0, "first_us": None}, "client_gone", "499", False),
        ({"flags": "DC", "whole_us": None}, "client_gone", "499", False),
    ],
    ids=["ok", "424", "no head in time", "stands still", "busy", "no replica", "broken", "cut", "left early", "left"],
)
def test_what_became_of_a_request(more: dict[str, Any], outcome: str, status: str, timed: bool) -> None:
    batch = booked(**more)
    counts = batch.live["rev"]
    assert (batch.endpoint, batch.generation) == ("e", 5)
    assert counts.outcomes == {outcome: 1}
    assert batch.statuses == {status: 1}
    assert bool(counts.latency) is timed


@pytest.mark.parametrize(
    ("flags", "details", "closed", "why", "outcome", "status"),
    [
        ("UC", "upstream_reset_after_response_started{connection_termination}", "", Why.MODEL_LOST, "truncated", "101"),
        ("UC", "upstream_reset_after_response_started{connection_termination}", "model", Why.MODEL, "ok", "101"),
        ("UC", "upstream_reset_after_response_started{connection_termination}", "caller", Why.CALLER, "ok", "101"),
        ("DC", "downstream_remote_disconnect", "", Why.CALLER_LOST, "client_gone", "499"),
        ("DC", "downstream_remote_disconnect", "model", Why.MODEL, "ok", "101"),
        ("DC", "downstream_local_disconnect(purging)", "", Why.DRAINED, "ok", "101"),
        ("SI", "stream_idle_timeout", "", Why.IDLE, "ok", "101"),
        ("-", "max_duration_timeout", "", Why.LIFE, "ok", "101"),
    ],
    ids=lambda value: value.value if isinstance(value, Why) else "",
)
def test_a_tunnel_is_one_request_without_a_duration_and_its_end_has_a_reason(
    flags: str, details: str, closed: str, why: Why, outcome: str, status: str
) -> None:
    book = Book()
    more = {"status": 101, "flags": flags, "details": details, "closed": closed or None, "whole_us": None}
    count(book, json.dumps({**WHOLE, **more}).encode())
    (batch,) = book.seal(1.0)
    assert (batch.live["rev"].outcomes, batch.live["rev"].latency, batch.statuses) == ({outcome: 1}, {}, {status: 1})
    assert sum(batch.live["rev"].first_byte.values()) == 1
    assert book.tunnels.ended == {why: 1}


@pytest.mark.parametrize("status", [400, 403, 413])
def test_what_was_refused_before_it_was_sent_blames_no_revision(status: int) -> None:
    batch = booked(status=status, details="ours", first_us=None, whole_us=None)
    assert (batch.live, batch.statuses) == ({}, {str(status): 1})


def test_an_answer_to_a_handshake_is_an_answer() -> None:
    assert booked(details="websocket_handshake_unsuccessful").live["rev"].outcomes == {"ok": 1}


def test_a_whole_answer_has_its_times_and_its_requests_size() -> None:
    counts = booked(bytes=5000).live["rev"]
    assert (counts.quantile_ms(0.5), list(counts.sizes)) == (pytest.approx(4, rel=0.05), [2])
    assert sum(counts.first_byte.values()) == 1


def test_a_revision_that_the_caller_chose_is_counted_as_chosen() -> None:
    assert booked(chosen="yes").chosen == {"rev": 1}


@pytest.mark.parametrize(
    "more", [{"cluster": None, "status": 401}, {"status": 413}], ids=["no entry", "too long"]
)  # fmt: skip
def test_what_reached_no_revision_is_counted_by_its_status(more: dict[str, Any]) -> None:
    batch = booked(**more)
    assert batch.live == {}
    assert sum(batch.statuses.values()) == 1


def test_what_names_no_endpoint_is_counted_and_the_routers_own_pages_are_not() -> None:
    book = Book()
    for cluster, status in ((None, 404), ("headgate", 200)):
        line = {**WHOLE, "endpoint": None, "generation": None, "cluster": cluster, "status": status}
        count(book, json.dumps(line).encode())
    assert book.unrouted == {404: 1}
    assert book.empty


@pytest.mark.parametrize(
    ("more", "mirrored", "dropped"),
    [
        ({}, {"ok": 1}, {"not_sampled": 1}),
        ({"status": 424}, {"model_error": 1}, {"not_sampled": 1}),
        ({"flags": "UF", "status": 503, "first_us": None}, {"refused": 1}, {"copy_failed": 1}),
        ({"flags": "UO", "status": 503, "first_us": None}, {}, {"busy": 1}),
        ({"flags": "UH", "status": 503, "first_us": None}, {}, {"no_upstream": 1}),
    ],
    ids=["ok", "error", "refused", "too many", "no replica"],
)
def test_copies_are_counted_apart_and_never_paired(
    more: dict[str, Any], mirrored: dict[str, int], dropped: dict[str, int]
) -> None:
    batch = booked(kind="copy", cluster="e/rev/copies", **more)
    assert batch.live == {}
    assert {k: v for counts in batch.mirrored.values() for k, v in counts.outcomes.items()} == mirrored
    assert batch.dropped == dropped


@pytest.mark.parametrize("raw", [b"", b"{}", b"[warning] disk"], ids=["empty", "nothing in it", "another text"])
def test_what_is_no_such_line_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(ValueError):
        count(Book(), raw)

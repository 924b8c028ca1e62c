"""Counts are additive, sealed once, and bounded."""

from __future__ import annotations

from headgate.evidence import Answer, Outcome, Pair, PairKind, add, bucket
from headgate.table import EndpointRoute, RouteRevision, RouteTable
from headgate_router import count
from headgate_router.count import Book
from headgate_router.streams import Stream


def pair(size: int = 1) -> Pair:
    answer = Answer("r", 200, "application/json", "x" * size)
    return Pair(PairKind.COMPARE, "id", answer, answer)


def test_a_request_is_counted_under_the_generation_that_routed_it() -> None:
    book = Book()
    book.live("e", 3, "r", Outcome.OK, 200, 10.0, 8.0)
    book.live("e", 4, "r", Outcome.MODEL_ERROR, 424, 10.0, 8.0)
    by_generation = {batch.generation: batch for batch in book.seal(2.0)}
    assert by_generation[3].live["r"].outcomes == {"ok": 1}
    assert by_generation[4].live["r"].outcomes == {"model_error": 1}
    assert by_generation[4].statuses == {"424": 1}
    assert by_generation[3].seconds == 2.0


def test_latency_goes_to_the_shared_buckets() -> None:
    book = Book()
    book.live("e", 1, "r", Outcome.OK, 200, 12.0, 7.0)
    (batch,) = book.seal(1.0)
    assert batch.live["r"].latency == {bucket(12.0): 1}
    assert batch.live["r"].first_byte == {bucket(7.0): 1}


def test_more_kinds_of_requests_than_are_counted_together_add_up() -> None:
    book = Book()
    kinds = count.MAX_TALLIES + 10
    for _ in range(2):
        for status in range(kinds):
            book.live("e", 1, "r", Outcome.OK, status, 12.0, 7.0, size=10)
    (batch,) = book.seal(1.0)
    assert batch.live["r"].outcomes == {"ok": 2 * kinds}
    assert batch.live["r"].sizes == {0: {bucket(12.0): 2 * kinds}}
    assert batch.statuses == {str(status): 2 for status in range(kinds)}


def test_what_is_counted_together_stays_little_when_nobody_looks() -> None:
    slots = count.Slots()
    for status in range(3 * count.MAX_TALLIES):
        slots.add(Outcome.OK, status, 12.0, 7.0, size=10)
    assert len(slots._tallies) <= count.MAX_TALLIES
    assert slots.counts().requests == 3 * count.MAX_TALLIES


def test_a_look_between_two_requests_changes_no_count() -> None:
    """Alike ones under two generations and for two revisions, looked at in every way between them."""
    book, batches = Book(), []
    for n in range(6):
        book.live("e", n // 3, f"r{n % 2}", Outcome.OK, 200, 12.0, 7.0, size=10)
        book.mirrored("e", n // 3, "c", Outcome.TIMEOUT, 0, 30.0, None, size=10)
        assert sum(slots.statuses[200] for slots in book.totals().live.values()) == n + 1
        if n == 4:
            batches += book.seal(1.0)
    batches += book.seal(2.0)
    sent = [(batch.generation, name, counts.requests) for batch in batches for name, counts in batch.live.items()]
    assert sent == [(0, "r0", 2), (0, "r1", 1), (1, "r1", 1), (1, "r0", 1), (1, "r1", 1)]
    assert [batch.mirrored["c"].outcomes for batch in batches] == [{"timeout": 3}, {"timeout": 2}, {"timeout": 1}]
    assert [batch.statuses for batch in batches] == [{"200": 3}, {"200": 2}, {"200": 1}]
    totals = book.totals()
    assert {revision: slots.sizes for (_, revision), slots in totals.live.items()} == {
        "r0": {0: {bucket(12.0): 3}},
        "r1": {0: {bucket(12.0): 3}},
    }
    assert totals.mirrored["e", "c"].statuses == {0: 6}


def test_latency_is_kept_by_the_size_of_the_request_too_when_it_is_known() -> None:
    book = Book()
    for size in (10, 2_000, 3_000, None):
        book.live("e", 1, "r", Outcome.OK, 200, 12.0, 7.0, size=size)
    book.mirrored("e", 1, "c", Outcome.OK, 200, 12.0, 7.0, size=10**7)
    assert book.totals().live[("e", "r")].sizes == {0: {bucket(12.0): 1}, 1: {bucket(12.0): 2}}
    (batch,) = book.seal(1.0)
    assert batch.live["r"].sizes == {0: {bucket(12.0): 1}, 1: {bucket(12.0): 2}}
    assert batch.mirrored["c"].sizes == {7: {bucket(12.0): 1}}
    assert add([batch.live["r"], batch.live["r"]]).sizes == {0: {bucket(12.0): 2}, 1: {bucket(12.0): 4}}


def test_an_event_stream_is_counted_by_its_times_and_its_end() -> None:
    book = Book()
    for outcome, finish in (
        (Outcome.OK, b'"finish_reason": "length"'),
        (Outcome.TRUNCATED, b""),
        (Outcome.CLIENT_GONE, b""),
    ):
        stream = Stream()
        for at in range(4):
            stream.add(b"data: x" + finish + b"\n\n", 10.0 * (at + 1))
        book.live("e", 1, "r", outcome, 200, 50.0, 7.0, stream=stream)
    (batch,) = book.seal(1.0)
    assert batch.live["r"].finishes == {"length": 1, "broken": 1}
    assert batch.live["r"].streams == {name: {bucket(10.0): 2} for name in ("first_event", "gap", "pace")}
    assert add([batch.live["r"]] * 2).finishes == {"length": 2, "broken": 2}


def test_a_refused_request_has_no_latency() -> None:
    book = Book()
    book.live("e", 1, "r", Outcome.REFUSED, 503, None, None)
    (batch,) = book.seal(1.0)
    assert batch.live["r"].latency == {}
    assert batch.live["r"].failures == 1


def test_what_is_sealed_is_not_sealed_again() -> None:
    book = Book()
    book.live("e", 1, "r", Outcome.OK, 200, 1.0, 1.0)
    first = book.seal(1.0)
    assert book.seal(2.0) == ()
    book.live("e", 1, "r", Outcome.OK, 200, 1.0, 1.0)
    second = book.seal(3.0)
    assert add([first[0].live["r"], second[0].live["r"]]).requests == 2
    assert second[0].seconds == 1.0


def test_totals_hold_sealed_and_open_counts_once() -> None:
    book = Book()
    for seal_after in (True, False):
        book.live("e", 1, "r", Outcome.OK, 200, 1.0, 1.0)
        book.mirrored("e", 1, "c", Outcome.OK, 200, 1.0, 1.0)
        book.dropped("e", 1, "busy")
        if seal_after:
            book.seal(1.0)
    for _ in range(2):
        totals = book.totals()
        assert totals.live["e", "r"].statuses == {200: 2}
        assert totals.mirrored["e", "c"].outcomes == {"ok": 2}
        assert totals.dropped == {("e", "busy"): 2}


def test_unrouted_statuses_are_in_the_batch() -> None:
    book = Book()
    book.refused("e", 1, 401)
    book.refused("e", 1, 401)
    (batch,) = book.seal(1.0)
    assert batch.statuses == {"401": 2}
    assert batch.live == {}


def test_pairs_are_a_bounded_sample() -> None:
    book = Book()
    for _ in range(count.MAX_PAIRS + 7):
        book.pair("e", 1, pair())
    assert (book.wants_pair("e", 1), book.wants_pair("other", 1)) == (False, True)
    (batch,) = book.seal(1.0)
    assert book.wants_pair("e", 1)
    assert len(batch.pairs) == count.MAX_PAIRS
    assert batch.dropped == {"not_sampled": 7}


def test_pairs_of_all_endpoints_share_a_budget_of_bytes() -> None:
    book = Book()
    size = count.MAX_PAIR_BYTES // 8
    for endpoint in range(6):
        book.pair(f"e{endpoint}", 1, pair(size))
    batches = book.seal(1.0)
    assert sum(len(batch.pairs) for batch in batches) == 4
    assert sum(batch.dropped.get("not_sampled", 0) for batch in batches) == 2
    book.pair("e", 1, pair(size))
    assert len(book.seal(2.0)[0].pairs) == 1


def test_totals_of_what_left_the_table_are_forgotten() -> None:
    book = Book()
    book.live("e", 1, "old", Outcome.OK, 200, 1.0, 1.0)
    book.live("e", 1, "new", Outcome.OK, 200, 1.0, 1.0)
    book.live("gone", 1, "r", Outcome.OK, 200, 1.0, 1.0)
    book.seal(1.0)
    route = EndpointRoute("e", 1, "c", (RouteRevision("new", "d", 1000, ()),))
    book.forget(RouteTable(1, "c", {"e": route}))
    assert set(book.totals().live) == {("e", "new")}

"""Who of the router workers is waited for. On a real record, which a second controller reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from headgate.control import LEASE_S, Ack, ExchangeRequest
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.workers import NAMES, Workers

NEWEST = 100


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Known:
    """A roster that says what the test says."""

    def __init__(self, **runs: bool) -> None:
        self.runs = {name.replace("_", "-"): running for name, running in runs.items()}

    def running(self) -> Mapping[str, bool]:
        return self.runs

    def close(self) -> None: ...


@pytest.fixture
def record(tmp_path: Path) -> Iterator[SqliteRecord]:
    made = SqliteRecord(tmp_path / "record.db")
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def exchange(worker: str, generation: int | None, boot: str = "b", refused: tuple[str, ...] = ()) -> ExchangeRequest:
    acked = None if generation is None else Ack(generation, "h")
    return ExchangeRequest(worker, boot, 0, acked, refused=refused, in_flight=3)


def heard(workers: Workers, **acks: int | None) -> None:
    for name, generation in acks.items():
        workers.heard(exchange(name.replace("_", "-"), generation), NEWEST)


def test_a_generation_is_acked_when_the_slowest_leased_worker_serves_it(record: SqliteRecord, clock: Clock) -> None:
    workers = Workers(clock, record, Known())
    assert workers.acked() == 0, "nobody leased: nothing is proven"
    heard(workers, router_0=7)
    assert workers.acked() == 7
    heard(workers, router_1=None)
    assert workers.acked() == 0
    heard(workers, router_1=6)
    assert workers.acked() == 6


def test_a_worker_of_no_roster_is_lost_with_its_lease_and_forgotten_later(record: SqliteRecord, clock: Clock) -> None:
    workers = Workers(clock, record, Known())
    heard(workers, router_0=6)
    clock.now += LEASE_S
    heard(workers, router_1=7)
    assert workers.acked() == 6, "a lease holds to its last moment"
    clock.now += 0.1
    assert workers.acked() == 7
    assert [(w.worker, w.acked, w.lost, w.waited, w.in_flight) for w in workers.status()] == [
        ("router-0", 6, True, False, 3),
        ("router-1", 7, False, True, 3),
    ]
    clock.now += Workers.FORGET_S
    assert workers.status() == ()


def test_a_silent_worker_that_runs_is_waited_for_until_it_does_not(record: SqliteRecord, clock: Clock) -> None:
    roster = Known(router_0=True, router_1=True)
    workers = Workers(clock, record, roster)
    heard(workers, router_0=7, router_1=6)
    clock.now += 3600
    heard(workers, router_0=8)
    assert workers.acked() == 6
    assert [(w.worker, w.lost, w.waited) for w in workers.status()] == [
        ("router-0", False, True),
        ("router-1", True, True),
    ]
    roster.runs["router-1"] = False
    assert workers.acked() == 8


def test_a_worker_that_runs_and_was_never_heard_of_holds_every_ack(record: SqliteRecord, clock: Clock) -> None:
    workers = Workers(clock, record, Known(router_0=True, router_1=True))
    heard(workers, router_0=7)
    assert workers.acked() == 0
    assert [w.worker for w in workers.status()] == ["router-0"], "it has the time of a lease to be heard of"
    clock.now += LEASE_S + 0.1
    assert [(w.worker, w.acked, w.lost, w.waited) for w in workers.status()][1] == ("router-1", 0, True, True)


@pytest.mark.parametrize(
    ("runs", "acked"),
    [
        pytest.param({}, 0, id="nothing-is-known-of-the-other"),
        pytest.param({"router_0": True, "router_1": True}, 0, id="the-other-runs"),
        pytest.param({"router_0": True, "router_1": False}, 7, id="the-other-has-ended"),
    ],
)
def test_a_new_controller_waits_for_workers_that_the_last_one_knew(
    record: SqliteRecord, clock: Clock, runs: dict[str, bool], acked: int
) -> None:
    heard(Workers(clock, record, Known()), router_0=6, router_1=6)
    workers = Workers(clock, record, Known(**runs))
    heard(workers, router_0=7)
    assert workers.acked() == acked
    heard(workers, router_1=7)
    assert workers.acked() == 7


def test_a_worker_that_never_returns_is_waited_for_only_so_long(record: SqliteRecord, clock: Clock) -> None:
    heard(Workers(clock, record, Known()), router_0=6, router_1=6)
    workers = Workers(clock, record, Known())
    clock.now += Workers.RETURN_S
    heard(workers, router_0=7)
    assert workers.acked() == 0
    clock.now += 0.1
    assert workers.acked() == 7
    assert [(w.worker, w.lost, w.waited) for w in workers.status()][1] == ("router-1", True, False)


def test_a_name_is_recorded_when_its_worker_is_first_heard_and_dropped_after_long(
    record: SqliteRecord, clock: Clock
) -> None:
    workers = Workers(clock, record, Known())
    heard(workers, pod_a=1)
    assert record.meta_get(NAMES) == '["pod-a"]'
    clock.now += Workers.FORGET_S + 1
    heard(workers, pod_b=1)
    assert record.meta_get(NAMES) == '["pod-b"]'


def test_an_ack_beyond_what_is_published_is_none_of_ours(record: SqliteRecord, clock: Clock) -> None:
    workers = Workers(clock, record, Known())
    workers.heard(exchange("router-0", 40), 3)
    assert workers.acked() == 0
    workers.heard(exchange("router-0", 3), 3)
    assert workers.acked() == 3


def test_only_a_new_ack_or_a_new_boot_is_news(record: SqliteRecord, clock: Clock) -> None:
    workers = Workers(clock, record, Known())
    news = [workers.heard(exchange("router-0", g, b), NEWEST) for g, b in ((1, "b"), (1, "b"), (2, "b"), (2, "c"))]
    assert news == [True, False, True, True]


def test_refusals_say_which_worker_and_why_until_it_serves_again(record: SqliteRecord, clock: Clock) -> None:
    workers = Workers(clock, record, Known())
    workers.heard(exchange("router-0", 1, refused=("adds up to 950",)), NEWEST)
    assert workers.refusals() == ("router-0: adds up to 950",)
    heard(workers, router_0=2)
    assert workers.refusals() == ()

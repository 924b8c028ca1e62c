"""The published table. On a real record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.control import LEASE_S
from headgate.evidence import PairKind
from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable, problems
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.routes import Routes, status


@pytest.fixture
def record(tmp_path: Path) -> Iterator[SqliteRecord]:
    made = SqliteRecord(tmp_path / "record.db")
    yield made
    made.close()


def route(name: str, *upstreams: str) -> EndpointRoute:
    return EndpointRoute(name, 0, "c1", (RouteRevision(f"{name}-1", "blue", 1000, upstreams),))


def test_a_route_keeps_the_generation_in_which_it_last_changed(record: SqliteRecord) -> None:
    routes = Routes(record, time.time)
    assert routes.publish({"a": route("a"), "b": route("b")}, "c1") == ("a", "b")
    assert routes.publish({"b": route("b", "http://x")}, "c2") == ("b",)
    table = routes.table
    assert {name: r.generation for name, r in table.endpoints.items()} == {"a": 1, "b": 2}
    assert (table.generation, table.commit, problems(table)) == (2, "c2", ())


def test_what_says_the_same_is_not_published_again(record: SqliteRecord) -> None:
    routes = Routes(record, time.time)
    routes.publish({"a": route("a")}, "c1")
    before, told = routes.table, []
    routes.listen(told.append)
    assert routes.publish({"a": replace(route("a"), commit="c9"), "none": None}, "c9") == ()
    assert (routes.table, told) == (before, [])


def test_workers_have_the_time_of_a_lease_before_a_route_counts_as_not_taken_up(record: SqliteRecord) -> None:
    now = [100.0]
    routes = Routes(record, lambda: now[0])
    routes.publish({"a": route("a"), "b": route("b")}, "c1")
    assert not routes.settled("a")
    now[0] += LEASE_S + 0.1
    assert routes.settled("a")
    routes.publish({"b": route("b", "http://x")}, "c2")
    assert routes.settled("a")  # tables that change for others hide nothing
    assert not routes.settled("b")
    assert not Routes(record, lambda: now[0]).settled("a")  # a new controller has heard nobody yet


def test_a_table_is_shown_with_what_was_counted(record: SqliteRecord) -> None:
    routes = Routes(record, time.time)
    rows = (
        RouteRevision("blue-1", "blue", 900, ("http://x", "http://y")),
        RouteRevision("green-1", "green", 100, (), service="k8s:ml/green:8080"),
        RouteRevision("red-1", "red", 0, ()),
    )
    mirrors = (Mirror("red-1", 200, PairKind.COMPARE), Mirror("blue-1", 0, PairKind.ECHO))
    routes.publish({"fraud": EndpointRoute("fraud", 0, "c1", rows, mirrors=mirrors), "quiet": route("quiet")}, "c1")
    counts = {"fraud": {"blue-1": 91, "green-1": 9}}
    shown = status(routes.table, 1, (), lambda name: counts.get(name, {}))
    assert [(r.revision, r.per_mille, r.requests, r.observed, r.mirror, r.replicas) for r in shown.routes] == [
        ("blue-1", 900, 91, 0.91, "", "2"),
        ("green-1", 100, 9, 0.09, "", "k8s:ml/green:8080"),
        ("red-1", 0, 0, 0.0, "compare 20 %", "0"),
        ("quiet-1", 1000, 0, None, "", "0"),
    ]
    assert (shown.generation, shown.hash, shown.commit, shown.acked) == (1, routes.table.hash, "c1", 1)


def test_none_takes_a_route_out(record: SqliteRecord) -> None:
    routes = Routes(record, time.time)
    routes.publish({"a": route("a"), "b": route("b")}, "c1")
    assert routes.publish({"a": None}, "") == ("a",)
    assert set(routes.table.endpoints) == {"b"}
    assert routes.table.commit == "c1", "no commit given: the last one"


def test_a_table_is_recorded_before_anybody_sees_it(record: SqliteRecord) -> None:
    routes = Routes(record, time.time)
    stored: list[RouteTable] = []
    routes.listen(lambda _: stored.append(Routes(record, time.time).table))
    routes.publish({"a": route("a")}, "c1")
    assert stored == [routes.table]

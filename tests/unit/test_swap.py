"""What outlives a new table: routes that did not change, pools and limits of what stays."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from headgate.table import EndpointRoute, RouteRevision, RouteTable, keeping, problems, seal
from headgate_router.routes import Routes


def revision(name: str, per_mille: int, *ports: int) -> RouteRevision:
    return RouteRevision(name, name, per_mille, tuple(f"http://127.0.0.1:{port}" for port in ports))


def table(generation: int, **routes: tuple[RouteRevision, ...]) -> RouteTable:
    endpoints = {name: EndpointRoute(name, 1, "c", revisions) for name, revisions in routes.items()}
    return seal(RouteTable(generation, "c", endpoints))


ONE = (revision("a", 1000, 1),)
TWO = (revision("b", 900, 2), revision("c", 100, 3))


def test_only_what_changed_is_made_ready_again() -> None:
    routes = Routes(Random(1))
    routes.swap(table(1, one=ONE, two=TWO))
    one, two = routes.find("one"), routes.find("two")
    moved = (replace(TWO[0], per_mille=500), replace(TWO[1], per_mille=500))
    routes.swap(table(2, one=ONE, two=moved))
    assert routes.find("one") is one
    now = routes.find("two")
    assert now is not None
    assert two is not None
    assert now is not two
    assert now.revisions["b"].in_flight is two.revisions["b"].in_flight
    assert now.revisions["b"].replicas.every == two.revisions["b"].replicas.every


def test_an_address_that_is_gone_is_retired_and_one_that_another_route_has_is_not() -> None:
    routes = Routes(Random(1))
    shared = (revision("a", 1000, 1, 2),)
    routes.swap(table(1, one=shared, two=TWO))
    live, other = routes.find("one"), routes.find("two")
    assert live is not None
    assert other is not None
    first, second = live.revisions["a"].replicas.every
    routes.swap(table(2, two=TWO))
    assert first.retired
    assert not second.retired
    assert routes.find("one") is None
    assert second is other.revisions["b"].replicas.every[0]


def test_a_revision_that_comes_back_begins_with_no_requests_of_its_past() -> None:
    routes = Routes(Random(1))
    routes.swap(table(1, two=TWO))
    live = routes.find("two")
    assert live is not None
    before = live.revisions["c"].in_flight
    assert before.try_enter()
    routes.swap(table(2, two=(revision("b", 1000, 2),)))
    routes.swap(table(3, two=TWO))
    live = routes.find("two")
    assert live is not None
    assert live.revisions["c"].in_flight is not before
    assert live.revisions["c"].in_flight.running == 0


def test_routes_that_are_equal_are_the_very_same_and_not_checked_again() -> None:
    serving = table(1, one=ONE, two=TWO)
    bad = (revision("b", 900, 2),)
    came = keeping(table(2, one=ONE, two=bad), serving)
    assert came.endpoints["one"] is serving.endpoints["one"]
    assert came.endpoints["two"] is not serving.endpoints["two"]
    assert problems(came, serving) == ("two: traffic adds up to 900 per mille, expected 1000 or 0",)
    assert keeping(came, None) is came
    assert set(keeping(table(3, one=ONE), serving).endpoints) == {"one"}


def test_who_serves_in_our_place_is_told_of_every_table() -> None:
    routes, told = Routes(Random(1)), []
    routes.changed = lambda: told.append(routes.table.generation if routes.table else 0)
    routes.swap(table(1, one=ONE))
    routes.swap(table(2, one=ONE))
    assert told == [1, 2]

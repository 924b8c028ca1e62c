"""The books of tunnels."""

from __future__ import annotations

from headgate.table import EndpointRoute, RouteRevision, RouteTable
from headgate_router.tunnels import Tunnels, Why

BLUE, GREEN = ("e", "blue", "b1"), ("e", "green", "g1")


def table(*revisions: tuple[str, str]) -> RouteTable:
    rows = tuple(RouteRevision(revision, name, 0, ()) for name, revision in revisions)
    return RouteTable(1, "c", {"e": EndpointRoute("e", 1, "c", rows)})


def test_what_is_over_leaves_only_a_reason() -> None:
    tunnels = Tunnels()
    for _ in range(2):
        tunnels.opened(BLUE)
    tunnels.closed(BLUE, Why.CALLER)
    assert tunnels.open == {BLUE: 1}
    tunnels.closed(BLUE, Why.IDLE)
    assert tunnels.open == {}
    assert BLUE not in tunnels.open
    assert tunnels.ended == {Why.CALLER: 1, Why.IDLE: 1}


def test_a_revision_that_left_the_table_is_told_once_and_again_when_it_came_back() -> None:
    tunnels = Tunnels()
    tunnels.opened(BLUE)
    tunnels.opened(GREEN)
    both, one = table(("blue", "b1"), ("green", "g1")), table(("green", "g1"))
    assert tunnels.left_behind(both) == []
    assert tunnels.left_behind(one) == [(BLUE, 1)]
    assert tunnels.left_behind(one) == []
    assert tunnels.left_behind(both) == []
    assert tunnels.left_behind(one) == [(BLUE, 1)]
    tunnels.closed(BLUE, Why.MODEL)
    assert tunnels.left_behind(one) == []

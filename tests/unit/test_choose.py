"""Overrides, drained endpoints, and the order of the split."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from headgate.table import EndpointRoute, RouteRevision
from headgate_router.choose import Chooser, Split, Unroutable, sticky_point


def revision(name: str, deployment: str, per_mille: int) -> RouteRevision:
    return RouteRevision(name, deployment, per_mille, ("http://127.0.0.1:1",))


def chooser(*revisions: RouteRevision) -> Chooser:
    return Chooser(EndpointRoute("e", 1, "c", revisions), Random(1))


def test_twenty_thousand_requests_split_exactly() -> None:
    choose = chooser(revision("a", "blue", 900), revision("b", "green", 100))
    assert Counter(choose.live().revision for _ in range(20_000)) == {"a": 18_000, "b": 2_000}


def test_each_period_has_another_order() -> None:
    split = Split([500, 300, 200], Random(3))
    periods = {tuple(split.next() for _ in range(split.period)) for _ in range(20)}
    assert len(periods) > 10


def test_two_workers_start_in_different_places() -> None:
    one, other = Split([950, 50], Random(1)), Split([950, 50], Random(2))
    assert [one.next() for _ in range(200)] != [other.next() for _ in range(200)]


def test_a_name_reaches_its_live_revisions_in_proportion() -> None:
    choose = chooser(
        revision("a1", "a", 300), revision("a2", "a", 100), revision("b", "b", 600), revision("a0", "a", 0)
    )
    assert Counter(choose.named("a").revision for _ in range(400)) == {"a1": 300, "a2": 100}


def test_a_name_without_traffic_reaches_the_one_listed_last() -> None:
    choose = chooser(revision("b", "blue", 1000), revision("g1", "green", 0), revision("g2", "green", 0))
    assert choose.named("green").revision == "g2"


def test_name_at_revision_reaches_exactly_that_one() -> None:
    choose = chooser(revision("a1", "a", 990), revision("a2", "a", 10))
    assert {choose.named("a@a2").revision for _ in range(20)} == {"a2"}


@pytest.mark.parametrize("override", ["nobody", "a@nobody", "nobody@a1", "@a1", "", "a@"])
def test_an_unknown_override_is_not_routed(override: str) -> None:
    with pytest.raises(Unroutable):
        chooser(revision("a1", "a", 1000)).named(override)


def test_a_drained_endpoint_routes_nothing() -> None:
    choose = chooser(revision("a", "a", 0))
    with pytest.raises(Unroutable):
        choose.live()
    with pytest.raises(Unroutable):
        choose.sticky(5)


def test_a_callers_point_is_the_one_it_always_was() -> None:
    """On every worker, after every restart, and after an upgrade: who is on the candidate stays there."""
    assert [sticky_point(*who) for who in (("fraud", b"caller-1"), ("fraud", b"caller-2"), ("churn", b"caller-1"))] == [
        833, 765, 317,
    ]  # fmt: skip


def test_callers_differ_between_endpoints() -> None:
    points = [(sticky_point("one", b"%d" % i), sticky_point("two", b"%d" % i)) for i in range(50)]
    assert sum(one == two for one, two in points) < 5

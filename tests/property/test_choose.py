"""The split for any vector: exact, whole, and the same point always the same revision."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from headgate.table import EndpointRoute, RouteRevision
from headgate.traffic import WHOLE, per_mille
from headgate_router.choose import Chooser, Split, sticky_point

weights = st.lists(st.integers(min_value=0, max_value=100), min_size=1, max_size=6).filter(any)
seeds = st.integers(min_value=0, max_value=2**32)


def chooser(shares: list[int], seed: int = 0) -> Chooser:
    revisions = tuple(RouteRevision(f"r{i}", f"d{i}", share, ()) for i, share in enumerate(shares))
    return Chooser(EndpointRoute("e", 1, "c", revisions), Random(seed))


def vector(raw: list[int]) -> list[int]:
    rounded = per_mille({f"{i:02}": weight for i, weight in enumerate(raw)})
    return [rounded.get(f"{i:02}", 0) for i in range(len(raw))]


@given(weights, seeds, st.integers(min_value=1, max_value=3))
def test_every_period_holds_the_shares_exactly(raw: list[int], seed: int, periods: int) -> None:
    shares = vector(raw)
    split = Split(shares, Random(seed))
    drawn = Counter(split.next() for _ in range(split.period * periods))
    assert {i: n * WHOLE for i, n in drawn.items()} == {
        i: share * split.period * periods for i, share in enumerate(shares) if share
    }


@given(weights, seeds)
def test_no_revision_without_a_share_is_ever_chosen(raw: list[int], seed: int) -> None:
    shares = vector(raw)
    choice = chooser(shares, seed)
    assert all(choice.live().per_mille > 0 for _ in range(100))


@given(weights)
def test_sticky_intervals_have_no_gap_and_the_right_width(raw: list[int]) -> None:
    shares = vector(raw)
    choice = chooser(shares)
    found = Counter(choice.sticky(point).revision for point in range(WHOLE))
    assert found == {f"r{i}": share for i, share in enumerate(shares) if share}


@given(st.lists(st.integers(min_value=1, max_value=999), min_size=2, max_size=5), st.integers(0, WHOLE - 1))
def test_who_is_once_on_the_candidate_stays_there_as_it_grows(raw: list[int], point: int) -> None:
    reached = [share for share in sorted(raw) if chooser([share, WHOLE - share]).sticky(point).revision == "r0"]
    assert reached == sorted(raw)[len(raw) - len(reached) :]


@given(st.text(min_size=1, max_size=20), st.binary(max_size=50))
def test_a_callers_point_is_on_the_scale_and_always_the_same(endpoint: str, key: bytes) -> None:
    point = sticky_point(endpoint, key)
    assert 0 <= point < WHOLE
    assert point == sticky_point(endpoint, key)

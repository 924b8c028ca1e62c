from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.traffic import WHOLE, Vector, between, grown, per_mille

NAMES = st.text("abcdef", min_size=1, max_size=4)
WEIGHTS = st.dictionaries(NAMES, st.floats(0, 1e9, allow_nan=False), max_size=8)
VECTORS = st.dictionaries(NAMES, st.integers(1, 1000), max_size=6).map(per_mille)


def is_whole(vector: Vector) -> bool:
    return not vector or (sum(vector.values()) == WHOLE and all(share > 0 for share in vector.values()))


@given(WEIGHTS)
def test_shares_add_up_to_the_whole_or_to_nothing(weights: dict[str, float]) -> None:
    shares = per_mille(weights)
    assert is_whole(shares)
    assert bool(shares) == any(weights.values())


@given(WEIGHTS)
def test_each_share_is_within_one_per_mille_of_exact(weights: dict[str, float]) -> None:
    total = sum(weights.values())
    shares = per_mille(weights)
    for name, weight in weights.items() if total else ():
        assert abs(shares.get(name, 0) - weight * WHOLE / total) < 1.0001


@given(WEIGHTS.filter(lambda w: sum(w.values()) > 1), st.sampled_from([2, 10, 1024]))
def test_only_proportions_matter(weights: dict[str, float], scale: int) -> None:
    assert per_mille(weights) == per_mille({n: w * scale for n, w in weights.items()})


@given(VECTORS, VECTORS, st.floats(0, 100))
def test_every_point_of_the_way_is_whole(start: dict[str, int], end: dict[str, int], percent: float) -> None:
    assert is_whole(between(start, end, percent))


@given(VECTORS, VECTORS)
def test_the_way_starts_at_the_start_and_ends_at_the_end(start: dict[str, int], end: dict[str, int]) -> None:
    assert between(start, end, 0) == start
    assert between(start, end, 100) == end


@given(VECTORS.filter(bool), VECTORS.filter(bool), st.floats(0, 50), st.floats(50, 100))
def test_a_growing_share_never_shrinks_on_the_way(
    start: dict[str, int], end: dict[str, int], early: float, late: float
) -> None:
    first, second = between(start, end, early), between(start, end, late)
    for name in grown(start, end):
        assert second.get(name, 0) >= first.get(name, 0) - 1  # largest remainder may round one of many either way


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_share_that_is_no_share_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not a share"):
        per_mille({"blue": 1.0, "green": bad})


def test_equal_remainders_go_by_name() -> None:
    assert per_mille({"c": 1, "a": 1, "b": 1}) == {"a": 334, "b": 333, "c": 333}


def test_a_percent_outside_the_way_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        between({"a": 1000}, {"b": 1000}, 101)

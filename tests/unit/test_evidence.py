from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.evidence import LAST_BUCKET, Counts, Outcome, add, bucket, bucket_ms, size_class, size_limit


@given(st.floats(0, 1e7))
def test_a_latency_lies_in_its_bucket(ms: float) -> None:
    index = bucket(ms)
    assert ms <= bucket_ms(index) * (1 + 1e-6) or index == LAST_BUCKET
    assert index == 0 or ms > bucket_ms(index - 1) * (1 - 1e-6)


def test_the_end_of_a_bucket_lies_in_it_however_it_was_computed() -> None:
    for index in range(LAST_BUCKET):
        end = bucket_ms(index)
        assert {bucket(end), bucket(math.nextafter(end, 0)), bucket(math.nextafter(end, math.inf))} == {index}
        assert bucket(end * 1.0001) == index + 1
    assert bucket(bucket_ms(LAST_BUCKET) * 2) == LAST_BUCKET


@pytest.mark.parametrize("size", [0, 1, 1_024, 1_025, 4_096, 4_097, 2**20, 4 * 2**20, 10**12])
def test_a_size_lies_in_its_class(size: int) -> None:
    index = size_class(size)
    limit, below = size_limit(index), size_limit(index - 1) if index else -1
    assert limit is None or size <= limit
    assert below is not None
    assert size > below


COUNTS = st.builds(
    Counts,
    st.dictionaries(st.sampled_from([str(o) for o in Outcome]), st.integers(0, 50)),
    st.dictionaries(st.integers(0, LAST_BUCKET), st.integers(1, 50), max_size=5),
    sizes=st.dictionaries(st.integers(0, 7), st.dictionaries(st.integers(0, 9), st.integers(1, 50)), max_size=3),
)


@given(st.lists(COUNTS, min_size=1, max_size=5))
def test_counts_merge_in_any_order(parts: list[Counts]) -> None:
    assert add(parts) == add(parts[::-1])
    assert add(parts).requests == sum(p.requests for p in parts)


def test_a_caller_who_left_says_nothing_about_the_model() -> None:
    counts = Counts({Outcome.OK: 3, Outcome.CLIENT_GONE: 2, Outcome.TIMEOUT: 1})
    assert (counts.requests, counts.failures) == (4, 1)


def test_a_quantile_is_the_bound_of_the_bucket_that_holds_it() -> None:
    counts = Counts({}, {bucket(10): 99, bucket(300): 1})
    assert math.isclose(counts.quantile_ms(0.5) or 0, bucket_ms(bucket(10)))
    assert math.isclose(counts.quantile_ms(0.995) or 0, bucket_ms(bucket(300)))
    assert Counts().quantile_ms(0.5) is None
    assert counts.slower_than(100) == 1

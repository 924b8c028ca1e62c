"""A running quantile is the quantile of the sum, after every look."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headgate.evidence import LAST_BUCKET, Counts, add
from headgate_policies.times import Times

LATENCIES = st.dictionaries(st.integers(0, LAST_BUCKET), st.integers(0, 50), max_size=6)


@given(st.lists(LATENCIES, max_size=12), st.sampled_from((0.01, 0.5, 0.9, 0.99, 1.0)))
def test_times_say_what_the_sum_of_all_looks_says(looks: list[dict[int, int]], quantile: float) -> None:
    times = Times(quantile)
    known = Counts()
    for latency in looks:
        times.add(latency)
        known = add([known, Counts(latency=latency)])
        assert times.quantile_ms() == known.quantile_ms(quantile)
        assert times.total == sum(known.latency.values())


@given(st.lists(LATENCIES, max_size=12))
def test_asking_seldom_changes_no_answer(looks: list[dict[int, int]]) -> None:
    seldom, often = Times(0.9), Times(0.9)
    for latency in looks:
        seldom.add(latency)
        often.add(latency)
        often.quantile_ms()
    assert seldom.quantile_ms() == often.quantile_ms()

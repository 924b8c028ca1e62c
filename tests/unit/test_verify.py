"""The proof that git, record, table and counters agree."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from headgate_controllers.verify import drift, tolerance

HALF = {"blue-1": 500, "green-1": 500}


def lines(
    asked: Mapping[str, int] | None = HALF,
    decided: Mapping[str, int] = HALF,
    routed: Mapping[str, int] = HALF,
    generation: int = 3,
    acked: int = 3,
    observed: Mapping[str, int] = {"blue-1": 5_010, "green-1": 4_990},
) -> tuple[str, ...]:
    return drift(
        endpoint="fraud",
        asked=asked,
        decided=decided,
        routed=routed,
        generation=generation,
        acked=acked,
        observed=observed,
    )


def test_one_truth_from_commit_to_counters_is_no_drift() -> None:
    assert lines() == ()
    assert lines(asked={**HALF, "old-1": 0}, observed={}) == ()


def test_each_pair_that_disagrees_is_one_line() -> None:
    blue = {"blue-1": 1000}
    assert lines(asked=blue) == ("fraud: git asks for blue-1 100 %, the record has blue-1 50 %, green-1 50 %",)
    assert lines(routed=blue, observed={}) == (
        "fraud: the record has blue-1 50 %, green-1 50 %, the route table blue-1 100 %",
    )
    assert lines(decided={}, routed={}, observed={}) == (
        "fraud: git asks for blue-1 50 %, green-1 50 %, the record has no traffic",
    )
    assert lines(acked=2) == ("fraud: the route is in generation 3, routers serve 2",)


def test_what_cannot_be_compared_is_not_called_drift() -> None:
    assert lines(asked=None, decided={"blue-1": 1000}, routed={"blue-1": 1000}, observed={}) == ()
    assert lines(acked=0) == ()
    assert lines(observed={}) == ()


@pytest.mark.parametrize("count", [4_600, 5_400])
def test_counters_far_from_the_share_are_drift(count: int) -> None:
    found = lines(observed={"blue-1": count, "green-1": 10_000 - count})
    assert len(found) == 2
    assert f"blue-1 was sent {count:,} of 10,000 requests, the route says 50.0%" in found[0]


def test_one_request_to_a_revision_without_traffic_is_drift() -> None:
    assert len(lines(decided=HALF, observed={"blue-1": 50, "green-1": 50, "old-1": 1})) == 1


def test_the_tolerance_grows_slower_than_the_requests() -> None:
    assert tolerance(100, 0.0) == tolerance(100, 1.0) == 0
    assert tolerance(100_000, 0.05) / 100_000 < tolerance(1_000, 0.05) / 1_000

"""Whatever was changed, a revert leads back to exactly what was read, and to nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headgate_controllers.revert import inside, plan_revert

names = st.sampled_from(["a", "b", "c", "d"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
ids = st.sampled_from(["1" * 40, "2" * 40, "3" * 40])
# A commit's files as a prefix-free map: no path is a file and a folder at once.
files = st.dictionaries(paths, ids, max_size=6).map(
    lambda found: {p: i for p, i in found.items() if not any(inside(q, p) for q in found)}
)
others = st.dictionaries(st.sampled_from(["x", "y"]), st.sets(paths, max_size=3), max_size=2)


def applied(failed: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    kept = {path: i for path, i in failed.items() if path not in changes}
    return {**kept, **{path: i for path, i in changes.items() if i is not None}}


@given(failed=files, good=files)
def test_the_plan_leads_from_failed_to_good(failed: dict[str, str], good: dict[str, str]) -> None:
    plan = plan_revert(failed, good, {})
    dropped = {p for p in {*failed, *good} if any(inside(p, q) for q in plan.changes)}
    reached = applied(failed, dict(plan.changes))
    assert {p: i for p, i in reached.items() if p not in dropped} == {p: i for p, i in good.items() if p not in dropped}


@given(failed=files, good=files)
def test_only_what_differs_is_touched_and_each_once(failed: dict[str, str], good: dict[str, str]) -> None:
    plan = plan_revert(failed, good, {})
    for path, wanted in plan.changes.items():
        assert plan.expect[path] == failed.get(path) != wanted == good.get(path)
        assert not any(inside(path, other) for other in plan.changes)


@given(good=files)
def test_what_is_already_good_needs_no_revert(good: dict[str, str]) -> None:
    assert plan_revert(good, good, {"x": set(good)}).changes == {}


@given(failed=files, good=files, others=others)
def test_a_path_is_shared_exactly_when_another_endpoint_reads_it(
    failed: dict[str, str], good: dict[str, str], others: dict[str, set[str]]
) -> None:
    plan = plan_revert(failed, good, others)
    read = set().union(*others.values()) if others else set()
    touched = [p for p in plan.changes if any(p == q or inside(p, q) or inside(q, p) for q in read)]
    assert [line.partition(" (read by ")[0] for line in plan.shared] == touched

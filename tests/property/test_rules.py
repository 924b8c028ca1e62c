"""Distances against the plain algorithms they are quicker forms of."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate_policies.rules import MAX_SYMBOLS, edits, overlap, set_distance, text_distance

TEXTS = st.text("abcé ", max_size=40)
ITEMS = st.lists(st.one_of(st.integers(0, 6), st.sampled_from(["a", "b"]), st.none()), max_size=9)


def table(left: str, right: str) -> int:
    """Levenshtein's distance, cell by cell."""
    row = list(range(len(left) + 1))
    for i, b in enumerate(right, 1):
        before, row[0] = row[0], i
        for j, a in enumerate(left, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS)
def test_edits_are_those_of_the_table(left: str, right: str) -> None:
    assert edits(left, right) == table(left, right)
    distance = text_distance(left, right)
    assert distance is not None
    assert 0 <= distance <= 1
    assert (distance == 0) is (left == right)


def test_a_long_text_is_compared_by_word_and_a_longer_one_not_at_all() -> None:
    words = "word " * (MAX_SYMBOLS // 2)
    assert text_distance(words, words + "more") == 1 / (MAX_SYMBOLS // 2 + 1)
    assert text_distance("w " * (MAX_SYMBOLS + 1), "x") is None


@given(ITEMS, ITEMS)
def test_an_overlap_is_the_mean_of_the_shares_in_common(left: list[Any], right: list[Any]) -> None:
    depth = min(5, max(len(left), len(right)))
    shares = []
    for k in range(1, depth + 1):
        rest, common = [json.dumps(item) for item in right[:k]], 0
        for item in left[:k]:
            if json.dumps(item) in rest:
                rest.remove(json.dumps(item))
                common += 1
        shares.append(common / k)
    expected = sum(shares) / depth if depth else 1.0
    found = overlap(left, right, "", 5)
    assert abs(found - expected) < 1e-12
    assert abs(found - overlap(right, left, "", 5)) < 1e-12
    assert overlap(left, left, "", 5) == 1.0


@given(ITEMS, st.randoms(use_true_random=False))
def test_the_order_of_a_set_says_nothing(items: list[Any], random: Any) -> None:
    turned = random.sample(items, len(items))
    assert set_distance(items, turned, "") == 0.0
    assert set_distance(items, [*turned, "new"], "") == 1 / (len(items) + 1)

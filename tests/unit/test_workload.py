"""What the objects of a revision are called on a cluster."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate import fields
from headgate.workload import Purpose, object_name

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@pytest.mark.parametrize(
    ("purpose", "expected"),
    [
        pytest.param(Purpose.SERVE, "fraud-0123456789abcdef", id="serve"),
        pytest.param(Purpose.SMOKE, "fraud-0123456789abcdef-smoke", id="smoke"),
    ],
)
def test_the_name_says_endpoint_revision_and_purpose(purpose: Purpose, expected: str) -> None:
    assert object_name("Fraud", "0123456789abcdef", purpose) == expected


@given(st.from_regex(fields.NAME, fullmatch=True).filter(lambda n: 3 <= len(n) <= 32), st.sampled_from(Purpose))
def test_the_longest_name_that_is_allowed_fits_with_its_revision_in_clear(endpoint: str, purpose: Purpose) -> None:
    name = object_name(endpoint, "f" * 16, purpose)
    assert LABEL.fullmatch(name)
    assert len(name) <= 63
    assert "f" * 16 in name


@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from(Purpose))
def test_whatever_is_asked_for_is_a_label(endpoint: str, revision: str, purpose: Purpose) -> None:
    name = object_name(endpoint, revision, purpose)
    assert LABEL.fullmatch(name)
    assert len(name) <= 63


def test_what_does_not_fit_is_told_apart_by_a_digest() -> None:
    assert object_name("a" * 60, "r1") != object_name("a" * 60, "r2")
    assert object_name("été", "r1") != object_name("êté", "r1")

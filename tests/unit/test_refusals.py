"""Every status, reason and metric of the router is in its documentation."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from headgate.evidence import Outcome
from headgate_router import mirror, refusals
from headgate_router.copies import Mirrors
from headgate_router.count import Book
from headgate_router.metrics import RouterCollector
from headgate_router.routes import Routes

DOCUMENT = (Path(__file__).parents[2] / "docs" / "router.md").read_text()


@pytest.mark.parametrize("refusal", refusals.EVERY, ids=lambda refusal: refusal.code)
def test_every_refusal_is_documented(refusal: refusals.Refusal) -> None:
    assert f"| {refusal.status} | `{refusal.code}` |" in DOCUMENT


def test_every_reason_of_a_dropped_copy_is_documented() -> None:
    reasons = {value for name, value in vars(mirror).items() if name.isupper() and isinstance(value, str)}
    assert reasons >= {"busy", "override"}
    assert all(f"| `{reason}` |" in DOCUMENT for reason in reasons)


def test_every_metric_is_documented() -> None:
    book = Book()
    book.live("e", 1, "r", Outcome.OK, 200, 1.0, 1.0)
    collector = RouterCollector("w", Routes(Random(1)), book, Mirrors(book), None, lambda: 0.0)
    suffix = {"counter": "_total", "info": "_info"}
    names = [
        metric.name.removeprefix("headgate_router_") + suffix.get(metric.type, "") for metric in collector.collect()
    ]
    documented = set(re.findall(r"`([a-z_]+)`", DOCUMENT))
    assert set(names) <= documented
    assert len(names) == len(set(names))

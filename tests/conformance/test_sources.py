"""Every installed metric source, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headgate import plugins
from headgate.process import MetricSource
from headgate.testing import SOURCE, Check, SourceCase
from metricserver import MetricServer

SOURCES = plugins.load("headgate.source")


@pytest.fixture
def server() -> Iterator[MetricServer]:
    with MetricServer() as running:
        yield running


def test_every_installed_source_is_held_to_its_promises() -> None:
    assert (set(SOURCES.adapters), SOURCES.findings) == ({"prometheus", "webhook"}, ())


@pytest.mark.parametrize("check", SOURCE, ids=str)
@pytest.mark.parametrize("name", sorted(SOURCES.adapters))
def test_a_source(name: str, check: Check[SourceCase], server: MetricServer) -> None:
    source = SOURCES.adapters[name](MetricSource(name, server.url, 5.0), "")

    def answers(value: float | None) -> None:
        server.value, server.raw = value, None

    def breaks() -> None:
        server.raw = (500, b"<html>")

    check(SourceCase(source, answers, breaks))
    source.close()

"""Tests on a real cluster. They make namespaces of their own, and leave none; README.md says how to turn them on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from installation import Installation, missing

_MADE: list[Installation] = []  # those that stand now


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A namespace with a git server; nothing of Headgate is in it yet."""
    if lacks := missing():
        pytest.skip(lacks)
    with ExitStack() as stack:
        made = Installation(tmp_path_factory.mktemp("install"), stack)
        made.prepare()
        _MADE.append(made)
        yield made
        _MADE.remove(made)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure on a cluster is told with what the cluster said."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        report.sections += [("cluster", made.say()) for made in _MADE]

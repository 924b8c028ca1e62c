"""What the suites leave to their caller: patience, and which adapters are installed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from headgate.testing import Wait

DEADLINE_S = 60.0


@pytest.fixture
def wait() -> Wait:
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.02)

    return until

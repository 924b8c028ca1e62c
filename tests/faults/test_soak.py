"""Changes under load, as `make soak` runs it at length: real processes, each kind of fault at least once."""

from __future__ import annotations

import pytest
from bench.soak.__main__ import FAULTS, Asked, soak, wrong

pytestmark = pytest.mark.faults


def test_no_request_fails_while_everything_is_changed_killed_or_replaced() -> None:
    asked = Asked(requests=4_000, changes=20, workers=2, callers=1, fault_every_s=2.0, seconds=180.0)
    found = soak(asked)
    assert wrong(found) == []
    assert found["requests"] >= asked.requests
    assert found["table_changes"] >= asked.changes
    assert set(found["faults"]) == {kind for kind, _ in FAULTS}

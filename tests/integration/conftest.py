"""What several files here share: the data path that a router runs with."""

from __future__ import annotations

import pytest

import envoyplane
import routerplay
from headgate_router.main import ASGI, BUILTIN, ENVOY


@pytest.fixture(params=[BUILTIN, ASGI, envoyplane.PARAM])
def plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on each data path."""
    monkeypatch.setitem(routerplay.PLANES, "now", request.param)
    if request.param == ENVOY:
        envoyplane.expect(request)

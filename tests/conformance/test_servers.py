"""Every installed server is pure and tells no secret in argv."""

from __future__ import annotations

import pytest

from headgate import plugins
from headgate.testing import SERVER, Check, ServerCase, deployment

CLAIMED = {"score": deployment("blue")}  # entry point -> a deployment it claims
SERVERS = plugins.load("headgate.server")


def test_every_installed_server_is_held_to_its_promises() -> None:
    assert (set(SERVERS.adapters), SERVERS.findings) == (set(CLAIMED), ())


@pytest.mark.parametrize("check", SERVER, ids=str)
@pytest.mark.parametrize("name", sorted(CLAIMED))
def test_a_server(name: str, check: Check[ServerCase]) -> None:
    check(ServerCase(SERVERS.adapters[name](), CLAIMED[name]))

"""From nothing to a first endpoint that answers, as the quick start in docs/cluster.md says it."""

from __future__ import annotations

import json
import time

import pytest

from installation import Installation, ask, within

FIRST_S = 180.0  # the promise: install → first endpoint answering


@pytest.fixture(scope="module")
def installed(installation: Installation) -> Installation:
    """Headgate with one endpoint that answers; prints how long that took."""
    installation.write("hello")
    installation.push("first")
    began = time.monotonic()
    installation.install()
    within(60, lambda: installation.get("onlineendpoint", "greet"), "the endpoint is shown")
    ready = "--for=condition=Ready"
    installation.kubectl("wait", ready, "onlineendpoint/greet", f"--timeout={FIRST_S:.0f}s")
    key = within(20, installation.key, "the endpoint has a key")
    with installation.forward("svc/headgate-router", "http") as port:
        within(30, lambda: ask(port, "/endpoints/greet/score", b'{"name": "ada"}', key)[0] == 200, "it answers")
    print(f"\ninstall to first answer: {time.monotonic() - began:.1f} s")
    return installation


def test_the_first_endpoint_answers(installed: Installation) -> None:
    key = installed.key()
    with installed.forward("svc/headgate-router", "http") as port:
        status, body = ask(port, "/endpoints/greet/score", b'{"name": "ada"}', key)
    assert (status, json.loads(body)) == (200, {"said": "hello", "to": "ada"})

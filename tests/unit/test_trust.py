"""What a worker says of models that it cannot meet by TLS."""

from __future__ import annotations

import logging

import pytest

from headgate_router import trust
from headgate_router.dataplanes.builtin.failures import Untrusted
from headgate_router.trust import Trust


def test_failures_that_alternate_are_each_said_once_and_all_counted(caplog: pytest.LogCaptureFixture) -> None:
    met = Trust()
    with caplog.at_level(logging.ERROR, "headgate.router"):
        for _ in range(50):
            met.note("https://10.0.0.1:8080", "its certificate was refused: expired")
            met.note("https://10.0.0.2:8080", "it ended the handshake")
    assert met.failed == 100
    assert len(caplog.records) == 2


def test_a_failure_is_said_again_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "SAID_S", -1.0)
    met = Trust()
    with caplog.at_level(logging.ERROR, "headgate.router"):
        for _ in range(3):
            met.note("https://10.0.0.1:8080", "it ended the handshake")
    assert len(caplog.records) == 3


def test_failures_that_are_all_different_are_not_kept_for_ever() -> None:
    met = Trust()
    for n in range(3 * trust.MAX_SAID):
        met.note("https://10.0.0.1:8080", f"failure {n}")
    assert len(met._said) <= trust.MAX_SAID


def test_without_a_certificate_such_a_model_is_not_met() -> None:
    with pytest.raises(Untrusted, match="--models-tls"):
        Trust().context()

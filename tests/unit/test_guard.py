from __future__ import annotations

import asyncio

import pytest

from headgate_router.dataplanes.builtin import guard


class Connection:
    def __init__(self, *, ill: bool) -> None:
        self.ill = ill
        self.ended = asyncio.Event()

    def expired(self, now: float) -> bool:
        if self.ill:
            raise RuntimeError("planted")
        return True

    def expire(self) -> None:
        self.ended.set()


def test_a_connection_that_cannot_be_looked_at_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "SWEEP_S", 0.001)

    async def scenario() -> None:
        ill, slow = Connection(ill=True), Connection(ill=False)
        sweeping = asyncio.create_task(guard.sweep(lambda: [ill, slow]))
        async with asyncio.timeout(10):
            for _ in range(2):  # it goes on
                await slow.ended.wait()
                slow.ended.clear()
        sweeping.cancel()

    asyncio.run(scenario())
    assert "a connection that took too long was not ended" in caplog.text

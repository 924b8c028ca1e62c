"""Places for running requests: how many, who waits, who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from headgate_router.limits import InFlight


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


async def queued(places: InFlight, *, waiting: int) -> asyncio.Task[bool]:
    task = asyncio.create_task(places.enter(10))
    while places.waiting < waiting:
        await asyncio.sleep(0)
    return task


def test_as_many_wait_as_may_run_and_the_next_is_refused_at_once() -> None:
    async def scenario() -> None:
        places = InFlight(2)
        assert [await places.enter(10) for _ in range(2)] == [True, True]
        waiting = [await queued(places, waiting=1), await queued(places, waiting=2)]
        assert not await places.enter(10)
        for task in waiting:
            places.leave()
            assert await task
        assert (places.running, places.waiting) == (2, 0)

    run(scenario())


def test_who_came_first_goes_first_and_nobody_overtakes() -> None:
    async def scenario() -> None:
        places = InFlight(1)
        assert places.try_enter()
        first = await queued(places, waiting=1)
        places.leave()
        assert not places.try_enter()
        assert await first

    run(scenario())


def test_who_waited_too_long_gives_no_place_away() -> None:
    async def scenario() -> None:
        places = InFlight(1)
        assert places.try_enter()
        assert not await places.enter(0.01)
        assert not await places.enter(0)
        places.leave()
        assert (places.running, places.waiting) == (0, 0)
        assert places.try_enter()

    run(scenario())


def test_a_cancelled_wait_loses_no_place() -> None:
    async def scenario() -> None:
        places = InFlight(1)
        assert places.try_enter()
        for leave_first in (False, True):
            task = await queued(places, waiting=1)
            if leave_first:
                places.leave()  # the place is given in the same breath as the wait is cancelled
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
        assert (places.running, places.waiting) == (0, 0)

    run(scenario())


def test_a_limit_that_is_lowered_takes_hold_as_requests_leave() -> None:
    async def scenario() -> None:
        places = InFlight(3)
        assert [places.try_enter() for _ in range(3)] == [True] * 3
        places.limit = 1
        waiting = await queued(places, waiting=1)
        places.leave()
        places.leave()
        assert not waiting.done()
        places.leave()
        assert await waiting
        assert places.running == 1

    run(scenario())

"""News from threads for who waits on an event loop, also of a loop that ends meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from headgate_controllers.api.news import News


def test_a_ring_from_a_thread_ends_the_waits_of_its_topic_and_no_other() -> None:
    async def scenario() -> None:
        news = News()
        news.attach(asyncio.get_running_loop())
        rung, other = news.bell("a"), news.bell("b")
        ringing = threading.Thread(target=news.ring, args=("a",))
        ringing.start()
        await news.wait(rung, 60.0)
        ringing.join()
        assert (rung.is_set(), other.is_set()) == (True, False)
        assert not news.bell("a").is_set()

    asyncio.run(scenario())


def test_a_ring_while_the_loop_is_closed_is_for_nobody() -> None:
    class Closing(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *more: Any, **context: Any) -> asyncio.Handle:
            self.close()  # after whoever asks has looked whether it is
            return super().call_soon_threadsafe(*more, **context)

    news, loop = News(), Closing()
    news.attach(loop)
    news.ring("a")
    assert loop.is_closed()
    news.ring("a")

"""Which replica, which rests, and when a request is asked again: against real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from headgate_router.dataplanes.builtin.failures import Broken, TimedOut, Unreachable
from headgate_router.upstream import Ask, Message, NoReplica, Replica, Replicas

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = Message(b"GET / HTTP/1.1\r\n", b"", b"")


class Model:
    """A server that answers `answers` in turn, the last one for ever; b"" closes without a byte."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def start(self) -> Replica:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        return Replica(f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}")

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not answer:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def stop(self) -> None:
        self._server.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


def together(*replicas: Replica) -> Replicas:
    return Replicas(replicas, Random(7))


def picked(*every: Replica) -> set[Replica]:
    replicas = together(*every)
    return {replicas.pick() for _ in range(50)}


async def ask(replicas: Replicas, *, may_repeat: bool = True, timeout_s: float = 5) -> bytes:
    answering = await Ask(replicas, GET, may_repeat=may_repeat).answer(timeout_s)
    try:
        return await answering.connection.read()
    finally:
        answering.close()


async def gone() -> Replica:
    """An address where nobody listens."""
    model = Model(OK)
    replica = await model.start()
    model.stop()
    return replica


def test_no_replica_is_its_own_failure() -> None:
    with pytest.raises(NoReplica):
        together().pick()


def test_the_less_busy_of_two_is_picked() -> None:
    idle, busy = Replica("http://127.0.0.1:1"), Replica("http://127.0.0.1:2")
    busy.in_flight = 3
    assert picked(idle, busy) == {idle}


def test_idle_replicas_share_the_load() -> None:
    every = [Replica(f"http://127.0.0.1:{port}") for port in range(1, 5)]
    replicas = together(*every)
    load = Counter(replicas.pick().port for _ in range(4000))
    assert all(700 < load[port] < 1300 for port in range(1, 5))


def test_a_replica_that_failed_rests_and_comes_back() -> None:
    ill, well = Replica("http://127.0.0.1:1"), Replica("http://127.0.0.1:2")
    ill.failed(now=100.0)
    assert ill.rests(100.1)
    assert not ill.rests(110.0)
    ill.failed(now=1e12)
    assert picked(ill, well) == {well}
    ill.answered()
    assert picked(ill, well) == {ill, well}


def test_when_every_replica_rests_they_are_asked_all_the_same() -> None:
    every = [Replica("http://127.0.0.1:1"), Replica("http://127.0.0.1:2")]
    for replica in every:
        replica.failed(now=1e12)
    assert picked(*every) == set(every)


def test_a_connection_is_used_again() -> None:
    async def scenario() -> None:
        model = Model(OK)
        replica = await model.start()
        first = await Ask(together(replica), GET, may_repeat=True).answer(5)
        assert await first.connection.read() == b"ok"
        first.close()
        second = await Ask(together(replica), GET, may_repeat=True).answer(5)
        assert second.connection is first.connection
        second.close()
        assert replica.in_flight == 0
        replica.retire()
        model.stop()

    run(scenario())


def test_a_refused_connection_is_tried_on_another_replica_even_if_not_repeatable() -> None:
    async def scenario() -> None:
        model = Model(OK)
        dead, alive = await gone(), await model.start()
        for _ in range(20):
            assert await ask(together(dead, alive), may_repeat=False) == b"ok"
        assert (dead.in_flight, alive.in_flight) == (0, 0)
        alive.retire()
        model.stop()

    run(scenario())


def test_with_nobody_left_it_was_surely_not_processed() -> None:
    async def scenario() -> None:
        for replicas in (together(await gone()), together(await gone(), await gone())):
            with pytest.raises(Unreachable):
                await ask(replicas)

    run(scenario())


def test_a_connection_that_breaks_unanswered_is_asked_again_once_if_repeatable() -> None:
    async def scenario() -> None:
        model = Model(b"", OK)
        replica = await model.start()
        assert await ask(together(replica)) == b"ok"
        assert model.asked == 2
        broken = Model(b"")
        replica = await broken.start()
        with pytest.raises(Broken):
            await ask(together(replica))
        assert broken.asked == 2
        model.stop()
        broken.stop()

    run(scenario())


def test_who_does_not_insist_asks_again_only_where_a_kept_connection_was_stale() -> None:
    async def scenario() -> None:
        model = Model(b"", OK)
        replica = await model.start()
        with pytest.raises(Broken):
            await Ask(together(replica), GET, may_repeat=True, insists=False).answer(5)
        assert model.asked == 1
        model.stop()
        stale = Model(OK, b"", OK)
        replica = await stale.start()
        for _ in range(2):
            answering = await Ask(together(replica), GET, may_repeat=True, insists=False).answer(5)
            assert await answering.connection.read() == b"ok"
            answering.close()
        assert stale.asked == 3
        replica.retire()
        stale.stop()

    run(scenario())


def test_what_may_have_run_is_not_asked_again_if_not_repeatable() -> None:
    async def scenario() -> None:
        model = Model(b"", OK)
        replica = await model.start()
        with pytest.raises(Broken):
            await ask(together(replica), may_repeat=False)
        assert model.asked == 1
        assert replica.in_flight == 0
        model.stop()

    run(scenario())


def test_nothing_is_asked_again_once_a_byte_of_the_answer_came() -> None:
    async def scenario() -> None:
        async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 20")
            await writer.drain()
            writer.close()

        asked = 0
        server = await asyncio.start_server(half, "127.0.0.1", 0)
        replica = Replica(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(Broken):
            await ask(together(replica))
        assert asked == 1
        server.close()

    run(scenario())


def test_a_timeout_is_for_all_attempts_and_is_not_retried() -> None:
    async def scenario() -> None:
        model = Model(b"HTTP/1.1 ")  # begins, never goes on
        replica = await model.start()
        with pytest.raises(TimedOut):
            await ask(together(replica), timeout_s=1.0)
        assert model.asked == 1
        model.stop()

    run(scenario())


def test_a_retired_replica_keeps_no_connection() -> None:
    async def scenario() -> None:
        model = Model(OK)
        replica = await model.start()
        answering = await Ask(together(replica), GET, may_repeat=True).answer(5)
        replica.retire()
        assert await answering.connection.read() == b"ok"
        answering.close()
        assert not answering.connection.open
        model.stop()

    run(scenario())


def test_what_cannot_be_repeated_never_goes_out_on_a_connection_long_idle() -> None:
    async def scenario() -> None:
        model = Model(OK)
        replica = await model.start()
        replicas = together(replica)
        assert await ask(replicas) == b"ok"
        (kept,) = replica._idle
        kept.idle_since -= 5.0
        assert await ask(replicas, may_repeat=False) == b"ok"
        assert not kept.open
        (kept,) = replica._idle
        kept.idle_since -= 5.0
        assert await ask(replicas) == b"ok"
        assert replica._idle == [kept]
        replica.retire()
        model.stop()

    run(scenario())

"""Copies of live requests: compared, never returned, bounded, counted. And batches, which add up."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.evidence import Batch, PairKind, add
from headgate.table import Mirror
from routerplay import (
    Heard,
    Model,
    Writer,
    hang,
    mirrored_to,
    ok,
    revision,
    router,
    run,
    status,
)

pytestmark = pytest.mark.usefixtures("plane")


def test_copies_are_compared_and_never_returned(tmp_path: Path) -> None:
    async def scenario() -> None:
        stable, candidate = await Model(ok(b'{"y": 1, "who": "a"}')).start(), await Model(ok(b'{"y": 2}')).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            echo = Mirror("rev", 1000, PairKind.ECHO)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare, echo), redact=("$.who",))
            for n in range(10):
                answer = await system.post(b"%d" % n, headers={"x-ms-request-id": f"id-{n}"})
                assert answer.json() == {"y": 1, "who": "a"}
            await system.settled()
            batch = await system.sealed()
            assert batch.live["rev"].requests == 10
            assert batch.mirrored["cand"].outcomes == {"ok": 10}
            assert set(batch.mirrored) == {"cand"}
            assert Counter(pair.kind for pair in batch.pairs) == {PairKind.COMPARE: 10, PairKind.ECHO: 10}
            compared = {pair.request_id: pair for pair in batch.pairs if pair.kind is PairKind.COMPARE}
            assert set(compared) == {f"id-{n}" for n in range(10)}
            pair = compared["id-3"]
            assert (pair.live.revision, pair.copy.revision) == ("rev", "cand")
            assert json.loads(pair.live.body) == {"y": 1, "who": "(redacted)"}
            assert json.loads(pair.copy.body) == {"y": 2}
            assert {tuple(h.all("headgate-mirror")) for h in candidate.heard} == {("compare",)}
            assert Counter(tuple(h.all("headgate-mirror")) for h in stable.heard) == {(): 10, ("echo",): 10}
            assert sorted(h.body for h in candidate.heard) == [b"%d" % n for n in range(10)]

    run(scenario())


def test_the_share_of_copies_does_not_follow_the_split(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two, candidate = [await Model(ok(b"1")).start() for _ in range(3)]
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            mirrors = (replace(compare, per_mille=500),)
            system.route(revision("one", 500, one), revision("two", 500, two), target, mirrors=mirrors)
            for _ in range(400):
                await system.post()
            await system.settled()
            pairs = Counter(pair.live.revision for pair in (await system.sealed()).pairs)
            assert 140 <= sum(pairs.values()) <= 200
            assert min(pairs["one"], pairs["two"]) > 50

    run(scenario())


@pytest.mark.parametrize("ill", ["hung", "dead", "refusing", "failing", "absent", "garbage"])
def test_an_ill_mirror_is_counted_and_no_caller_notices(tmp_path: Path, ill: str) -> None:
    async def scenario() -> None:
        async def die(heard: Heard, writer: Writer) -> None:
            writer.transport.abort()

        async def garbage(heard: Heard, writer: Writer) -> None:
            writer.write(b"\x00\x01\x02 not HTTP at all\r\n\r\n")

        answers = {"hung": hang, "dead": die, "failing": status(500, "E", b"e"), "garbage": garbage}
        stable, candidate = await Model(ok(b'"live"')).start(), await Model(answers.get(ill, ok(b"1"))).start()
        if ill == "refusing":
            candidate.server.close()
        async with router(tmp_path) as system:
            limit = 1_000 if ill == "hung" else 30_000
            target = revision("cand", 0, *([] if ill == "absent" else [candidate]), request_timeout_ms=limit)
            system.route(revision("rev", 1000, stable), target, mirrors=(Mirror("cand", 1000),))
            for _ in range(10):
                answer = await system.post()
                assert (answer.status_code, answer.json()) == (200, "live")
            await system.settled()
            batch = await system.sealed()
            assert batch.live["rev"].outcomes == {"ok": 10}
            expected = {"hung": "timeout", "failing": "model_error"}.get(ill, "refused")
            if ill == "absent":
                assert batch.dropped == {"no_upstream": 10}
                assert batch.mirrored == {}
            else:
                assert batch.mirrored["cand"].outcomes == {expected: 10}
                assert len(batch.pairs) == (10 if ill == "failing" else 0)

    run(scenario())


def test_a_hung_mirror_is_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        stable, candidate = await Model(ok(b"1")).start(), await Model(hang).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            target = replace(target, request_timeout_ms=180_000)  # longer than all of this takes
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            for _ in range(140):
                assert (await system.post()).status_code == 200
            assert system.worker.mirrors.running == 64
            assert (await system.sealed()).dropped == {"busy": 12}

    run(scenario())


def test_what_must_not_be_copied_is_dropped_with_its_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        stable, candidate = await Model(ok(b"1")).start(), await Model(ok(b"2")).start()
        async with router(tmp_path) as system:
            target, compare = mirrored_to(candidate)
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,))
            await system.post(headers={"azureml-model-deployment": "rev-name"})
            await system.post(b"x" * 2_000_000)
            assert (await system.sealed()).dropped == {"override": 1, "too_large": 1}
            system.route(revision("rev", 1000), target, mirrors=(compare,))
            assert (await system.post()).status_code == 503
            assert (await system.sealed()).dropped == {"live_failed": 1}
            system.route(revision("rev", 1000, stable), target, mirrors=(compare,), repeatable=False)
            await system.post()
            assert (await system.sealed()).dropped == {"not_repeatable": 1}
            assert candidate.heard == []

    run(scenario())


def test_batches_add_up_to_what_callers_saw(tmp_path: Path) -> None:
    async def scenario() -> None:
        models = [await Model(ok(b"1")).start() for _ in range(2)]
        async with router(tmp_path) as system:
            system.route(revision("one", 700, models[0]), revision("two", 300, models[1]))
            batches: list[Batch] = []
            stop = asyncio.Event()

            async def keep_sealing() -> None:
                while not stop.is_set():
                    batches.extend(system.worker.book.seal(1.0))
                    await asyncio.sleep(0.001)

            sealing = asyncio.create_task(keep_sealing())
            answers = await asyncio.gather(*[system.post() for _ in range(300)])
            await system.settled()
            stop.set()
            await sealing
            batches.extend(system.worker.book.seal(1.0))
            said = Counter(a.headers["headgate-revision"] for a in answers)
            for name in ("one", "two"):
                assert add([b.live[name] for b in batches if name in b.live]).requests == said[name]

    run(scenario())

"""What judging costs the controller: 100 rollouts at once, five gates each, a batch a second from each of two routers.

The controller's own parts: batches come in by `Evidence.receive` (a real record), `Judge.verdicts` is asked after each
exchange. Judging is timed apart from receiving, which stores what came, whatever gates there are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench.judgement.ours import GATES
from bench.judgement.traffic import LOOKS_A_MINUTE, WORLDS, simulate

from headgate.control import ExchangeRequest
from headgate.evidence import Batch, Result
from headgate.process import Process
from headgate.rollout import Head
from headgate.testing import World, deployment, target
from headgate_controllers.evidence import Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.judge import Judge
from headgate_controllers.records.sqlite import SqliteRecord

ROLLOUTS, WORKERS = 100, 2
SECONDS, WARM_SECONDS = 300, 2  # timed, the default soak of a step; before it, so that nothing is imported in it
A_SECOND = 100  # requests of each rollout: 10,000 a second in all
SHARE = 0.25  # of the candidate
FIVE = Process(
    steps=(25, 100),
    soak_s=1,
    gates={"error-rate": {}, "latency-p50": {}, "latency-p90": {}, "latency-p99": {}, "latency-p99.9": {}},
)
MIRRORED_S = 600  # the default soak of the mirror phase
BLUE, GREEN = deployment("blue"), deployment("green")


def shares_of_a_core() -> tuple[float, float]:
    """CPU seconds a second of all rollouts together: of judging, and of receiving what is judged."""
    with tempfile.TemporaryDirectory() as folder:
        record = SqliteRecord(Path(folder) / "record.db")
        try:
            return _measure(record)
        finally:
            record.close()


def _measure(record: SqliteRecord) -> tuple[float, float]:
    now = 1_000.0
    heads = Heads(record, lambda: now)
    evidence = Evidence(record, heads, lambda: now)
    judge = Judge(evidence, GATES)
    for head in _stepping():
        heads.change(head.endpoint, lambda draft, head=head: setattr(draft, "head", head))  # type: ignore[misc]
    judging = receiving = 0.0
    for second, batches in enumerate(_exchanges(list(heads.all())), -WARM_SECONDS):
        for worker in range(WORKERS):
            now += 1 / WORKERS
            began = time.process_time()
            touched = evidence.receive(ExchangeRequest(f"router-{worker}", "b", second + 9, None, batches[worker]))
            received = time.process_time()
            for endpoint in touched:
                judge.verdicts(heads.get(endpoint))
            if second >= 0:
                receiving += received - began
                judging += time.process_time() - received
    return judging / SECONDS, receiving / SECONDS


def _stepping() -> Iterator[Head]:
    """The heads of as many endpoints, each in the first step of a rollout."""
    world = World(result=Result.PASS).commit(target("b1", [BLUE], {"blue": 100}, process=FIVE))
    world.commit(target("a2", [BLUE, GREEN], {"green": 100}, process=FIVE))
    world.wait(MIRRORED_S)
    rollout = world.head.active
    if rollout is None or rollout.running is None or rollout.running.verb != "step":
        raise RuntimeError("the simulated rollout is not in a step")
    for number in range(ROLLOUTS):
        name = f"{world.head.endpoint}-{number}"
        own = replace(rollout, id=f"{rollout.id}-{number}", target=replace(rollout.target, endpoint=name))
        yield replace(world.head, endpoint=name, rollout=own)


def _exchanges(heads: list[Head]) -> Iterator[list[tuple[Batch, ...]]]:
    """A second each: the batches of every worker, one of each endpoint."""
    seconds = WARM_SECONDS + SECONDS
    step = simulate(np.random.default_rng(1), WORLDS[0], A_SECOND / WORKERS * LOOKS_A_MINUTE, seconds * WORKERS)[1]
    if step.share != SHARE:
        raise RuntimeError("the simulated step has another share")
    for second in range(seconds):
        made = []
        for worker in range(WORKERS):
            at = second * WORKERS + worker
            live = {GREEN.revision: step.candidate.counts(at), BLUE.revision: step.stable.counts(at)}
            made.append(tuple(Batch(head.endpoint, _generation(head), 1.0, live) for head in heads))
        yield made


def _generation(head: Head) -> int:
    running = head.active.running if head.active else None
    return running.generation if running else 0

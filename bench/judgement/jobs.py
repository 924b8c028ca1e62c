"""One simulated case each, judged by everybody; run in as many processes as there are cores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any

import numpy as np
from bench.judgement import answers, ours, peers
from bench.judgement.traffic import REGRESSIONS, WORLDS, Change, simulate

RATES = (20, 600, 20_000)  # requests a minute
LOOKS = 60  # of each step, ten seconds each
HELD_LOOKS = 120  # of each step, before a rollout counts as held
SILENT, NOTHING_WRONG = "silence", "nothing is wrong"


def equal(job: tuple[int, int, int]) -> Counter[tuple[str, ...]]:
    world, rate, seed = job
    phases = simulate(np.random.default_rng([seed, rate, world]), WORLDS[world], rate, LOOKS)
    found: Counter[tuple[str, ...]] = Counter({(WORLDS[world].name, str(rate), "runs"): 1})
    found[(WORLDS[world].name, str(rate), "ours")] += ours.false_abort(phases).ended == "failed"
    for name, judge in peers.PEERS.items():
        found[(WORLDS[world].name, str(rate), name)] += judge(phases).aborted
    return found


def regression(job: tuple[str, int, int]) -> Counter[tuple[str, ...]]:
    name, rate, seed = job
    rng = np.random.default_rng([seed, rate, len(name)])
    phases = simulate(rng, WORLDS[0], rate, HELD_LOOKS, REGRESSIONS.get(name, Change()))
    if name == SILENT:
        for phase in phases:
            for counts in (phase.candidate.requests, phase.candidate.failures, phase.candidate.times):
                counts[:] = 0
    found: Counter[tuple[str, ...]] = Counter({(name, str(rate), "runs"): 1})
    ended = ours.rollout(phases)
    found[(name, str(rate), "ours", ended.ended)] += 1
    if ended.minute is not None and ended.ended == "failed":
        found[(name, str(rate), "ours", "minutes")] += ended.minute
    for peer, judge in peers.PEERS.items():
        outcome = judge(phases)
        found[(name, str(rate), peer, "failed" if outcome.aborted else "promoted")] += 1
        found[(name, str(rate), peer, "minutes")] += outcome.minute or 0
    return found


def answer(job: tuple[int, int]) -> Counter[tuple[str, ...]]:
    case, seed = job
    found: Counter[tuple[str, ...]] = Counter({(answers.CASES[case].name, "runs"): 1})
    found[(answers.CASES[case].name, str(answers.judge(answers.CASES[case], seed)))] += 1
    return found


def every(function: Callable[[Any], Counter[Any]], jobs: Sequence[Any]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        for found in pool.imap_unordered(function, jobs, chunksize=10):
            total.update(found)
    return total

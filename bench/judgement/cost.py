"""What judging costs: 100 rollouts at once, five gates each, a look a second from each of two router workers."""

from __future__ import annotations

import time

import numpy as np
from bench.judgement.ours import GATES, JUDGED
from bench.judgement.traffic import WORLDS, simulate

from headgate.evidence import Look
from headgate.process import Process
from headgate_policies.judge import Analysis

ROLLOUTS, WORKERS, SECONDS = 100, 2, 20
FIVE = Process(gates={"error-rate": {}, "latency-p50": {}, "latency-p90": {}, "latency-p99": {}, "latency-p99.9": {}})


def share_of_a_core() -> float:
    """CPU seconds per second of all rollouts together, looks heard and verdicts given once a second."""
    phase = simulate(np.random.default_rng(1), WORLDS[0], 600 * 10 / WORKERS, SECONDS * WORKERS)[1]
    looks = [
        Look("step", 1, 1.0 + at / WORKERS, 1.0, phase.candidate.counts(at), phase.stable.counts(at))
        for at in range(SECONDS * WORKERS)
    ]
    running = [Analysis(FIVE, phase="step-25", kind="step", gates=GATES, phases_total=JUDGED) for _ in range(ROLLOUTS)]
    began = time.process_time()
    for second in range(SECONDS):
        part = looks[second * WORKERS : (second + 1) * WORKERS]
        for analysis in running:
            analysis.hear(part)
            analysis.verdicts()
    return (time.process_time() - began) / SECONDS

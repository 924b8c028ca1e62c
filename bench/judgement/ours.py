"""The gates as the controller runs them, over simulated rollouts: real looks, real shares of false_abort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.judgement.traffic import LOOK_S, LOOKS_A_MINUTE, Phase

from headgate import plugins
from headgate.evidence import NOTHING, Counts, Look, Result, add
from headgate.process import Process
from headgate_policies.judge import Analysis, combine

GATES = plugins.load("headgate.gate").adapters
PROCESS = Process(gates={"error-rate": {}, "latency-p99": {}, "mirror-diff": {}})
JUDGED = 5  # mirror and four steps: what shares false_abort in a default rollout
SOAK_LOOKS = 30  # the default soak of 5 minutes


@dataclass(frozen=True)
class Outcome:
    ended: str  # promoted | failed | held
    minute: int | None = None  # in which it ended, of the rollout, counted from 1
    gate: str = ""


def false_abort(phases: Sequence[Phase]) -> Outcome:
    """Judges every look of every step, whatever passed before: the longest horizon there is."""
    reference = NOTHING
    for index, phase in enumerate(phases):
        analysis = _open(phase)
        analysis.hear(_looks(phase, reference))
        failed = [v.gate for v in analysis.verdicts() if v.result is Result.FAIL]
        if failed:
            return Outcome("failed", (index + 1) * phase.looks // LOOKS_A_MINUTE, failed[0])
        reference = add([reference, _stable(phase)])
    return Outcome("promoted")


def rollout(phases: Sequence[Phase]) -> Outcome:
    """As it goes: a step ends when every gate passes and its soak is over; it is held at its end otherwise."""
    reference, minute = NOTHING, 0
    for phase in phases:
        analysis, looks = _open(phase), _looks(phase, reference)
        passed = False
        for start in range(0, len(looks), LOOKS_A_MINUTE):
            analysis.hear(looks[start : start + LOOKS_A_MINUTE])
            verdicts = analysis.verdicts()
            minute += 1
            if combine(verdicts) is Result.FAIL:
                return Outcome("failed", minute, next(v.gate for v in verdicts if v.result is Result.FAIL))
            passed = combine(verdicts) is Result.PASS and start + LOOKS_A_MINUTE >= SOAK_LOOKS
            if passed:
                break
        if not passed:
            return Outcome("held", minute, next(v.gate for v in verdicts if v.result is not Result.PASS))
        reference = add([reference, _stable(phase)])
    return Outcome("promoted", minute)


def _open(phase: Phase) -> Analysis:
    kind = "bake" if phase.share == 1.0 else "step"
    return Analysis(PROCESS, phase=f"step-{phase.share:.0%}", kind=kind, gates=GATES, phases_total=JUDGED)


def _looks(phase: Phase, reference: Counts) -> list[Look]:
    kind = "bake" if phase.share == 1.0 else "step"
    return [
        Look(
            kind,
            1,
            at * LOOK_S,
            LOOK_S,
            phase.candidate.counts(at),
            phase.stable.counts(at) if kind == "step" else NOTHING,
            reference if kind == "bake" else NOTHING,
        )
        for at in range(phase.looks)
    ]


def _stable(phase: Phase) -> Counts:
    return add([phase.stable.counts(at) for at in range(phase.looks)])

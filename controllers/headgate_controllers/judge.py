"""Looks to verdicts for the running op: gates, their share of `false_abort`, and evidence brought together.

The statistics are `headgate_policies`. Gates are pure, so the same looks give the same verdicts after a restart; what
is kept here only saves hearing old looks again. What gates conclude is asked after every look; their words and figures
are made, and recorded, when a conclusion is new and every few seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headgate.evidence import Look, Result, Verdict
from headgate.phases import BY_VERB
from headgate.rollout import Head, OpRecord, Rollout, kind_of
from headgate_controllers.evidence import Evidence
from headgate_policies.judge import Analysis, combine

SAID_EVERY_S = 5.0  # of the looks' time: how old figures may be while every gate concludes the same


@dataclass(slots=True)
class _Hearing:
    analysis: Analysis
    heard: int = 0
    results: tuple[Result, ...] = ()
    said_at: float = -math.inf
    verdicts: tuple[Verdict, ...] = ()

    def hear(self, looks: Sequence[Look]) -> None:
        """One by one, so that verdicts are given at the same looks however many come at once."""
        for look in looks:
            results = self.analysis.hear((look,)).results()
            if results != self.results or not self.said_at <= look.at < self.said_at + SAID_EVERY_S:
                self.results, self.said_at, self.verdicts = results, look.at, self.analysis.verdicts()
        self.heard += len(looks)
        self.verdicts = self.verdicts or self.analysis.verdicts()  # before the first look: that nothing is known


class Judge:
    def __init__(self, evidence: Evidence, gates: Mapping[str, Any]) -> None:
        self._evidence = evidence
        self._gates = gates
        self._hearings: dict[str, tuple[str, _Hearing]] = {}  # endpoint -> (rollout/op, hearing): one running op each

    def verdicts(self, head: Head) -> tuple[tuple[Verdict, ...], Result | None]:
        """The verdicts of the endpoint's running op over all its evidence, and what they come to."""
        rollout = head.active
        op = rollout.running if rollout else None
        kind = kind_of(rollout, op, head.traffic) if rollout and op else ""
        if rollout is None or op is None or op.live_at is None or not kind:
            self._hearings.pop(head.endpoint, None)
            return (), None
        hearing = self._hearing(head, rollout, op, kind)
        hearing.hear(self._evidence.looks(rollout.id, op.name, hearing.heard))
        return hearing.verdicts, combine(hearing.verdicts)

    def _hearing(self, head: Head, rollout: Rollout, op: OpRecord, kind: str) -> _Hearing:
        key = f"{rollout.id}/{op.name}"
        known = self._hearings.get(head.endpoint)
        if known is None or known[0] != key:
            judged = sum(BY_VERB[planned.verb].judged for planned in rollout.plan.ops)
            process = rollout.target.process
            analysis = Analysis(process, phase=op.name, kind=kind, gates=self._gates, phases_total=judged)
            known = self._hearings[head.endpoint] = (key, _Hearing(analysis))
        return known[1]

"""Every installed gate is pure, never passes on nothing, and can both pass and fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from headgate import PairKind, plugins
from headgate.evidence import INSTANCE, INSTANCE_FACTS, Approval, Counts, Look, Sample, bucket
from headgate.testing import GATE, Check, GateCase, counts, look, pair

GATES = plugins.load("headgate.gate")
FINE = [look(counts(200), counts(800), at=float(at)) for at in range(40)]


def pairs(factor: float) -> list[Look]:
    """Looks of ten pairs each, the candidate's number `factor` times the stable's, every fifth pair echoed."""
    found = []
    for at in range(60):
        answers = [{"predictions": [50.0 + 7 * at + k]} for k in range(10)]
        moved = [{"predictions": [factor * a["predictions"][0]]} for a in answers]
        compared = [pair(a, b, request=f"{at}-{k}") for k, (a, b) in enumerate(zip(answers, moved, strict=True))]
        echoed = [pair(a, a, kind=PairKind.ECHO, request=f"{at}-{k}") for k, a in enumerate(answers[::5])]
        found.append(look(counts(10), counts(10), *compared, *echoed, phase="mirror", at=float(at)))
    return found


def shaped(*dropped: str) -> list[Look]:
    """Looks of ten pairs each; the candidate's answers lack some fields, half of the answers have an optional one."""
    found = []
    for at in range(60):
        answers = [{"id": str(k), "score": 0.5} | ({"note": "x"} if k % 2 else {}) for k in range(10)]
        moved = [{key: value for key, value in a.items() if key not in dropped} for a in answers]
        compared = [pair(a, b, request=f"{at}-{k}") for k, (a, b) in enumerate(zip(answers, moved, strict=True))]
        found.append(look(counts(10), counts(10), *compared, phase="mirror", at=float(at)))
    return found


def spoken(approved: bool) -> list[Look]:
    said = Look("step", 1, 0.0, 0.0, approvals=(Approval("manual", approved, "ada"),))
    return [FINE[0], said, FINE[1]]


def sampled(value: float) -> list[Look]:
    return [
        Look("step", 1, float(at), 0.0, samples=(Sample("prometheus", "up", "candidate", value),)) for at in range(9)
    ]


def told(candidate_ms: float) -> list[Look]:
    """What an instance is, and traffic whose times vary."""
    arms = ("candidate", "stable")
    facts = [Sample(INSTANCE, fact, arm, 1.0) for fact in INSTANCE_FACTS for arm in arms]
    varied = [
        look(counts(20, ms=candidate_ms + at % 3), counts(80, ms=40.0 + at % 3), at=float(at)) for at in range(40)
    ]
    return [Look("step", 1, 0.0, 0.0, samples=tuple(facts)), *varied]


def streamed(gap_ms: float, finish: str) -> Counts:
    fine = {"first_event": {bucket(80.0): 30}, "gap": {bucket(gap_ms): 30}, "pace": {bucket(12.0): 30}}
    return Counts({"ok": 30}, {}, {}, {}, fine, {finish: 30})


def streams(gap_ms: float = 40.0, finish: str = "stop") -> list[Look]:
    return [look(streamed(gap_ms, finish), streamed(40.0, "stop"), at=float(at)) for at in range(120)]


CASES: dict[str, tuple[Sequence[Look], Sequence[Look], dict[str, Any]]] = {  # evidence: passes, fails; parameters
    "cost": (told(40.0), told(80.0), {}),
    "error-rate": (FINE, [look(counts(150, 50), counts(800))] * 40, {"max_increase": 0.02}),
    "expr": (FINE, [look(counts(150, 50), counts(800))] * 40, {}),
    "latency": (FINE, [look(counts(200, ms=900.0), counts(800))] * 40, {}),
    "manual": (spoken(True), spoken(False), {}),
    "metric": (sampled(0.5), sampled(2.0), {"query": "up", "max": 1.0}),
    "mirror-diff": (pairs(1.0), pairs(-3.0), {"rel": 0.01}),
    "stream": (streams(), streams(900.0), {}),
    "schema": (shaped(), shaped("score"), {}),
}


def test_every_installed_gate_is_held_to_its_promises() -> None:
    assert (set(GATES.adapters), GATES.findings) == (set(CASES), ())


@pytest.mark.parametrize("check", GATE, ids=str)
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_gate(name: str, check: Check[GateCase]) -> None:
    passes, fails, given = CASES[name]
    gate = GATES.adapters[name]
    check(GateCase(gate, passes, fails, gate.params(**given)))

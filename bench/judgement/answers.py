"""Copies of live requests and their answers: a wrong model must not reach live traffic, a noisy equal one must.

Nothing but mirror-diff sees answers, so there is no peer to compare with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from bench.judgement.ours import GATES, JUDGED

from headgate.evidence import Answer, Look, Pair, PairKind, Result
from headgate.process import Process
from headgate_policies.judge import Analysis

PAIRS, ECHOES, SOAK_LOOKS = 20, 2, 125  # 2,500 pairs: ten minutes of 1,250 requests a minute, mirrored at 20 %
STRICT = {"rel": 0.01, "max_share": 0.002}
DEFAULT = {"rel": 0.01}
Model = Callable[[np.random.Generator, dict[str, Any]], dict[str, Any]]


def right(rng: np.random.Generator, answer: dict[str, Any]) -> dict[str, Any]:
    return answer


def noisy(rng: np.random.Generator, answer: dict[str, Any]) -> dict[str, Any]:
    """A time stamp in each answer, and a sampled text that is another one in three of a hundred."""
    text = "b" if rng.random() < 0.03 else "a"
    return answer | {"took_ms": float(rng.integers(1, 1_000_000)), "tone": text}


def off(rng: np.random.Generator, answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"score": answer["score"] * 1.3}


def off_by_one(rng: np.random.Generator, answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"count": answer["count"] + 1}


def reordered(rng: np.random.Generator, answer: dict[str, Any]) -> dict[str, Any]:
    first, second, *rest = answer["ranking"]
    return answer | {"ranking": [second, first, *rest]}


def dropped(rng: np.random.Generator, answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "label"}


@dataclass(frozen=True)
class Case:
    name: str
    wrong: Model
    share: float  # of requests that the candidate answers wrongly
    gate: dict[str, Any]
    base: Model = right  # what both models do
    echoes: int = ECHOES  # of `PAIRS`
    looks: int = SOAK_LOOKS  # that it may take; what is neither proven nor ruled out by then is held


FAILED_IN_TIME = "wrong number in 1 % of cases, 20,000 pairs"
NOISY = "noisy, but equal, 10,000 pairs"
NOISY_MORE_ECHOES = "noisy, but equal, 50 % echoes, 2,500 pairs"
CASES = (
    Case("wrong number in 10 % of cases", off, 0.1, STRICT),
    Case("wrong number in 1 % of cases", off, 0.01, STRICT),
    Case("wrong number in 0.1 % of cases (tolerated: 0.2 %)", off, 0.001, STRICT),
    Case("wrong number in 1 % of cases, no noise (min_echoes: 0)", off, 0.01, STRICT | {"min_echoes": 0}),
    Case(FAILED_IN_TIME, off, 0.01, STRICT, looks=1_000),
    Case("wrong number in 1 % of cases, 50 % echoes, 7,500 pairs", off, 0.01, STRICT, echoes=10, looks=375),
    Case("an integer off by one, 1 %", off_by_one, 0.01, STRICT),
    Case("a re-ordered ranking, 1 %", reordered, 0.01, STRICT),
    Case("a dropped field, 1 %", dropped, 0.01, STRICT),
    Case(NOISY_MORE_ECHOES, right, 0.0, DEFAULT, noisy, echoes=10),
    Case(NOISY, right, 0.0, DEFAULT, noisy, looks=500),
)


def judge(case: Case, seed: int) -> Result:
    """As the controller goes: a failure ends it, a pass when the soak is over."""
    rng = np.random.default_rng([seed, 77])
    process = Process(gates={"error-rate": {}, "latency-p99": {}, "mirror-diff": case.gate})
    analysis = Analysis(process, phase="mirror", kind="mirror", gates=GATES, phases_total=JUDGED, only="mirror-diff")
    found = Result.INCONCLUSIVE
    for at in range(case.looks):
        (found,) = analysis.hear([_look(rng, case, at)]).results()
        if found is Result.FAIL or (found is Result.PASS and at + 1 >= SOAK_LOOKS):
            break
    return found


def _look(rng: np.random.Generator, case: Case, at: int) -> Look:
    pairs = []
    for number in range(PAIRS):
        asked = _answer(rng)
        live = case.base(rng, asked)
        copy = case.base(rng, asked)
        if rng.random() < case.share:
            copy = case.wrong(rng, copy)
        pairs.append(_pair(PairKind.COMPARE, f"{at}-{number}", live, copy))
        if number < case.echoes:
            pairs.append(_pair(PairKind.ECHO, f"{at}-{number}", live, case.base(rng, asked)))
    return Look("mirror", 1, float(at), 1.0, pairs=tuple(pairs))


def _answer(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "score": round(float(rng.uniform(1, 100)), 6),
        "count": int(rng.integers(1, 30)),
        "label": "yes" if rng.random() < 0.4 else "no",
        "ranking": [int(i) for i in rng.permutation(5)],
    }


def _pair(kind: PairKind, request: str, live: dict[str, Any], copy: dict[str, Any]) -> Pair:
    return Pair(kind, request, _said("stable", live), _said("candidate", copy))


def _said(revision: str, answer: dict[str, Any]) -> Answer:
    return Answer(revision, 200, "application/json", json.dumps(answer))

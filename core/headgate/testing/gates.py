"""What every gate promises: pure, never a pass on no evidence, its failure stays. Subject: a `GateCase`.

A gate that never passes blocks every rollout, and one that never fails is no gate: `passes` and `fails` are evidence of
the caller's on which it must do either.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headgate import codec
from headgate.evidence import NOTHING, Look, Result, Traffic, Verdict
from headgate.params import parse
from headgate.ports import Gate
from headgate.testing.suite import Suite
from headgate.testing.values import counts, look

KINDS = ("counts", "events", "pairs", "echo", "approval", "sample")
PHASES = ("mirror", "step", "bake")


@dataclass(frozen=True, slots=True)
class GateCase:
    gate: Gate[Any]
    passes: Sequence[Look]  # enough, and good: it must pass
    fails: Sequence[Look]  # enough, and bad: it must fail
    params: Any = None  # None: the gate's defaults
    alpha: float = 0.001

    def judge(self, looks: Sequence[Look]) -> Verdict:
        return self.gate.judge(self.params or self.gate.params(), list(looks), self.alpha)

    def evidence(self) -> dict[str, Sequence[Look]]:
        """Every kind of evidence a gate meets, by name."""
        phase = self.passes[0].phase
        silent = [look(NOTHING, NOTHING, phase=phase, at=float(at)) for at in range(20)]
        return {
            "none": [],
            "silence": silent,
            "only the stable's": [look(NOTHING, counts(500), phase=phase)] * 20,
            "callers who left": [look(counts(0, gone=30), counts(0, gone=300), phase=phase)] * 20,
            "one request": [look(counts(1), counts(20), phase=phase)],
            "a billion requests": [look(counts(10**9), counts(10**9), phase=phase)] * 3,
            "good": self.passes,
            "bad": self.fails,
            "good, with silence": [*silent, *self.passes, *silent],
        }


GATE: Suite[GateCase] = Suite()


@GATE
def _its_parameters_are_a_frozen_dataclass_of_defaults(case: GateCase) -> None:
    params = case.gate.params
    assert dataclasses.is_dataclass(params), "headgate reads a block of rollout.yml into it"
    assert params.__dataclass_params__.frozen, "what a verdict was judged by must not change"  # type: ignore[attr-defined]
    assert params() == params(), "every field has a default, so that `name: {}` is enough"
    codec.canonical(params())


@GATE
def _a_parameter_it_does_not_have_is_refused(case: GateCase) -> None:
    assert parse(case.gate.params, {}) == (case.gate.params(), ())
    _, faults = parse(case.gate.params, {"no_such_parameter": 1})
    assert faults, "a misspelt limit must not be a gate without one"


@GATE
def _it_has_a_version(case: GateCase) -> None:
    assert isinstance(case.gate.version, str)
    assert case.gate.version, "a verdict names the version of its gate"


@GATE
def _it_says_what_it_needs_and_where_it_judges(case: GateCase) -> None:
    needs = case.gate.needs(case.params or case.gate.params())
    assert needs, "a gate that needs nothing judges nothing"
    for need in needs:
        assert need.kind in KINDS, need
        assert need.phases, need
        assert set(need.phases) <= set(PHASES), need


@GATE
def _no_evidence_is_neither_a_pass_nor_a_failure(case: GateCase) -> None:
    for name in ("none", "silence", "only the stable's", "callers who left"):
        verdict = case.judge(case.evidence()[name])
        assert verdict.result not in (Result.PASS, Result.FAIL), f"{name}: {verdict.result}: {verdict.explanation}"


@GATE
def _good_evidence_passes(case: GateCase) -> None:
    verdict = case.judge(case.passes)
    assert verdict.result is Result.PASS, f"{verdict.result}: {verdict.explanation}; missing: {verdict.missing}"


@GATE
def _silence_before_and_after_does_not_undo_a_pass(case: GateCase) -> None:
    verdict = case.judge(case.evidence()["good, with silence"])
    assert verdict.result is Result.PASS, f"{verdict.result}: {verdict.explanation}"


@GATE
def _bad_evidence_fails(case: GateCase) -> None:
    verdict = case.judge(case.fails)
    assert verdict.result is Result.FAIL, f"{verdict.result}: {verdict.explanation}; missing: {verdict.missing}"


@GATE
def _a_failure_stays_whatever_comes_later(case: GateCase) -> None:
    first = next(n for n in range(1, len(case.fails) + 1) if case.judge(case.fails[:n]).result is Result.FAIL)
    failed = case.fails[:first]
    for more in ([], case.evidence()["silence"], case.passes, case.fails[first:]):
        assert case.judge([*failed, *more]).result is Result.FAIL, "first failure wins, also after a restart"


@GATE
def _the_same_looks_give_the_same_bytes(case: GateCase) -> None:
    for name, looks in case.evidence().items():
        assert codec.canonical(case.judge(looks)) == codec.canonical(case.judge(looks)), name


@GATE
def _judging_changes_no_evidence(case: GateCase) -> None:
    for name, looks in case.evidence().items():
        before = codec.canonical(list(looks))
        case.judge(looks)
        assert codec.canonical(list(looks)) == before, name


@GATE
def _a_verdict_says_everything_needed_to_say_it_again(case: GateCase) -> None:
    for name, looks in case.evidence().items():
        verdict = case.judge(looks)
        assert isinstance(verdict, Verdict), name
        assert isinstance(verdict.result, Result), f"{name}: {verdict.result!r}"
        assert verdict.version == case.gate.version, name
        assert verdict.alpha == case.alpha, name
        assert verdict.explanation, f"{name}: a person reads it"
        assert all(math.isfinite(value) for value in verdict.figures.values()), f"{name}: {verdict.figures}"
        assert codec.decode(Verdict, codec.canonical(verdict)).result is verdict.result, name


@GATE
def _a_forecast_promises_what_can_be_kept(case: GateCase) -> None:
    for rate in (0.0, 0.1, 1_000.0):
        found = case.gate.power(case.params or case.gate.params(), Traffic(rate), case.alpha)
        if found is not None:
            assert found.effect
            assert found.requests > 0
            assert 0 < found.power <= 1

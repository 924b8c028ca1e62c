"""A rule of the endpoint's own over counts and quantiles, in CEL. `expr-NAME` is one more of them.

    gates:
      expr: "candidate.error_rate <= stable.error_rate * 1.5 + 0.001"
      expr-tail: {expression: "candidate.p99_ms < 250.0", min_requests: 2000}

An expression compares point estimates: it is no sequential test, and its false alarms are not bounded by `false_abort`.
So that looking often does not make it worse than it is, it is evaluated at `min_requests` candidate requests and then
each time they have doubled. False is a failure; a number that is missing, NaN or infinite makes it neither; a condition
on the amount of evidence alone (`candidate.requests >= 500`) only waits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headgate.evidence import FAILURES, NOTHING, Counts, Detection, Look, Need, Result, Traffic, Verdict, add
from headgate.params import Fault, ParameterError, count, phases
from headgate_policies.cel import DOUBLE, INT, STRING, CelError, Expression, NoCel, Value
from headgate_policies.sitting import Opinion, Sitting, judged
from headgate_policies.wording import more

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
LEAST_MEASURED = 20  # latencies before a quantile is known, and 1 / (1 - q)
AMOUNTS = ("candidate.requests", "stable.requests")  # how much evidence there is, not what it says
VARIABLES: Mapping[str, str] = {
    "phase": STRING,  # mirror | step | bake
    **{
        f"{arm}.{name}": kind
        for arm in ("candidate", "stable")
        for name, kind in {
            "requests": INT,  # all but those whose caller left
            "failures": INT,
            **{str(outcome): INT for outcome in FAILURES},  # model_error, timeout, refused, truncated
            "error_rate": DOUBLE,  # failures / requests; missing without a request
            **{f"{name}_ms": DOUBLE for name in QUANTILES},  # of whole answers; missing while too few are measured
            **{f"first_byte_{name}_ms": DOUBLE for name in QUANTILES},
        }.items()
    },
}


@dataclass(frozen=True, slots=True)
class ExpressionParams:
    expression: str = "candidate.error_rate <= stable.error_rate + 0.01"
    min_requests: int = count(500, low=1)  # candidate requests before it is evaluated; then at each doubling
    phases: tuple[str, ...] = phases()
    label: str = ""  # what follows `expr-` in its name

    def __post_init__(self) -> None:
        try:
            Expression(self.expression, VARIABLES)
        except NoCel as error:
            fix = "pip install 'headgate[cel]'"
            raise ParameterError(Fault("expression", str(error), fix=fix, code="cel-missing")) from error
        except CelError as error:
            raise ParameterError(Fault("expression", str(error), error.line, error.column, error.fix)) from error


class ExpressionGate:
    version = "1"
    params = ExpressionParams

    def needs(self, params: ExpressionParams) -> Sequence[Need]:
        return (Need("counts", params.phases),)

    def judge(self, params: ExpressionParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: ExpressionParams, alpha: float) -> Sitting:
        return _ExpressionSitting(params, alpha)

    def power(self, params: ExpressionParams, traffic: Traffic, alpha: float) -> Detection | None:
        return None  # a rule promises nothing about rates


class _ExpressionSitting(Sitting):
    def __init__(self, params: ExpressionParams, alpha: float) -> None:
        super().__init__("expr", ExpressionGate.version, params, alpha)
        self._own = params
        self._expression = Expression(params.expression, VARIABLES)
        self._candidates: list[Counts] = [NOTHING]  # added up only when they are looked at
        self._stables: list[Counts] = [NOTHING]
        self._requests = 0  # of the candidate
        self._next = params.min_requests
        self._said: Opinion | None = None
        self._failed: Opinion | None = None

    def _take(self, look: Look) -> None:
        self._requests += look.candidate.requests
        self._candidates.append(look.candidate)
        if look.phase == "bake":
            self._stables = [look.reference]
        else:
            self._stables.append(look.stable)
        if self._failed is None and self._requests >= self._next:
            self._next = 2 * self._requests
            self._said = self._evaluate()
            self._failed = self._said if self._said.result is Result.FAIL else None

    def _evaluate(self) -> Opinion:
        self._candidates, self._stables = [add(self._candidates)], [add(self._stables)]
        values = metrics(self._phase, self._candidates[0], self._stables[0])
        value = self._expression.evaluate(values)
        figures = {name: float(values[name]) for name in value.node.names if isinstance(values.get(name), int | float)}
        at = f"at {self._requests:,} candidate requests"
        waits = [part for part in conditions(value) if part.holds is not True and _amount(part)]
        if waits:
            said = "; ".join(part.sentence() for part in waits)
            return Opinion(Result.INCONCLUSIVE, f"{at}: {said}", figures, self._until(waits))
        if value.holds is None:
            unknown = "; ".join(leaf.sentence() for leaf in value.leaves(that=(None,)))
            return Opinion(Result.INCONCLUSIVE, f"{at}: {unknown}", figures, f"a value for {unknown}")
        said = "; ".join(leaf.sentence() for leaf in value.leaves(that=(value.holds,)))
        return Opinion(Result.PASS if value.holds else Result.FAIL, f"{at}: {said or value.sentence()}", figures)

    def _until(self, waits: Sequence[Value]) -> str:
        return f"requests until {' and '.join(part.node.text for part in waits)}"

    def _opinion(self) -> Opinion:
        if self._failed is not None:
            return self._failed
        short = self._next - self._requests
        if self._said is None:
            seen = f"{self._requests:,} candidate requests; `{self._own.expression}` is not evaluated yet"
            return Opinion(Result.INCONCLUSIVE, seen, missing=more(short))
        if self._said.result is Result.INCONCLUSIVE:
            missing = f"{self._said.missing}; it is evaluated again after {more(short)}"
            return Opinion(Result.INCONCLUSIVE, self._said.explanation, self._said.figures, missing)
        return self._said


def conditions(value: Value) -> Sequence[Value]:
    """What must all hold: the parts of the outermost `&&`, or the whole."""
    return value.parts if value.node.kind == "all" else (value,)


def _amount(part: Value) -> bool:
    return bool(part.node.names) and set(part.node.names) <= set(AMOUNTS)


def metrics(phase: str, candidate: Counts, stable: Counts) -> dict[str, Any]:
    """Every variable that has a value. What was not measured is not in it, never zero."""
    found: dict[str, Any] = {"phase": phase}
    for arm, counts in (("candidate", candidate), ("stable", stable)):
        found[f"{arm}.requests"] = counts.requests
        found[f"{arm}.failures"] = counts.failures
        found |= {f"{arm}.{outcome}": counts.outcomes.get(outcome, 0) for outcome in FAILURES}
        if counts.requests:
            found[f"{arm}.error_rate"] = counts.failures / counts.requests
        found |= _quantiles(f"{arm}.", counts)
        found |= _quantiles(f"{arm}.first_byte_", Counts(latency=counts.first_byte))
    return found


def _quantiles(prefix: str, counts: Counts) -> dict[str, float]:
    measured = sum(counts.latency.values())
    return {
        f"{prefix}{name}_ms": known
        for name, q in QUANTILES.items()
        if measured >= max(LEAST_MEASURED, math.ceil(1 / (1 - q))) and (known := counts.quantile_ms(q)) is not None
    }


gate = ExpressionGate()

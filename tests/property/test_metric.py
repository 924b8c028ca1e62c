"""A metric passes on nothing but good values in a row, whatever its source answers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.evidence import PROBLEMS, Look, Result, Sample
from headgate_policies.gates.metric import MetricParams, gate

PARAMS = MetricParams(query="up", max=1.0, passes=3, failures=2)
ANSWERS = st.one_of(st.floats(-2, 3), st.sampled_from(PROBLEMS))


def look(answer: float | str) -> Look:
    value, problem = (None, answer) if isinstance(answer, str) else (answer, "")
    return Look("step", 1, 0.0, 0.0, samples=(Sample("prometheus", "up", "candidate", value, problem),))


def expected(answers: list[float | str]) -> Result:
    """The rule, said plainly."""
    bad = 0
    for answer in answers:
        bad = bad if isinstance(answer, str) else bad + 1 if answer > PARAMS.max else 0  # type: ignore[operator]
        if bad >= PARAMS.failures:
            return Result.FAIL
    newest = answers[-PARAMS.passes :]
    if answers and isinstance(answers[-1], str):
        return Result.ERROR if answers[-1] in ("timeout", "unreachable", "refused") else Result.INCONCLUSIVE
    good = len(newest) == PARAMS.passes and all(isinstance(a, float) and a <= 1.0 for a in newest)
    return Result.PASS if good else Result.INCONCLUSIVE


@settings(max_examples=300, deadline=None)
@given(st.lists(ANSWERS, max_size=15))
def test_a_verdict_is_what_the_rule_says(answers: list[float | str]) -> None:
    assert gate.judge(PARAMS, [look(answer) for answer in answers], 0.001).result is expected(answers)

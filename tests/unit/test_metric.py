from __future__ import annotations

from typing import Any

import pytest

from headgate.evidence import PROBLEMS, Look, Result, Sample, Traffic
from headgate.params import parse
from headgate_policies.gates.metric import MetricParams, gate

QUERY = "up"


def answer(
    candidate: float | str, stable: float | str | None = None, *, phase: str = "step", source: str = "prometheus"
) -> Look:
    """A value, or the word for why there is none."""
    arms = {"candidate": candidate} | ({"stable": stable} if stable is not None else {})
    samples = [
        Sample(source, QUERY, arm, None, given) if isinstance(given, str) else Sample(source, QUERY, arm, given)
        for arm, given in arms.items()
    ]
    return Look(phase, 1, 0.0, 0.0, samples=tuple(samples))


def judge(looks: list[Look], **params: Any) -> tuple[Result, str, str]:
    made, faults = parse(gate.params, {"query": QUERY, "max": 0.9, **params})
    assert made is not None, faults
    verdict = gate.judge(made, looks, 0.001)
    return verdict.result, verdict.explanation, verdict.missing


def test_good_answers_in_a_row_pass() -> None:
    result, said, _ = judge([answer(0.5)] * 5)
    assert (result, said) == (Result.PASS, "0.5 (5 answers, 0 without a value); 5 good ones in a row")
    assert judge([answer(0.5)] * 4)[::2] == (Result.INCONCLUSIVE, "1 more good answers in a row")


def test_bad_answers_in_a_row_fail_and_that_stays() -> None:
    looks = [*[answer(0.5)] * 5, *[answer(0.95)] * 3]
    assert judge(looks)[:2] == (Result.FAIL, "0.95 is more than 0.9, 3 times in a row")
    assert judge([*looks, *[answer(0.5)] * 50])[0] is Result.FAIL


def test_one_bad_answer_among_good_ones_only_waits() -> None:
    looks = [*[answer(0.5)] * 5, answer(0.95)]
    assert judge(looks)[0] is Result.INCONCLUSIVE
    assert judge([*looks, *[answer(0.5)] * 5])[0] is Result.PASS


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_has_no_value_never_passes_and_never_fails(problem: str) -> None:
    for looks in ([answer(problem)] * 50, [*[answer(0.5)] * 9, answer(problem)], [answer(0.95), answer(problem)] * 2):
        result, _, missing = judge(looks)
        trouble = problem in ("timeout", "unreachable", "refused")
        assert result is (Result.ERROR if trouble else Result.INCONCLUSIVE)
        assert missing == "a value from `prometheus`"


@pytest.mark.parametrize(
    ("params", "problem", "expected"),
    [({"no_value": "error"}, "empty", Result.ERROR), ({"no_answer": "inconclusive"}, "timeout", Result.INCONCLUSIVE)],
    ids=str,
)
def test_how_it_holds_is_declared(params: dict[str, str], problem: str, expected: Result) -> None:
    assert judge([answer(problem)], **params)[0] is expected


def test_answers_without_a_value_do_not_forgive_bad_ones() -> None:
    assert judge([answer(0.95), answer("timeout"), answer(0.95), answer("empty"), answer(0.95)])[0] is Result.FAIL


@pytest.mark.parametrize(
    ("params", "candidate", "stable", "expected"),
    [
        ({"max_ratio": 1.2}, 1.1, 1.0, Result.PASS),
        ({"max_ratio": 1.2}, 1.3, 1.0, Result.FAIL),
        ({"max_ratio": 1.2}, 0.5, 0.0, Result.INCONCLUSIVE),
        ({"max_ratio": 1.2}, 0.5, -1.0, Result.INCONCLUSIVE),
        ({"max_ratio": 1.2}, 0.5, "empty", Result.INCONCLUSIVE),
        ({"max_ratio": 1.2}, "timeout", 1.0, Result.ERROR),
        ({"max_ratio": 1.2}, 0.5, None, Result.INCONCLUSIVE),
        ({"max_increase": 0.1}, 0.05, 0.0, Result.PASS),
        ({"max_increase": 0.1}, 0.15, 0.0, Result.FAIL),
        ({"min": 0.5}, 0.4, None, Result.FAIL),
        ({"min": 0.5}, 0.5, None, Result.PASS),
    ],
    ids=str,
)
def test_limits_may_be_absolute_or_the_stables(
    params: dict[str, float], candidate: Any, stable: Any, expected: Result
) -> None:
    assert judge([answer(candidate, stable)] * 5, **{"max": None, **params})[0] is expected


def test_at_the_bake_only_absolute_limits_judge() -> None:
    relative, both = MetricParams(query=QUERY, max_ratio=1.2), MetricParams(query=QUERY, max_ratio=1.2, max=2.0)
    assert gate.needs(relative)[0].phases == ("mirror", "step")
    assert gate.needs(both)[0].phases == ("mirror", "step", "bake")
    looks = [answer(1.9, "empty", phase="bake")] * 5
    assert gate.judge(both, looks, 0.001).result is Result.PASS


def test_another_gates_samples_say_nothing() -> None:
    assert judge([answer(0.5, source="other")] * 5)[0] is Result.INCONCLUSIVE


@pytest.mark.parametrize(
    ("params", "says"),
    [(MetricParams(max=1.0), "`query` is missing"), (MetricParams(query=QUERY), "there is no limit")],
    ids=["no-query", "no-limit"],
)
def test_what_can_never_judge_is_a_fault_and_an_error(params: MetricParams, says: str) -> None:
    assert [fault.message for fault in params.faults()] == [says]
    verdict = gate.judge(params, [answer(0.5)] * 9, 0.001)
    assert (verdict.result, verdict.explanation) == (Result.ERROR, says)


def test_a_rule_that_would_pass_on_silence_is_refused() -> None:
    _, (fault,) = parse(gate.params, {"no_value": "pass"})
    assert fault.message == "no_value is `pass`: write inconclusive or error, never pass"


def test_it_promises_nothing() -> None:
    assert gate.power(MetricParams(), Traffic(10), 0.001) is None

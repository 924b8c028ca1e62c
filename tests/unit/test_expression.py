from __future__ import annotations

import pytest

from headgate.evidence import NOTHING, Look, Result, Traffic
from headgate.params import parse
from headgate.testing import counts, look
from headgate_policies.gates.expression import VARIABLES, ExpressionParams, gate, metrics

RATIO = "candidate.error_rate <= stable.error_rate * 1.5 && candidate.requests >= 500"


def judge(looks: list[Look], expression: str = RATIO, least: int = 500) -> tuple[Result, str, str]:
    verdict = gate.judge(ExpressionParams(expression, least), looks, 0.001)
    return verdict.result, verdict.explanation, verdict.missing


def steady(bad: int, n: int, *, ok: int = 100, phase: str = "step") -> list[Look]:
    return [look(counts(ok - bad, bad), counts(990, 10), phase=phase, at=float(at)) for at in range(n)]


def test_a_rule_that_holds_passes_and_shows_its_numbers() -> None:
    assert judge(steady(1, 5)) == (
        Result.PASS,
        "at 500 candidate requests: candidate.error_rate 0.01 is <= 0.015 (= stable.error_rate * 1.5; "
        "stable.error_rate 0.01); candidate.requests 500 is >= 500",
        "",
    )


def test_a_rule_that_does_not_hold_fails_and_shows_only_what_broke_it() -> None:
    result, said, _ = judge(steady(2, 5))
    assert result is Result.FAIL
    assert said == (
        "at 500 candidate requests: candidate.error_rate 0.02 is not <= 0.015 (= stable.error_rate * 1.5; "
        "stable.error_rate 0.01)"
    )


def test_before_its_least_evidence_it_is_not_evaluated() -> None:
    result, _, missing = judge(steady(50, 4))
    assert (result, missing) == (Result.INCONCLUSIVE, "about 100 more candidate requests")


def test_it_is_evaluated_again_only_when_the_evidence_has_doubled() -> None:
    assert judge([*steady(1, 5), *steady(50, 4)])[0] is Result.PASS
    assert judge([*steady(1, 5), *steady(50, 5)])[0] is Result.FAIL


def test_a_failure_stays() -> None:
    assert judge([*steady(50, 5), *steady(0, 100)])[0] is Result.FAIL


def test_a_condition_on_the_amount_of_evidence_only_waits() -> None:
    result, said, missing = judge(steady(0, 5), "candidate.error_rate <= 0.01 && candidate.requests >= 2000", 100)
    assert result is Result.INCONCLUSIVE
    assert "candidate.requests 400 is not >= 2,000" in said
    assert missing.startswith("requests until candidate.requests >= 2000; it is evaluated again after")


@pytest.mark.parametrize(
    ("expression", "looks"),
    [
        (RATIO, [look(counts(600), NOTHING)]),
        ("candidate.p999_ms < 100.0", [look(counts(600), counts(600))]),
        ("candidate.error_rate / stable.error_rate < 2.0", [look(counts(600), counts(600))]),
        ("candidate.error_rate / stable.error_rate > 2.0", [look(counts(600), counts(600))]),
        ("candidate.first_byte_p50_ms < 10.0", [look(counts(600), counts(600))]),
    ],
    ids=["no-stable", "too-few-measured", "nan", "nan-the-other-way", "not-measured"],
)
def test_what_is_missing_is_neither_a_pass_nor_a_failure(expression: str, looks: list[Look]) -> None:
    result, _, missing = judge(looks, expression)
    assert (result, bool(missing)) == (Result.INCONCLUSIVE, True)


def test_at_the_bake_the_stable_is_what_was_measured_before() -> None:
    before = counts(990, 10)
    looks = [Look("bake", 1, float(at), 1.0, counts(99, 1), NOTHING, before) for at in range(5)]
    assert judge(looks)[0] is Result.PASS


def test_a_quantile_is_known_once_enough_was_measured() -> None:
    assert "candidate.p50_ms" not in metrics("step", counts(19), NOTHING)
    known = metrics("step", counts(100), NOTHING)
    assert 19 < known["candidate.p99_ms"] < 22
    assert "candidate.p999_ms" not in known
    assert "stable.error_rate" not in known
    assert set(known) <= set(VARIABLES)


@pytest.mark.parametrize(
    ("data", "key", "says", "at"),
    [
        ({"expression": "candidate.p98 < 5.0"}, "expression", "undeclared reference 'candidate.p98'", (1, 1)),
        ({"expression": "true &&\n stable.requests * 2.0 > 1.0"}, "expression", "does not go with", (2, 18)),
        ({"phases": ["mirror", "steps"]}, "phases", "`steps` is no phase", (0, 0)),
        ({"min_requests": 0}, "min_requests", "outside 1 and more", (0, 0)),
    ],
    ids=str,
)
def test_a_fault_names_its_parameter_and_place(data: dict[str, object], key: str, says: str, at: object) -> None:
    _, (fault,) = parse(gate.params, data)
    assert (fault.key, (fault.line, fault.column)) == (key, at)
    assert says in fault.message


def test_it_promises_nothing_and_judges_where_it_is_told() -> None:
    assert gate.power(ExpressionParams(), Traffic(10), 0.001) is None
    params, _ = parse(gate.params, {"phases": ["bake", "step"]})
    assert params is not None
    assert gate.needs(params)[0].phases == ("step", "bake")

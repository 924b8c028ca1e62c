from __future__ import annotations

import builtins
from typing import Any

import pytest

from headgate_policies import cel
from headgate_policies.cel import DOUBLE, INT, STRING, CelError, Expression, NoCel

VARIABLES = {"candidate.error_rate": DOUBLE, "stable.error_rate": DOUBLE, "candidate.requests": INT,
             "candidate.p99_ms": DOUBLE, "phase": STRING}  # fmt: skip
VALUES = {"candidate.error_rate": 0.01, "stable.error_rate": 0.0, "candidate.requests": 600, "phase": "step"}


def worth(text: str, values: dict[str, Any] | None = None) -> bool | None:
    return Expression(text, VARIABLES).evaluate(VALUES if values is None else values).holds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("candidate.error_rate < 0.02 && candidate.requests >= 500", True),
        ("candidate.error_rate < 0.02 && candidate.requests >= 601", False),
        ("double(candidate.requests) * candidate.error_rate < 6.5", True),
        ("!(phase == 'step')", False),
        ("phase.startsWith('st')", True),
        ("candidate.requests > 5 ? candidate.error_rate > 0.5 : true", False),
        ("(candidate.error_rate < 0.02) == true", True),
        # Missing: p99 is not known.
        ("candidate.p99_ms < 5.0", None),
        ("!(candidate.p99_ms < 5.0)", None),
        ("candidate.p99_ms < 5.0 && candidate.requests > 5", None),
        ("candidate.p99_ms < 5.0 && candidate.requests < 5", False),
        ("candidate.p99_ms < 5.0 || candidate.requests > 5", True),
        ("candidate.p99_ms < 5.0 ? true : true", None),
        # No number: the stable's rate is 0.
        ("candidate.error_rate / stable.error_rate < 2.0", None),
        ("candidate.error_rate / stable.error_rate > 2.0", None),
        ("stable.error_rate / stable.error_rate != 1.0", None),
        ("1.0 / (stable.error_rate - stable.error_rate) > 0.0 || false", None),
        ("candidate.requests / 0 > 1", None),
        ("(candidate.error_rate / stable.error_rate < 2.0) == true", None),
        ("(candidate.error_rate / stable.error_rate < 2.0 ? 1.0 : 5.0) > 3.0", None),
        ("(candidate.error_rate < 2.0 ? 1.0 : 5.0) > 3.0", False),
    ],
    ids=str,
)
def test_what_an_expression_is_worth(text: str, expected: bool | None) -> None:
    assert worth(text) is expected


@pytest.mark.parametrize(
    ("text", "says", "fix"),
    [
        ("candidate.error_rate < 1.0 && canary.p98 < 5.0", "1:31: undeclared reference 'canary.p98'", "did you mean"),
        ("candidate.p98_ms > 1.0", "1:1: undeclared reference 'candidate.p98_ms'", "did you mean `candidate.p99_ms`?"),
        ("true &&\n  candidat.requests > 1", "2:3: undeclared reference 'candidat.requests'", "did you mean"),
        ("candidate.error_rate * 2 < 1.0", "1:22: `*` does not go with a double and an int", "2.0"),
        ("candidate.requests > 0.5", "1:20: `>` does not go with an int and a double", "double(candidate.requests)"),
        ("phase > 1", "1:7: `>` does not go with a string and an int", "one type"),
        ("candidate.requests", "1:1: the expression is an int, not true or false", "compare"),
        ("1 +", "1:4: Syntax error: mismatched input '<EOF>'", ""),
        ("  ", "1:3: Syntax error", ""),
        ("true && [1, 2].all(x, x > 0)", "1:9: `[`: lists and maps are not taken", "||"),
        ("candidate.error_rate < 1.0 == true", "1:22: `<` inside of arithmetic or a call", "in parentheses"),
        ("2.0 * (candidate.error_rate < 1.0 ? 1.0 : 2.0) < 3.0", "1:29: `<` inside of arithmetic", "in parentheses"),
        ("(" * 40 + "true" + ")" * 40, "recursion limit exceeded", ""),
        ("true || " * 300 + "true", "more than 2,000", ""),
    ],
    ids=str,
)
def test_what_does_not_compile_is_told_with_its_place(text: str, says: str, fix: str) -> None:
    with pytest.raises(CelError) as refused:
        Expression(text, VARIABLES)
    assert says in str(refused.value)
    assert fix in refused.value.fix


def test_each_branch_is_explained_with_its_values() -> None:
    value = Expression(
        "candidate.error_rate <= stable.error_rate * 1.5 && (candidate.requests >= 500 || candidate.p99_ms < 3.0)",
        VARIABLES,
    ).evaluate({**VALUES, "stable.error_rate": 0.004})
    assert value.holds is False
    assert [leaf.sentence() for leaf in value.leaves()] == [
        "candidate.error_rate 0.01 is not <= 0.006 (= stable.error_rate * 1.5; stable.error_rate 0.004)",
        "candidate.requests 600 is >= 500",
        "`candidate.p99_ms < 3.0`: candidate.p99_ms missing",
    ]
    assert len(list(value.leaves(that=(False,)))) == 1


def test_without_the_library_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("cel_expr_python"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    cel._environment.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NoCel, match="cel-expr-python"):
        Expression("true", {})

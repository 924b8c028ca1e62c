"""An expression is worth what three-valued logic over its comparisons says."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate_policies.cel import DOUBLE, CelError, Expression

NAMES = ("a.x", "a.y", "b.x")
VARIABLES = dict.fromkeys(NAMES, DOUBLE)
OPERATORS: dict[str, Any] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
}
Tree = tuple[Any, ...]

LEAVES = st.tuples(st.just("compare"), st.sampled_from(NAMES), st.sampled_from(list(OPERATORS)), st.sampled_from(NAMES))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.just("all"), inner, inner),
        st.tuples(st.just("any"), inner, inner),
        st.tuples(st.just("not"), inner),
    ),
    max_leaves=8,
)


def written(tree: Tree) -> str:
    kind, *rest = tree
    if kind == "compare":
        return " ".join(rest)
    if kind == "not":
        return f"!({written(rest[0])})"
    return "({} {} {})".format(written(rest[0]), {"all": "&&", "any": "||"}[kind], written(rest[1]))


def worth(tree: Tree, values: dict[str, float]) -> bool | None:
    kind, *rest = tree
    if kind == "compare":
        left, operator, right = rest
        return OPERATORS[operator](values[left], values[right]) if left in values and right in values else None
    known = [worth(part, values) for part in rest]
    if kind == "not":
        return None if known[0] is None else not known[0]
    decisive = kind == "any"
    return decisive if decisive in known else None if None in known else not decisive


@settings(max_examples=150, deadline=None)
@given(TREES, st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.0, 0.5, 1.0, -3.0])))
def test_an_expression_is_worth_what_logic_says(tree: Tree, values: dict[str, float]) -> None:
    value = Expression(written(tree), VARIABLES).evaluate(values)
    assert value.holds is worth(tree, values)
    assert all(leaf.sentence() for leaf in value.leaves())


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab.xy()!&|<>=? :1'\"\n+-*/[]"), max_size=30))
def test_any_text_compiles_or_is_refused_with_a_reason(text: str) -> None:
    reason = ""
    try:
        value: Any = Expression(text, VARIABLES).evaluate({"a.x": 1.0}).holds
    except CelError as error:
        value, reason = None, str(error)
    assert value in (True, False, None)
    assert reason or value is not None or "a" in text or "b" in text

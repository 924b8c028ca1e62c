from __future__ import annotations

import json

import pytest

from headgate.evidence import Answer
from headgate_policies.compare import MAX_CHARACTERS, Comparison, Tolerance, compare, generalised
from headgate_policies.rules import rules

EXACT = Tolerance(abs=0.0)
SHAPE = Tolerance()


def answer(body: object, media: str = "application/json", *, cut: bool = False) -> Answer:
    return Answer("r", 200, media, body if isinstance(body, str) else json.dumps(body), cut)


def found(stable: object, candidate: object, tolerance: Tolerance = EXACT) -> list[tuple[str, str, str, str]]:
    comparison = compare(answer(stable), answer(candidate), tolerance)
    assert comparison.comparable, comparison.why_not
    return [(f.path, f.kind, f.stable, f.candidate) for f in comparison.found]


@pytest.mark.parametrize(
    ("stable", "candidate", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1.0}, [], id="an integer equals the same float"),
        pytest.param({"a": 1}, {"a": 2}, [("$.a", "number", "1", "2")], id="number"),
        pytest.param({"a": 1}, {"a": "1"}, [("$.a", "type", "1", '"1"')], id="type"),
        pytest.param({"a": True}, {"a": 1}, [("$.a", "type", "true", "1")], id="true is not 1"),
        pytest.param({"a": None}, {"a": 0}, [("$.a", "type", "null", "0")], id="null is not 0"),
        pytest.param({"a": 1}, {}, [("$.a", "missing", "1", "absent")], id="missing"),
        pytest.param({}, {"a b": [1]}, [('$["a b"]', "extra", "absent", "array of 1")], id="extra, odd name"),
        pytest.param([1, 2], [1], [("$", "length", "array of 2", "array of 1")], id="length"),
        pytest.param([1, 5, 7], [1, 6, 8], [("$[*]", "number", "5", "6")], id="one path for all indexes"),
        pytest.param({"t": "x"}, {"t": "y"}, [("$.t", "text", '"x"', '"y"')], id="text"),
        pytest.param('{"a": 1}', '{"a": NaN}', [("$.a", "nan", "1", "NaN")], id="NaN"),
        pytest.param('{"a": NaN}', '{"a": NaN}', [], id="the same NaN"),
        pytest.param('{"a": 1}', "oops", [("$", "invalid-json", "object of 1 fields", "oops")], id="not JSON"),
    ],
)
def test_differences_are_found_by_path(
    stable: object, candidate: object, expected: list[tuple[str, str, str, str]]
) -> None:
    assert found(stable, candidate) == expected


def ruled(**paths: object) -> Tolerance:
    return Tolerance(rules=rules({f"$.{path}": rule for path, rule in paths.items()}))


HITS = [{"id": n, "score": n / 10} for n in range(12)]


@pytest.mark.parametrize(
    ("rule", "stable", "candidate", "expected"),
    [
        pytest.param({"as": "set"}, ["a", "b"], ["b", "a"], [], id="a set in another order"),
        pytest.param({"as": "set"}, ["a", "a"], ["a", "b"], [("$.x", "set")], id="how often an item occurs counts"),
        pytest.param({"as": "set", "most": 0.5}, ["a", "b"], ["a", "c"], [], id="half of a set may change"),
        pytest.param({"as": "set"}, [1, {"k": 1}], [{"k": 1.0}, 1.0], [], id="1 is 1.0 in a set"),
        pytest.param({"as": "set"}, [], [], [], id="empty sets"),
        pytest.param({"as": "ranking", "by": "id"}, HITS, HITS[::-1], [("$.x", "ranking")], id="a ranking turned"),
        pytest.param({"as": "ranking", "by": "id"}, HITS, [*HITS[:10], HITS[11], HITS[10]], [], id="beyond the top"),
        pytest.param({"as": "ranking", "by": "id", "least": 0.95}, HITS, [HITS[1], HITS[0], *HITS[2:]],
                     [("$.x", "ranking")], id="the first two swapped"),
        pytest.param({"as": "ranking", "by": "id"}, HITS, [{"id": h["id"], "score": 0} for h in HITS], [],
                     id="scores are not the ranking"),
        pytest.param({"as": "text", "most": "20%"}, "a cat sat", "a cat sad", [], id="a text with a letter changed"),
        pytest.param({"as": "text", "most": "20%"}, "a cat sat", "dogs ran", [("$.x", "text")], id="another text"),
        pytest.param({"rel": 0.1}, 10, 10.9, [], id="a number within its own tolerance"),
        pytest.param({"abs": 0.1}, 10, 10.9, [("$.x", "number")], id="a number beyond it"),
        pytest.param({"as": "set"}, [1], "1", [("$.x", "type")], id="the type is judged all the same"),
        pytest.param({"as": "text"}, [1], [1, 2], [("$.x", "length")], id="a rule for another type is none"),
    ],
)  # fmt: skip
def test_a_path_may_have_a_rule_of_its_own(
    rule: object, stable: object, candidate: object, expected: list[tuple[str, str]]
) -> None:
    comparison = compare(answer({"x": stable}), answer({"x": candidate}), ruled(x=rule))
    assert [(f.path, f.kind) for f in comparison.found] == expected


def test_a_plain_text_may_be_compared_by_its_edits() -> None:
    near = Tolerance(rules=rules({"$": {"as": "text", "most": 0.3}}))
    left, right = answer("hello world", "text/plain"), answer("hello word", "text/plain")
    assert compare(left, right, near).found == ()
    (found,) = compare(left, answer("goodbye", "text/plain"), near).found
    assert (found.path, found.kind, found.distances[0] > 0.5) == ("$", "text", True)


@pytest.mark.parametrize(
    ("stable", "candidate", "tolerance", "kind"),
    [
        ("a" * 64, "a" * 64, EXACT, ""),
        ("a" * 64, "b" * 64, EXACT, "bytes"),
        ("a" * 64, "b" * 64, SHAPE, ""),
        ("a" * 64, "", SHAPE, "bytes"),
    ],
    ids=["equal", "different", "values-not-judged", "became-text"],
)
def test_bytes_are_compared_by_their_digest(stable: str, candidate: str, tolerance: Tolerance, kind: str) -> None:
    answers = [Answer("r", 200, "image/png", "", cut=bool(digest), digest=digest) for digest in (stable, candidate)]
    comparison = compare(*answers, tolerance)
    assert [f.kind for f in comparison.found] == ([kind] if kind else [])


def test_items_of_a_set_count_towards_the_bounds() -> None:
    many = {"x": list(range(25_000))}
    assert "20,000" in compare(answer(many), answer(many), ruled(x={"as": "set"})).why_not


@pytest.mark.parametrize(
    ("tolerance", "candidate", "same"),
    [
        (Tolerance(rel=0.05), 104.9, True),
        (Tolerance(rel=0.05), 105.1, False),
        (Tolerance(abs=0.5), 100.5, True),
        (Tolerance(abs=0.5), 100.6, False),
        (Tolerance(rel=0.05, abs=10), 109, True),
    ],
    ids=str,
)
def test_numbers_have_tolerances(tolerance: Tolerance, candidate: float, same: bool) -> None:
    assert (found({"a": 100}, {"a": candidate}, tolerance) == []) is same


def test_without_tolerances_only_shape_is_judged() -> None:
    assert found({"a": 1, "b": "x", "c": True}, {"a": 900, "b": "y", "c": False}, SHAPE) == []
    assert [kind for _, kind, _, _ in found({"a": 1}, {"a": "x"}, SHAPE)] == ["type"]


def test_numbers_are_kept_for_drift() -> None:
    comparison = compare(answer([1, 2]), answer([3, 4]), SHAPE)
    assert comparison.numbers == {"$[*]": [(1.0, 3.0), (2.0, 4.0)]}


@pytest.mark.parametrize("path", ["$.meta", "meta", "$.meta.at", "$.meta.ids[0]", "$.meta.ids[*]"])
def test_ignored_paths_are_left_out_with_all_below(path: str) -> None:
    tolerance = Tolerance(abs=0.0, ignore=(generalised(path),))
    below = {"at": 1, "ids": [1, 2]}
    other = {"at": 2, "ids": [3, 4]}
    expected = {"$.meta.at", "$.meta.ids[*]"} - {generalised(path)}
    if generalised(path) == "$.meta":
        expected = set()
    assert {p for p, *_ in found({"meta": below}, {"meta": other}, tolerance)} == expected


def test_an_ignored_path_is_no_prefix_of_another_name() -> None:
    assert found({"ids": 1}, {"ids": 2}, Tolerance(abs=0.0, ignore=("$.id",))) != []


def why_not(comparison: Comparison) -> str:
    assert comparison.found == ()
    return comparison.why_not


def test_what_cannot_be_compared_says_why() -> None:
    assert "cut" in why_not(compare(answer({}), answer({}, cut=True), EXACT))
    assert "longer" in why_not(compare(answer({}), answer("x" * (MAX_CHARACTERS + 1)), EXACT))
    assert "not the JSON" in why_not(compare(answer("oops"), answer({}), EXACT))


@pytest.mark.parametrize(
    "body",
    ["[" * 100 + "]" * 100, "[" * 200_000, "[" + "0," * 25_000 + "0]", '{"a": ' + "9" * 5_000 + "}"],
    ids=["deep", "very deep", "wide", "a long number"],
)
def test_hostile_answers_are_not_comparable_instead_of_a_crash(body: str) -> None:
    comparison = compare(answer(body), answer(body), EXACT)
    assert not comparison.comparable


def test_half_a_surrogate_pair_can_be_shown() -> None:
    comparison = compare(answer('"\\ud800"'), answer('"x"'), EXACT)
    assert comparison.found[0].stable.encode()


def test_media_types_must_agree_and_their_parameters_need_not() -> None:
    assert compare(answer({}, "application/json; charset=utf-8"), answer({}), EXACT).found == ()
    assert [f.kind for f in compare(answer({}), answer({}, "text/html"), EXACT).found] == ["media-type"]


@pytest.mark.parametrize(
    ("tolerance", "candidate", "kinds"), [(EXACT, "b", ["text"]), (SHAPE, "b", []), (SHAPE, "", ["empty"])]
)
def test_plain_text_is_exact_when_declared_and_not_empty_otherwise(
    tolerance: Tolerance, candidate: str, kinds: list[str]
) -> None:
    comparison = compare(answer("a", "text/plain"), answer(candidate, "text/plain"), tolerance)
    assert [f.kind for f in comparison.found] == kinds


def test_integers_beyond_floats_are_compared_without_overflow() -> None:
    huge = "1" + "0" * 400
    assert found(huge, huge) == []
    assert [kind for _, kind, _, _ in found(huge, "7")] == ["nan"]

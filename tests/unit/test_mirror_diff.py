from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from headgate.evidence import Answer, Look, Pair, PairKind, Result, Traffic
from headgate.params import parse
from headgate_policies.gates.mirror_diff import MirrorDiffParams, gate

ALPHA = 0.001
VALUES = MirrorDiffParams(rel=0.01)
Model = Callable[[float, random.Random], object]


def answer(body: object, status: int = 200) -> Answer:
    return Answer("r", status, "application/json", body if isinstance(body, str) else json.dumps(body))


def looks(stable: Model, candidate: Model, n: int, echo_every: int = 5, status: int = 200, seed: int = 1) -> list[Look]:
    """`n` looks of 10 pairs, every fifth of them echoed."""
    rng = random.Random(seed)
    found = []
    for k in range(n):
        pairs = []
        for i in range(10):
            x = rng.uniform(50, 300)
            live = answer(stable(x, rng))
            pairs.append(Pair(PairKind.COMPARE, f"{k}-{i}", live, answer(candidate(x, rng), status)))
            if echo_every and i % echo_every == 0:
                pairs.append(Pair(PairKind.ECHO, f"{k}-{i}", live, answer(stable(x, rng))))
        found.append(Look("mirror", 1, float(k), 1.0, pairs=tuple(pairs)))
    return found


def plain(x: float, rng: random.Random) -> object:
    return {"predictions": [x]}


def unscaled(x: float, rng: random.Random) -> object:
    return {"predictions": [(x - 152) / 77]}


def slightly_better(x: float, rng: random.Random) -> object:
    return {"predictions": [x * rng.uniform(0.8, 1.25)]}


def stamped(x: float, rng: random.Random) -> object:
    return {"predictions": [x], "at": rng.random(), "id": f"{rng.random()}"}


def flaky(share: float) -> Model:
    return lambda x, rng: {"predictions": [x if rng.random() >= share else x + 50]}


def ranked(swapped: bool) -> Model:
    def model(x: float, rng: random.Random) -> object:
        hits = [{"id": int(x) + k, "score": rng.random()} for k in range(10)]
        return {"hits": hits[::-1] if swapped else hits}

    return model


def test_a_reordered_ranking_fails_and_the_same_one_with_other_scores_passes() -> None:
    params = MirrorDiffParams(paths={"hits": {"as": "ranking", "by": "id"}})
    verdict = gate.judge(params, looks(ranked(False), ranked(True), 30), ALPHA)
    assert verdict.result is Result.FAIL
    assert (verdict.differences[0].path, verdict.differences[0].kind) == ("$.hits", "ranking")
    assert verdict.differences[0].effect == "64.6 % apart on average"
    assert gate.judge(params, looks(ranked(False), ranked(False), 60), ALPHA).result is Result.PASS


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        ({"$.a": {"as": "bag"}}, "$.a: `as: bag` is not known: set, ranking, text, number"),
        ({"$.a": {"as": "set", "top": 3}}, "$.a: `top` does not go with `as: set`; known are by, most"),
        ({"$.a": {"as": "ranking", "least": "150%"}}, "$.a: least: 150% is outside 0% to 100%"),
        ({"$.a": {}}, "$.a: write `rel` or `abs`"),
        ({"$.a": "set"}, "$.a: write e.g. `{as: set}`"),
        (["$.a"], "`paths` is a mapping"),
    ],
    ids=str,
)
def test_a_rule_that_is_none_is_a_fault(paths: object, says: str) -> None:
    _, (fault,) = parse(gate.params, {"paths": paths})
    assert fault.key == "paths"
    assert says in fault.message


def test_equal_answers_pass() -> None:
    verdict = gate.judge(VALUES, looks(plain, plain, 48), ALPHA)
    assert verdict.result is Result.PASS
    assert verdict.explanation.startswith("0 of 460 (0 %) pairs differ, tolerated 1 %")


def test_a_wrong_model_fails_within_six_looks_and_says_where_and_how_much() -> None:
    verdict = gate.judge(VALUES, looks(plain, lambda x, _: {"predictions": [x / 77]}, 6), ALPHA)
    assert verdict.result is Result.FAIL
    worst = verdict.differences[0]
    assert (worst.path, worst.kind, worst.share) == ("$.predictions[*]", "number", 1.0)
    assert worst.effect == "-98.7 % on average"
    assert worst.effect in verdict.explanation


def test_a_wrong_model_fails_in_its_third_second_when_no_echo_is_waited_for() -> None:
    params = MirrorDiffParams(rel=0.01, min_echoes=0)
    assert gate.judge(params, looks(plain, unscaled, 3, echo_every=0), ALPHA).result is Result.FAIL
    assert gate.judge(params, looks(plain, unscaled, 2, echo_every=0), ALPHA).result is Result.INCONCLUSIVE


def test_without_tolerances_another_scale_is_found_as_drift() -> None:
    verdict = gate.judge(MirrorDiffParams(), looks(plain, unscaled, 6), ALPHA)
    assert verdict.result is Result.FAIL
    assert verdict.differences[0].kind == "drift"
    assert verdict.differences[0].path == "$.predictions[*]"
    assert verdict.differences[0].effect == "-99.9 % on average"


def test_without_tolerances_a_better_model_passes() -> None:
    assert gate.judge(MirrorDiffParams(), looks(plain, slightly_better, 45), ALPHA).result is Result.PASS


def test_with_tolerances_the_same_model_fails() -> None:
    assert gate.judge(VALUES, looks(plain, slightly_better, 7), ALPHA).result is Result.FAIL


def test_noise_is_learnt_from_echoes_and_left_out() -> None:
    verdict = gate.judge(VALUES, looks(stamped, stamped, 50), ALPHA)
    assert verdict.result is Result.PASS
    assert "ignored as noise: $.at (99 % of echoes), $.id (100 % of echoes)" in verdict.explanation


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_model_does_not_fail_before_its_noise_is_known(seed: int) -> None:
    found = looks(stamped, stamped, 30, echo_every=0, seed=seed)
    verdict = gate.judge(VALUES, found, ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert "3 more echoes" in verdict.missing


def test_a_wrong_number_behind_noise_is_still_found() -> None:
    def wrong(x: float, rng: random.Random) -> object:
        return {"predictions": [x + 5], "at": rng.random(), "id": ""}

    assert gate.judge(VALUES, looks(stamped, wrong, 10), ALPHA).result is Result.FAIL


def test_a_path_that_is_noisy_now_and_then_is_no_place_to_hide() -> None:
    verdict = gate.judge(VALUES, looks(flaky(0.1), lambda x, _: {"predictions": [x + 50]}, 20), ALPHA)
    assert verdict.result is Result.FAIL


@pytest.mark.parametrize("seed", range(5))
def test_an_equal_model_that_is_noisy_now_and_then_never_fails(seed: int) -> None:
    assert gate.judge(VALUES, looks(flaky(0.1), flaky(0.1), 60, seed=seed), ALPHA).result is not Result.FAIL


@pytest.mark.parametrize("seed", range(5))
def test_a_model_wrong_in_five_percent_of_cases_never_passes(seed: int) -> None:
    assert gate.judge(VALUES, looks(plain, flaky(0.05), 60, seed=seed), ALPHA).result is not Result.PASS


def test_it_fails_soon_when_the_model_is_declared_to_have_no_noise() -> None:
    params = MirrorDiffParams(rel=0.01, min_echoes=0)
    assert gate.judge(params, looks(plain, flaky(0.05), 40, echo_every=0), ALPHA).result is Result.FAIL


@pytest.mark.parametrize(
    ("candidate", "kind"),
    [
        ({"predictions": "x"}, "type"),
        ({"other": [1]}, "missing"),
        ({"predictions": [1.0, 2.0]}, "length"),
        ('{"predictions": [NaN]}', "nan"),
        ("oops", "invalid-json"),
    ],
    ids=str,
)
def test_shape_is_judged_without_tolerances(candidate: object, kind: str) -> None:
    verdict = gate.judge(MirrorDiffParams(), looks(plain, lambda *_: candidate, 6), ALPHA)
    assert verdict.result is Result.FAIL
    assert kind in {difference.kind for difference in verdict.differences}


CUT = Answer("r", 200, "application/json", "", cut=True)


def swapped(found: list[Look], change: Callable[[Pair], Pair]) -> list[Look]:
    return [replace(look, pairs=tuple(change(pair) for pair in look.pairs)) for look in found]


@pytest.mark.parametrize("side", ["live", "copy"])
def test_a_short_answer_against_one_that_cannot_be_read_is_a_difference(side: str) -> None:
    def unreadable(pair: Pair) -> Pair:
        wrong = pair.kind is PairKind.COMPARE and pair.request_id.endswith("-3")
        return replace(pair, **{side: CUT}) if wrong else pair

    verdict = gate.judge(MirrorDiffParams(), swapped(looks(plain, plain, 90), unreadable), ALPHA)
    assert verdict.result is Result.FAIL
    assert [(d.path, d.kind) for d in verdict.differences] == [("$", "unreadable")]
    assert verdict.figures["not_comparable"] == 0


@pytest.mark.parametrize(
    "live",
    [CUT, answer("x" * 40_000), Answer("r", 200, "text/plain", "short")],
    ids=["both", "nearly as long", "text"],
)
def test_an_answer_that_cannot_be_read_is_not_compared(live: Answer) -> None:
    found = swapped(looks(plain, plain, 30), lambda pair: replace(pair, live=live, copy=CUT))
    verdict = gate.judge(MirrorDiffParams(), found, ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.figures["not_comparable"] == 300


@pytest.mark.parametrize(("cut", "passes"), [("1234", True), ("123467", False)], ids=["40 % cut", "60 % cut"])
def test_enough_pairs_do_not_pass_when_most_could_not_be_compared(cut: str, passes: bool) -> None:
    def change(pair: Pair) -> Pair:
        return replace(pair, live=CUT, copy=CUT) if pair.request_id[-1] in cut else pair

    verdict = gate.judge(MirrorDiffParams(max_share=0.1), swapped(looks(plain, plain, 200), change), ALPHA)
    assert verdict.figures["pairs"] > 50
    assert (verdict.result is Result.PASS) == passes
    assert ("pairs that can be compared" in verdict.missing) == (not passes)


def test_a_difference_has_up_to_three_examples_of_different_requests() -> None:
    verdict = gate.judge(VALUES, looks(plain, lambda x, _: {"predictions": [x / 77]}, 6), ALPHA)
    (worst,) = verdict.differences
    assert len({(worst.stable, worst.candidate), *worst.more}) == 3
    same = gate.judge(VALUES, looks(lambda *_: [1], lambda *_: [2], 6), ALPHA)
    assert [d.more for d in same.differences] == [()]


def test_failed_copies_are_counted_and_not_compared() -> None:
    verdict = gate.judge(VALUES, looks(plain, plain, 10, status=500), ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.figures["not_comparable"] == 100
    assert "only the stable answered 2xx" in verdict.missing


def test_ignored_paths_are_not_judged() -> None:
    params = MirrorDiffParams(rel=0.01, ignore=("predictions",))
    assert gate.judge(params, looks(plain, unscaled, 45), ALPHA).result is Result.PASS


def test_too_few_pairs_hold_and_say_how_many_are_missing() -> None:
    verdict = gate.judge(VALUES, looks(plain, plain, 5), ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert "more pairs of answers" in verdict.missing


def test_a_looser_share_passes_with_fifty_pairs() -> None:
    params = MirrorDiffParams(rel=0.01, max_share=0.1)
    assert gate.judge(params, looks(plain, plain, 8), ALPHA).result is Result.PASS


def test_differences_come_in_the_same_order_whatever_the_order_of_pairs() -> None:
    found = looks(plain, slightly_better, 5)
    turned = [Look("mirror", 1, look.at, 1.0, pairs=look.pairs[::-1]) for look in found]
    assert gate.judge(VALUES, found, ALPHA) == gate.judge(VALUES, turned, ALPHA)


def test_what_a_plan_promises_is_a_sentence_and_a_number() -> None:
    promise = gate.power(MirrorDiffParams(), Traffic(100.0), ALPHA)
    assert promise is not None
    assert promise.effect == "wrong answers in 3 % of cases"

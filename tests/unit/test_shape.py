from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from scipy import stats

from headgate.evidence import Answer, Look, Pair, PairKind, Result, Traffic
from headgate.params import parse
from headgate_policies.gates.shape import ShapeParams, gate

ALPHA = 0.001
Model = Callable[[int], object]


def answer(body: object, status: int = 200, media_type: str = "application/json") -> Answer:
    return Answer("r", status, media_type, body if isinstance(body, str) else json.dumps(body))


def looks(stable: Model, candidate: Model, n: int = 60, status: int = 200) -> list[Look]:
    """`n` looks of ten pairs; a model is a function of the request's number."""
    found = []
    for k in range(n):
        numbers = range(10 * k, 10 * k + 10)
        pairs = [Pair(PairKind.COMPARE, f"{i}", answer(stable(i)), answer(candidate(i), status)) for i in numbers]
        found.append(Look("mirror", 1, float(k), 1.0, pairs=tuple(pairs)))
    return found


def plain(i: int) -> object:
    return {"predictions": [i * 0.5], "model": "m"}


def sometimes(i: int) -> object:
    return {"predictions": [i * 0.5], "model": "m"} | ({"note": "x"} if i % 7 == 0 else {})


def keyed(i: int) -> object:
    return {"scores": {f"user-{i}": 0.5}, "n": 1}


@pytest.mark.parametrize("model", [plain, sometimes, keyed], ids=["plain", "optional-field", "keys-are-data"])
def test_the_same_shape_passes(model: Model) -> None:
    verdict = gate.judge(ShapeParams(), looks(model, model), ALPHA)
    assert verdict.result is Result.PASS, verdict.explanation


def test_other_values_are_not_another_shape() -> None:
    assert gate.judge(ShapeParams(), looks(plain, lambda i: {"predictions": [-1e9, i], "model": ""}), ALPHA).result is (
        Result.PASS
    )


@pytest.mark.parametrize(
    ("candidate", "path", "kind"),
    [
        (lambda i: {"predictions": [1.5]}, "$.model", "missing"),
        (lambda i: {"predictions": ["1.5"], "model": "m"}, "$.predictions[*]", "type"),
        (lambda i: {"predictions": [1.5], "model": "m", "debug": {}}, "$.debug", "extra"),
        (lambda i: {"predictions": [None], "model": "m"}, "$.predictions[*]", "type"),
        (lambda i: "<html>", "$", "invalid-json"),
    ],
    ids=["dropped", "type", "new", "null", "no-json"],
)
def test_another_shape_fails_and_the_verdict_says_where(candidate: Model, path: str, kind: str) -> None:
    verdict = gate.judge(ShapeParams(), looks(plain, candidate, 20), ALPHA)
    assert verdict.result is Result.FAIL
    assert (verdict.differences[0].path, verdict.differences[0].kind) == (path, kind)
    assert f"{path} ({kind})" in verdict.explanation


def test_a_field_dropped_in_three_of_a_hundred_answers_is_found() -> None:
    def drops(i: int) -> object:
        return {"predictions": [1.0]} if i % 33 == 0 else plain(i)

    verdict = gate.judge(ShapeParams(), looks(plain, drops, 300), ALPHA)
    assert verdict.result is Result.FAIL
    assert verdict.differences[0].path == "$.model"


def test_another_media_type_fails() -> None:
    changed = [
        replace(look, pairs=tuple(replace(p, copy=replace(p.copy, media_type="text/plain")) for p in look.pairs))
        for look in looks(plain, plain, 20)
    ]
    verdict = gate.judge(ShapeParams(), changed, ALPHA)
    assert (verdict.result, verdict.differences[0].kind) == (Result.FAIL, "media-type")


def test_what_is_ignored_may_change() -> None:
    params = ShapeParams(ignore=("model",))
    assert gate.judge(params, looks(plain, lambda i: {"predictions": [1.5]}), ALPHA).result is Result.PASS


def test_until_it_has_learnt_it_judges_nothing() -> None:
    verdict = gate.judge(ShapeParams(learn=100), looks(plain, lambda i: {}, 9), ALPHA)
    assert (verdict.result, verdict.figures["answers"]) == (Result.INCONCLUSIVE, 0.0)
    assert verdict.missing == "10 more JSON answers of the stable to learn its shape"


def test_answers_that_cannot_be_read_hold_it() -> None:
    verdict = gate.judge(ShapeParams(), looks(plain, plain, 40, status=500), ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert "cannot, mostly because it was not answered 2xx" in verdict.missing


def test_a_declared_schema_is_an_absolute_limit() -> None:
    params, faults = parse(gate.params, {"schema": {"type": "object", "required": ["model"]}})
    assert params is not None, faults
    assert gate.judge(params, looks(plain, plain), ALPHA).result is Result.PASS
    lacking = looks(lambda i: {}, lambda i: {}, 20)
    verdict = gate.judge(params, lacking, ALPHA)
    assert (verdict.result, verdict.differences[0].path) == (Result.FAIL, "$.model")
    assert gate.judge(ShapeParams(), lacking, ALPHA).result is not Result.FAIL


def test_a_schema_that_is_none_is_a_fault_of_its_parameter() -> None:
    params, (fault,) = parse(gate.params, {"schema": {"type": 5}})
    assert params is None
    assert fault.key == "schema"
    assert "is no JSON Schema" in fault.message


def test_a_forecast_is_made_before_the_rollout() -> None:
    found = gate.power(ShapeParams(), Traffic(10), ALPHA)
    assert found is not None
    assert found.effect == "another shape in 3 % of answers"
    assert 100 < found.requests < 2_000


def test_an_equal_model_with_rare_fields_is_failed_no_more_often_than_alpha() -> None:
    """Both arms show rare fields of their own, at the same rates; the bound is what alpha allows in so many runs."""
    alpha, runs, failed = 0.1, 150, 0
    for seed in range(runs):
        rng = random.Random(seed)

        def model(i: int, rng: random.Random = rng) -> object:
            fields = {
                name: 1 for name, share in (("a", 1.0), ("b", 0.97), ("c", 0.02), ("d", 0.5)) if rng.random() < share
            }
            return fields | ({f"odd-{i}": 1} if rng.random() < 0.03 else {})

        params = ShapeParams(max_share=0.0005, learn=10)
        failed += gate.judge(params, looks(model, model, 25), alpha).result is Result.FAIL
    assert failed <= stats.binom.ppf(0.999, runs, alpha)

"""What holds for every gate, whatever the evidence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.codec import canonical
from headgate.evidence import Answer, Counts, Look, Outcome, Pair, PairKind, Result, add
from headgate.process import Process
from headgate_policies.gates.error_rate import ErrorRateParams
from headgate_policies.gates.error_rate import gate as error_rate
from headgate_policies.gates.latency import LatencyParams
from headgate_policies.gates.latency import gate as latency
from headgate_policies.gates.mirror_diff import MirrorDiffParams
from headgate_policies.gates.mirror_diff import gate as mirror_diff
from headgate_policies.gates.shape import ShapeParams
from headgate_policies.gates.shape import gate as shape
from headgate_policies.judge import combine, judge_phase

GATES = {"error-rate": error_rate, "latency": latency, "mirror-diff": mirror_diff, "schema": shape}
PROCESS = Process(
    gates={
        "error-rate": {"max_increase": 0.05},
        "latency-p90": {},
        "mirror-diff": {"rel": 0.1, "max_share": 0.1},
        "schema": {"learn": 2},
    }
)

SOUND = st.integers(0, 300)
BROKEN = st.one_of(st.integers(max_value=-1), st.sampled_from([math.nan, math.inf, -math.inf, 0.5, None, "1"]))


def counts(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Counts]:
    return st.builds(
        Counts,
        st.dictionaries(st.sampled_from(list(Outcome)), numbers, max_size=4),
        st.dictionaries(st.integers(0, 350), numbers, max_size=5),
    )


BODIES = st.one_of(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=6,
    ).map(json.dumps),
    st.text(max_size=12),
)
ANSWERS = st.builds(
    Answer,
    st.just("r"),
    st.sampled_from([200, 200, 204, 500]),
    st.sampled_from(["application/json", "", "text/x"]),
    BODIES,
)
PAIRS = st.builds(Pair, st.sampled_from(list(PairKind)), st.text("abc", max_size=3), ANSWERS, ANSWERS)
LOOKS = st.builds(
    Look,
    phase=st.just("mirror"),
    generation=st.just(1),
    at=st.floats(0, 1e9),
    seconds=st.floats(0, 10),
    candidate=counts(SOUND),
    stable=counts(SOUND),
    pairs=st.lists(PAIRS, max_size=4).map(tuple),
)
MANY_LOOKS = st.lists(LOOKS, max_size=8)


def verdicts(looks: list[Look]) -> Any:
    return judge_phase(PROCESS, phase="mirror", kind="mirror", looks=looks, gates=GATES, phases_total=3)


@settings(max_examples=60, deadline=None)
@given(MANY_LOOKS)
def test_the_same_looks_give_the_same_bytes(looks: list[Look]) -> None:
    assert canonical(verdicts(looks)) == canonical(verdicts(looks))
    assert all(math.isfinite(value) for verdict in verdicts(looks) for value in verdict.figures.values())


@settings(max_examples=60, deadline=None)
@given(MANY_LOOKS, st.randoms(use_true_random=False))
def test_the_order_inside_a_batch_changes_nothing(looks: list[Look], random: Any) -> None:
    def turned(counts: Counts) -> Counts:
        outcomes, latency = list(counts.outcomes.items()), list(counts.latency.items())
        random.shuffle(outcomes)
        random.shuffle(latency)
        return Counts(dict(outcomes), dict(latency))

    shuffled = [
        replace(
            look,
            candidate=turned(look.candidate),
            stable=turned(look.stable),
            pairs=tuple(random.sample(look.pairs, len(look.pairs))),
        )
        for look in looks
    ]
    assert canonical(verdicts(looks)) == canonical(verdicts(shuffled))


@settings(max_examples=40, deadline=None)
@given(MANY_LOOKS, MANY_LOOKS)
def test_more_evidence_never_undoes_a_failure(first: list[Look], more: list[Look]) -> None:
    before = {verdict.gate for verdict in verdicts(first) if verdict.result is Result.FAIL}
    after = {verdict.gate for verdict in verdicts([*first, *more]) if verdict.result is Result.FAIL}
    assert before <= after


@settings(max_examples=60, deadline=None)
@given(MANY_LOOKS, st.one_of(counts(BROKEN), st.none()), st.integers(0, 8))
def test_evidence_that_cannot_be_right_never_passes_and_never_crashes(
    looks: list[Look], bad: Counts | None, at: int
) -> None:
    broken = Look("mirror", 1, math.nan, 1.0) if bad is None or not (bad.outcomes or bad.latency) else None
    if broken is None and bad is not None:
        broken = Look("mirror", 1, 0.0, 1.0, candidate=bad)
    assert broken is not None
    assert combine(verdicts([*looks[:at], broken, *looks[at:]])) in (Result.ERROR, Result.FAIL)


@settings(max_examples=40, deadline=None)
@given(st.lists(LOOKS.map(lambda look: replace(look, candidate=Counts(), pairs=())), max_size=20))
def test_silence_never_passes_and_never_fails(looks: list[Look]) -> None:
    assert {verdict.result for verdict in verdicts(looks)} == {Result.INCONCLUSIVE}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.integers(0, 60), st.integers(2, 6))
def test_scaling_both_arms_does_not_change_what_a_ratio_shows(bad: int, stable_bad: int, factor: int) -> None:
    """Rates stay as they are; the evidence only grows."""

    def judged(scale: int) -> Any:
        look = Look(
            "step",
            1,
            0.0,
            1.0,
            Counts({Outcome.OK: (20 - bad) * scale, Outcome.MODEL_ERROR: bad * scale}),
            Counts({Outcome.OK: (180 - stable_bad) * scale, Outcome.TIMEOUT: stable_bad * scale}),
        )
        return error_rate.judge(ErrorRateParams(max_increase=0.1), [look] * 30, 0.001)

    once, scaled = judged(1), judged(factor)
    assert once.figures["candidate_rate"] == scaled.figures["candidate_rate"]
    assert {once.result, scaled.result} != {Result.PASS, Result.FAIL}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 349), st.integers(0, 349), st.integers(1, 60))
def test_latency_depends_on_the_ratio_and_not_on_the_unit(stable: int, candidate: int, shift: int) -> None:
    def judged(by: int) -> Result:
        params = LatencyParams(slack_ms=0.0)
        look = Look(
            "step",
            1,
            0.0,
            1.0,
            Counts({Outcome.OK: 50}, {candidate + by: 50}),
            Counts({Outcome.OK: 450}, {stable + by: 450}),
        )
        return latency.judge(params, [look] * 40, 0.001).result

    if max(stable, candidate) + shift <= 345:
        assert judged(0) == judged(shift)


def test_a_billion_requests_are_as_good_as_any() -> None:
    fine = Counts({Outcome.OK: 10**9}, {90: 10**9})
    looks = [Look("mirror", 1, 0.0, 1.0, fine, fine)] * 5
    assert error_rate.judge(ErrorRateParams(), looks, 0.001).result is Result.PASS
    assert latency.judge(LatencyParams(), looks, 0.001).result is Result.PASS
    assert add([fine, fine]).requests == 2 * 10**9


def test_a_clock_that_goes_backwards_changes_nothing() -> None:
    fine = Counts({Outcome.OK: 200}, {90: 200})
    forwards = [Look("step", 1, float(k), 1.0, fine, fine) for k in range(20)]
    backwards = [replace(look, at=-look.at) for look in forwards]
    results = [error_rate.judge(ErrorRateParams(), looks, 0.001) for looks in (forwards, backwards)]
    assert results[0] == results[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(PAIRS, max_size=12))
def test_any_pairs_are_judged_without_a_crash(pairs: list[Pair]) -> None:
    for params in (MirrorDiffParams(), MirrorDiffParams(rel=0.1, min_echoes=0)):
        verdict = mirror_diff.judge(params, [Look("mirror", 1, 0.0, 1.0, pairs=tuple(pairs))] * 3, 0.001)
        assert verdict.result in (Result.FAIL, Result.INCONCLUSIVE)
        canonical(verdict)


@settings(max_examples=60, deadline=None)
@given(st.lists(PAIRS, max_size=12))
def test_any_answers_are_held_against_a_shape_without_a_crash(pairs: list[Pair]) -> None:
    for params in (ShapeParams(learn=1), ShapeParams({"type": "object", "required": ["a"]})):
        verdict = shape.judge(params, [Look("mirror", 1, 0.0, 1.0, pairs=tuple(pairs))] * 3, 0.001)
        assert verdict.result in (Result.FAIL, Result.INCONCLUSIVE)
        canonical(verdict)

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.evidence import Counts, Look, Outcome, Result, Traffic
from headgate_policies.gates.error_rate import ErrorRateParams, gate

ALPHA = 0.001


def counts(requests: int, failures: int = 0, outcome: Outcome = Outcome.MODEL_ERROR) -> Counts:
    return Counts({Outcome.OK: requests - failures, outcome: failures})


def look(candidate: Counts, stable: Counts, phase: str = "step", reference: Counts | None = None) -> Look:
    return Look(phase, 1, 0.0, 1.0, candidate, stable, reference or Counts())


def test_no_looks_are_no_pass() -> None:
    verdict = gate.judge(ErrorRateParams(), [], ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.missing


def test_silence_is_no_pass() -> None:
    looks = [look(Counts(), counts(500))] * 100
    assert gate.judge(ErrorRateParams(), looks, ALPHA).result is Result.INCONCLUSIVE


def test_a_candidate_as_good_as_the_stable_passes_and_says_what_is_ruled_out() -> None:
    verdict = gate.judge(ErrorRateParams(max_increase=0.05), [look(counts(5), counts(95))] * 20, ALPHA)
    assert verdict.result is Result.PASS
    assert "a rise of 5 % or more is ruled out (95 % sure)" in verdict.explanation


def test_too_few_requests_hold_and_say_how_many_are_missing() -> None:
    looks = [look(counts(5), counts(95))] * 20
    verdict = gate.judge(ErrorRateParams(max_increase=0.005), looks, ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.missing.startswith("about ")
    needed = int(verdict.missing.split()[1].replace(",", ""))
    later = gate.judge(ErrorRateParams(max_increase=0.005), [*looks, *[looks[0]] * (needed // 5 + 20)], ALPHA)
    assert later.result is Result.PASS


def test_one_in_ten_failing_copies_fails_in_the_mirror_phase_with_its_classes_named() -> None:
    looks = [look(counts(75, 7), counts(150), "mirror")] * 5
    verdict = gate.judge(ErrorRateParams(max_increase=0.02), looks, ALPHA)
    assert verdict.result is Result.FAIL
    assert "35 model_error" in verdict.explanation
    assert "35 of 375 (9.33 %)" in verdict.explanation


def test_a_failure_is_not_undone_by_what_comes_later() -> None:
    bad, good = look(counts(20, 20), counts(80)), look(counts(20), counts(80))
    verdict = gate.judge(ErrorRateParams(), [bad, bad, bad, *[good] * 500], ALPHA)
    assert verdict.result is Result.FAIL


def test_failures_of_both_are_not_the_candidates() -> None:
    looks = [look(counts(20, 4), counts(80, 16))] * 100
    assert gate.judge(ErrorRateParams(max_increase=0.05), looks, ALPHA).result is not Result.FAIL


def test_callers_who_left_count_for_nobody() -> None:
    looks = [look(counts(100, 90, Outcome.CLIENT_GONE), counts(900))] * 10
    assert gate.judge(ErrorRateParams(max_increase=0.05), looks, ALPHA).result is Result.PASS


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.REFUSED, Outcome.TRUNCATED, Outcome.MODEL_ERROR])
def test_every_class_of_failure_counts(outcome: Outcome) -> None:
    verdict = gate.judge(ErrorRateParams(), [look(counts(50, 25, outcome), counts(950))] * 3, ALPHA)
    assert verdict.result is Result.FAIL
    assert outcome.value in verdict.explanation


def test_a_ceiling_fails_even_when_the_stable_is_as_bad() -> None:
    looks = [look(counts(50, 10), counts(950, 190))] * 20
    verdict = gate.judge(ErrorRateParams(max_rate=0.05), looks, ALPHA)
    assert verdict.result is Result.FAIL
    assert "at most 5 % is tolerated" in verdict.explanation


def test_a_ceiling_must_be_ruled_out_too_before_a_pass() -> None:
    params = ErrorRateParams(max_increase=0.1, max_rate=0.005)
    assert gate.judge(params, [look(counts(10), counts(90))] * 10, ALPHA).result is Result.INCONCLUSIVE
    assert gate.judge(params, [look(counts(10), counts(90))] * 100, ALPHA).result is Result.PASS


def test_min_requests_hold_a_pass() -> None:
    params = ErrorRateParams(max_increase=0.1, min_requests=1_000)
    verdict = gate.judge(params, [look(counts(10), counts(90))] * 20, ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.missing == "about 800 more candidate requests"


def test_the_bake_is_judged_against_what_was_measured_before() -> None:
    before = counts(5_000, 25)
    fine = [look(counts(300, 2), Counts(), "bake", before)] * 20
    assert gate.judge(ErrorRateParams(max_increase=0.01), fine, ALPHA).result is Result.PASS
    bad = [look(counts(300, 15), Counts(), "bake", before)] * 20
    assert gate.judge(ErrorRateParams(max_increase=0.01), bad, ALPHA).result is Result.FAIL


def test_a_thin_reference_cannot_fail_the_bake() -> None:
    bad = [look(counts(100, 3), Counts(), "bake", counts(30))] * 20
    assert gate.judge(ErrorRateParams(max_increase=0.01), bad, ALPHA).result is Result.INCONCLUSIVE


def test_a_bake_without_a_reference_holds_and_says_what_would_help() -> None:
    verdict = gate.judge(ErrorRateParams(), [look(counts(300), Counts(), "bake")] * 20, ALPHA)
    assert verdict.result is Result.INCONCLUSIVE
    assert "max_rate" in verdict.missing


def test_a_bake_without_a_reference_can_be_judged_by_the_ceiling() -> None:
    looks = [look(counts(300), Counts(), "bake")] * 20
    assert gate.judge(ErrorRateParams(max_rate=0.01), looks, ALPHA).result is Result.PASS


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "many", True], ids=str)
def test_counts_that_cannot_be_right_are_an_error(bad: object) -> None:
    broken = look(Counts({Outcome.OK: bad}), counts(900))  # type: ignore[dict-item]
    verdict = gate.judge(ErrorRateParams(max_increase=0.5), [*[look(counts(10), counts(90))] * 50, broken], ALPHA)
    assert verdict.result is Result.ERROR
    assert "candidate outcomes ok" in verdict.explanation


def test_a_failure_before_broken_evidence_stays_a_failure() -> None:
    broken = look(Counts({Outcome.OK: -1}), counts(900))
    looks = [*[look(counts(20, 20), counts(80))] * 3, broken]
    assert gate.judge(ErrorRateParams(), looks, ALPHA).result is Result.FAIL


def test_what_a_plan_promises_is_a_sentence_and_a_number() -> None:
    promise = gate.power(ErrorRateParams(), Traffic(100.0, 0.005), ALPHA)
    assert promise is not None
    assert promise.effect == "errors rising from 0.5 % to 2 %"
    assert 1_000 < promise.requests < 10_000


def test_what_is_missing_is_said_with_the_time_it_takes_at_the_rate_seen() -> None:
    looks = [replace(look(counts(10), counts(90)), at=float(at)) for at in range(11)]
    verdict = gate.judge(ErrorRateParams(), looks, ALPHA)
    assert verdict.missing == "about 640 more candidate requests; at this rate 65 s"
    assert "rate" not in gate.judge(ErrorRateParams(), looks[:3], ALPHA).missing

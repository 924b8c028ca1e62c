from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from headgate.codec import canonical
from headgate.evidence import Counts, Look, Need, Outcome, Result, Traffic, Verdict
from headgate.process import Process
from headgate_policies.gates.error_rate import gate as error_rate
from headgate_policies.gates.latency import gate as latency
from headgate_policies.gates.minimum import Minimum, MinimumParams
from headgate_policies.gates.mirror_diff import gate as mirror_diff
from headgate_policies.gates.smoke import judge_smoke
from headgate_policies.judge import Analysis, alpha_share, combine, judge_phase, resolve

GATES = {"error-rate": error_rate, "latency": latency, "mirror-diff": mirror_diff}


def look(candidate: int = 10, stable: int = 90, failures: int = 0) -> Look:
    fast = {100: candidate}
    return Look(
        "step",
        1,
        0.0,
        1.0,
        Counts({Outcome.OK: candidate - failures, Outcome.MODEL_ERROR: failures}, fast),
        Counts({Outcome.OK: stable}, {100: stable}),
    )


def process(**gates: dict[str, Any]) -> Process:
    return Process(gates={name.replace("_", "-"): data for name, data in gates.items()})


def judge(process: Process, looks: Sequence[Look], gates: Any = GATES, kind: str = "step") -> dict[str, Verdict]:
    found = judge_phase(process, phase="step-5", kind=kind, looks=looks, gates=gates, phases_total=5)
    return {verdict.gate: verdict for verdict in found}


def verdict(result: Result) -> Verdict:
    return Verdict("g", "1", "step-5", {}, 0.01, result, "")


@dataclass(frozen=True)
class NoParams:
    pass


class Foreign:
    """A gate of somebody else: nothing but the port."""

    version = "9"
    params = NoParams

    def __init__(self, given: Any) -> None:
        self.given = given

    def needs(self, params: NoParams) -> Sequence[Need]:
        return (Need("counts", ("step",)),)

    def judge(self, params: NoParams, looks: Sequence[Look], alpha: float) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def power(self, params: NoParams, traffic: Traffic, alpha: float) -> None:
        return None


@pytest.mark.parametrize(
    ("name", "gate", "implied"),
    [
        ("error-rate", error_rate, {}),
        ("latency", latency, {}),
        ("latency-p99", latency, {"quantile": 0.99}),
        ("latency-p99.9", latency, {"quantile": 0.999}),
        ("latency-p50", latency, {"quantile": 0.5}),
    ],
)
def test_a_name_means_a_gate_and_what_it_implies(name: str, gate: object, implied: dict[str, float]) -> None:
    assert resolve(name, GATES) == (gate, implied)


@pytest.mark.parametrize("name", ["latency-q99", "error-rate-p99", "nothing", "-p99", "latency-p", "latency-p1000"])
def test_other_names_mean_nothing(name: str) -> None:
    assert resolve(name, GATES) is None


@pytest.mark.parametrize(
    ("results", "together"),
    [
        ((), Result.INCONCLUSIVE),
        ((Result.PASS, Result.PASS), Result.PASS),
        ((Result.PASS, Result.INCONCLUSIVE), Result.INCONCLUSIVE),
        ((Result.INCONCLUSIVE, Result.ERROR, Result.PASS), Result.ERROR),
        ((Result.PASS, Result.ERROR, Result.FAIL), Result.FAIL),
    ],
)
def test_fail_wins_and_only_all_passes_are_a_pass(results: tuple[Result, ...], together: Result) -> None:
    assert combine([verdict(result) for result in results]) is together


def test_a_healthy_step_passes_every_gate() -> None:
    found = judge(Process(), [look()] * 400)
    assert {name: v.result for name, v in found.items()} == {
        "minimum-evidence": Result.PASS,
        "error-rate": Result.PASS,
        "latency-p99": Result.PASS,
    }
    assert found["latency-p99"].parameters["quantile"] == 0.99
    assert found["error-rate"].phase == "step-5"
    assert len(found["error-rate"].evidence) == 64


def test_alpha_is_shared_by_gates_and_phases() -> None:
    assert alpha_share(Process(false_abort=0.03), 5) == pytest.approx(0.002)
    assert judge(Process(false_abort=0.03), [look()])["error-rate"].alpha == 0.002


def test_a_gate_judges_only_in_its_phases() -> None:
    assert "mirror-diff" not in judge(Process(), [look()])
    assert "mirror-diff" in judge(Process(), [look()], kind="mirror")


def test_without_gates_a_step_still_needs_evidence() -> None:
    bare = replace(process(), min_requests=100)
    assert combine(list(judge(bare, []).values())) is Result.INCONCLUSIVE
    held = judge(bare, [look()] * 9)["minimum-evidence"]
    assert (held.result, held.missing) == (Result.INCONCLUSIVE, "about 10 more candidate requests")
    assert combine(list(judge(bare, [look()] * 10).values())) is Result.PASS


def test_an_unknown_gate_is_an_error_that_names_the_known_ones() -> None:
    found = judge(process(speed={}), [look()])["speed"]
    assert found.result is Result.ERROR
    assert "known are error-rate, latency, mirror-diff" in found.explanation


def test_wrong_parameters_are_an_error_that_names_them() -> None:
    found = judge(process(error_rate={"max_increse": "1%"}), [look()])["error-rate"]
    assert found.result is Result.ERROR
    assert "did you mean `max_increase`?" in found.explanation


def test_parameters_are_read_as_people_write_them() -> None:
    found = judge(process(error_rate={"max_increase": "0.5%"}), [look()])["error-rate"]
    assert found.parameters["max_increase"] == 0.005


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (ZeroDivisionError("float division"), "ZeroDivisionError: float division"),
        (None, "returned NoneType, not a verdict"),
        (True, "returned bool, not a verdict"),
        (replace(verdict(Result.PASS), figures={"share": float("nan")}), "figures that are not numbers: share"),
        (replace(verdict(Result.PASS), result="fine"), "unknown result 'fine'"),
    ],
    ids=["raises", "nothing", "true", "NaN", "unknown result"],
)
def test_whatever_a_gate_does_the_outcome_is_a_verdict_and_no_pass(given: Any, says: str) -> None:
    found = judge(process(mine={}), [look()] * 200, {"mine": Foreign(given)})
    assert found["mine"].result is Result.ERROR
    assert says in found["mine"].explanation
    assert combine(list(found.values())) is Result.ERROR


def test_a_foreign_gate_is_heard_under_its_name_in_rollout_yml() -> None:
    found = judge(process(mine={}), [look()] * 20, {"mine": Foreign(verdict(Result.FAIL))})["mine"]
    assert (found.gate, found.version, found.phase, found.looks) == ("mine", "9", "step-5", 20)
    assert found.result is Result.FAIL


def test_a_broken_gate_does_not_silence_the_others() -> None:
    gates = {**GATES, "mine": Foreign(RuntimeError("no"))}
    found = judge(process(mine={}, error_rate={}), [look(failures=5)] * 20, gates)
    assert found["error-rate"].result is Result.FAIL
    assert combine(list(found.values())) is Result.FAIL


def test_look_by_look_gives_the_same_bytes_as_all_at_once() -> None:
    looks = [look(failures=k % 3 == 0, candidate=7 + k) for k in range(60)]
    analysis = Analysis(Process(), phase="step-5", kind="step", gates=GATES, phases_total=5)
    for n, each in enumerate(looks, start=1):
        analysis.hear([each])
        if n % 20 == 0:
            at_once = judge_phase(Process(), phase="step-5", kind="step", looks=looks[:n], gates=GATES, phases_total=5)
            assert canonical(analysis.verdicts()) == canonical(at_once)


@pytest.mark.parametrize(
    ("status", "media", "body", "result", "says"),
    [
        (200, "application/json", '{"a": 1}', Result.PASS, "JSON of 8 characters"),
        (200, "text/plain", "hello", Result.PASS, "not JSON"),
        (500, "text/plain", "Traceback", Result.FAIL, "answered with 500: Traceback"),
        (200, "application/json", "{", Result.FAIL, "is not"),
        (200, "application/json; charset=utf-8", '{"a": [1, NaN]}', Result.FAIL, "$.a[*] is not a number"),
        (200, "application/json", "[" * 100_000, Result.FAIL, "nests too deep"),
    ],
    ids=["json", "text", "error", "no json", "NaN", "deep"],
)
def test_the_sample_request_must_be_answered(status: int, media: str, body: str, result: Result, says: str) -> None:
    found = judge_smoke(status, media, body)
    assert found.result is result
    assert says in found.explanation


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_of_an_endpoint_that_redacts_is_not_quoted(status: int) -> None:
    found = judge_smoke(status, "application/json", "Ada, born 1815", quoted=False)
    assert found.result is Result.FAIL
    assert "Ada" not in found.explanation
    assert "redacts" in found.explanation


def test_the_answer_keeps_the_shape_of_an_earlier_one() -> None:
    assert judge_smoke(200, "application/json", '{"a": 2}', '{"a": 1}').result is Result.PASS
    found = judge_smoke(200, "application/json", '{"b": 2}', '{"a": 1}')
    assert found.result is Result.FAIL
    assert {difference.path for difference in found.differences} == {"$.a", "$.b"}


def test_three_requests_a_minute_are_foretold_as_such_from_the_second_on() -> None:
    looks = [Look("step", 1, 20.0 * n, 1.0, Counts({Outcome.OK: 1})) for n in range(4)]
    missing = [Minimum(MinimumParams(50)).hear(looks[:n]).verdict().missing for n in (1, 2, 4)]
    assert missing == [
        "about 49 more candidate requests",
        "about 48 more candidate requests; at this rate 17 min",
        "about 46 more candidate requests; at this rate 16 min",
    ]

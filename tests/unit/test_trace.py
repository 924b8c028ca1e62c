from __future__ import annotations

import json
from typing import Any

import pytest

from headgate.evidence import Outcome, Result, bucket
from headgate.findings import SpecError
from headgate.process import MirrorPhase, Process
from headgate.testing import counts, look, pair
from headgate_policies.gates.error_rate import gate as error_rate
from headgate_policies.replay import Trace, course
from headgate_policies.trace import MAX_REPEAT, read, write

LOOKS = tuple(look(counts(9, 1), counts(90), pair(1, 2), at=float(at)) for at in range(3))


def lines(*rows: Any) -> list[str]:
    return [json.dumps(row) for row in rows]


def test_what_is_written_reads_as_it_was() -> None:
    made = Trace(Process(gates={"error-rate": {}}), "step-25", "step", 4, LOOKS)
    text = [line.decode() for line in write(made, endpoint="fraud", rollout="ro-1")]
    found = read(text, "t.jsonl")
    assert (found.header.endpoint, found.header.rollout, found.header.process) == ("fraud", "ro-1", made.process)
    assert found.under(made.process) == made


def test_a_person_writes_one_line_for_many_looks() -> None:
    arm = {"ok": 98, "failed": 2, "gone": 1, "ms": {"20": 90, "400": 10}}
    found = read(lines({"repeat": 3, "seconds": 5, "candidate": arm, "stable": {"ok": 900}}), "t.jsonl")
    assert [x.at for x in found.looks] == [0.0, 5.0, 10.0]
    first = found.looks[0]
    assert first.candidate.outcomes == {Outcome.OK: 98, Outcome.MODEL_ERROR: 2, Outcome.CLIENT_GONE: 1}
    assert first.candidate.latency == {bucket(20): 90, bucket(400): 10}
    assert (first.stable.requests, first.phase, first.seconds) == (900, "step", 5.0)


def test_a_trace_without_a_header_is_judged_as_a_step_of_the_rollout_yml() -> None:
    found = read(lines({"candidate": {"ok": 1}}), "t.jsonl").under(Process(steps=(5, 100), mirror=MirrorPhase()))
    assert (found.phase, found.kind, found.phases_total) == ("step", "step", 3)
    assert read([], "t.jsonl").under(Process(steps=(100,), mirror=MirrorPhase(0))).phases_total == 1


def test_a_written_regression_fails_and_silence_does_not() -> None:
    bad = {"candidate": {"ok": 80, "failed": 20}, "stable": {"ok": 900}, "repeat": 30}
    process = Process(gates={"error-rate": {}})
    silent = read(lines({"repeat": 30}), "t.jsonl")
    for recorded, expected in ((read(lines(bad), "t.jsonl"), Result.FAIL), (silent, Result.INCONCLUSIVE)):
        *_, (_, verdicts) = course(recorded.under(process), {"error-rate": error_rate})
        assert verdicts[1].result is expected


@pytest.mark.parametrize(
    ("rows", "line", "says"),
    [
        pytest.param(["{"], 1, "not JSON", id="not JSON"),
        pytest.param(["[" * 100_000], 1, "not JSON", id="nested without end"),
        pytest.param(["[]"], 1, "a line is an object", id="a list"),
        pytest.param([*lines({"candidate": {"ok": 1}}), "", "x"], 3, "not JSON", id="a later line"),
        pytest.param(lines({"candidte": {}}), 1, "unknown field 'candidte'", id="a misspelt arm"),
        pytest.param(lines({"candidate": {"okay": 1}}), 1, "candidate: unknown field 'okay'", id="a misspelt count"),
        pytest.param(lines({"candidate": {"ok": "many"}}), 1, "Expected `int`", id="a count that is text"),
        pytest.param(lines({"candidate": {"ms": {"fast": 1}}}), 1, "could not convert", id="a time that is text"),
        pytest.param(lines({"candidate": {"ms": {"-1": 1}}}), 1, "not a time", id="a time before it began"),
        pytest.param(lines({"repeat": MAX_REPEAT + 1}), 1, "repeat is", id="too many"),
        pytest.param(lines({"repeat": True}), 1, "repeat is", id="a repeat that is none"),
        pytest.param(lines({"generation": 1, "phase": "step"}), 1, "missing required field", id="a cut record"),
        pytest.param(lines({"trace": 2}), 1, "not a version", id="a newer trace"),
        pytest.param(lines({"trace": 1, "kind": "walk"}), 1, "kind 'walk'", id="an unknown kind"),
        pytest.param(lines({}, {"trace": 1}), 2, "before every look", id="a header too late"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_by_its_number(rows: list[str], line: int, says: str) -> None:
    with pytest.raises(SpecError) as refused:
        read(rows, "t.jsonl")
    (finding,) = refused.value.findings
    assert (finding.code, finding.place.line) == ("trace-line", line)
    assert says in finding.message

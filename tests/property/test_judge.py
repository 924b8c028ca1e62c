"""What holds for every gate together, whatever the evidence, its size, its times and how it is cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate import plugins
from headgate.codec import canonical, decode
from headgate.evidence import Counts, Look, Outcome, Result, Verdict
from headgate.process import Process
from headgate.testing import pair
from headgate_policies.judge import Analysis
from headgate_policies.replay import Trace, again
from headgate_policies.trace import read, write

GATES = plugins.load("headgate.gate").adapters
PROCESS = Process(
    gates={
        "error-rate": {"max_increase": 0.02, "max_rate": 0.5},
        "latency-p90": {"max_ms": 400.0},
        "mirror-diff": {"rel": 0.1, "max_share": 0.05, "min_echoes": 0},
        "schema": {},
    },
    min_requests=10,
)
KINDS = st.sampled_from(["mirror", "step", "bake"])
SIZES = st.one_of(st.integers(0, 40), st.sampled_from([0, 1, 10**3, 10**6, 10**9]))
OUTCOMES = st.dictionaries(st.sampled_from(list(Outcome)), SIZES, max_size=4)
COUNTS = st.builds(Counts, OUTCOMES, st.dictionaries(st.integers(0, 350), SIZES, max_size=4))
NUMBERS = st.integers(-3, 3)
PAIRS = st.builds(lambda a, b, key: pair({"y": a}, {key: b}), NUMBERS, NUMBERS, st.sampled_from(["y", "z"]))
LOOKS = st.lists(
    st.builds(
        Look,
        phase=st.just("step"),
        generation=st.just(1),
        at=st.one_of(st.floats(0, 60), st.floats(-1e12, 1e12)),
        seconds=st.floats(0, 5),
        candidate=COUNTS,
        stable=COUNTS,
        reference=COUNTS,
        pairs=st.lists(PAIRS, max_size=3).map(tuple),
    ),
    max_size=7,
)


def of(kind: str, looks: Sequence[Look]) -> Trace:
    return Trace(PROCESS, f"{kind}-1", kind, 4, tuple(replace(look, phase=kind) for look in looks))


def verdicts(trace: Trace) -> tuple[Verdict, ...]:
    return trace.analysis(GATES).hear(trace.looks).verdicts()


@settings(max_examples=25, deadline=None)
@given(KINDS, LOOKS, st.lists(st.integers(0, 9), max_size=4))
def test_how_looks_are_cut_into_calls_changes_no_byte(kind: str, looks: list[Look], cuts: list[int]) -> None:
    trace = of(kind, looks)
    analysis: Analysis = trace.analysis(GATES)
    edges = [0, *sorted(min(cut, len(looks)) for cut in cuts), len(looks)]
    for start, end in itertools.pairwise(edges):
        analysis.hear(trace.looks[start:end])
        analysis.verdicts()
    assert canonical(analysis.verdicts()) == canonical(verdicts(trace))


@settings(max_examples=25, deadline=None)
@given(KINDS, LOOKS, st.integers(0, 9))
def test_every_recorded_verdict_comes_again_from_a_trace_file(kind: str, looks: list[Look], later: int) -> None:
    trace = of(kind, looks)
    text = [line.decode() for line in write(trace)]
    read_back = read(text, "t.jsonl").under(PROCESS)
    for verdict in verdicts(trace.first(later)):
        recorded = decode(Verdict, canonical(verdict))
        assert canonical(again(read_back, recorded, GATES)) == canonical(recorded)


@settings(max_examples=30, deadline=None)
@given(KINDS, LOOKS)
def test_any_size_and_any_time_is_judged_in_finite_numbers(kind: str, looks: list[Look]) -> None:
    for verdict in verdicts(of(kind, looks)):
        assert all(math.isfinite(value) for value in verdict.figures.values()), verdict
        assert verdict.result is not Result.ERROR, verdict


@settings(max_examples=30, deadline=None)
@given(KINDS, LOOKS)
def test_nothing_passes_that_the_candidate_was_not_asked(kind: str, looks: list[Look]) -> None:
    silent = [replace(look, candidate=Counts({Outcome.CLIENT_GONE: 5}), pairs=()) for look in looks]
    assert {verdict.result for verdict in verdicts(of(kind, silent))} == {Result.INCONCLUSIVE}


@settings(max_examples=30, deadline=None)
@given(KINDS, LOOKS, LOOKS)
def test_a_failure_stays_in_every_kind_of_phase(kind: str, first: list[Look], more: list[Look]) -> None:
    before = {v.gate for v in verdicts(of(kind, first)) if v.result is Result.FAIL}
    after = {v.gate for v in verdicts(of(kind, [*first, *more])) if v.result is Result.FAIL}
    assert before <= after


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["step", "bake"]), LOOKS)
def test_evidence_that_comes_at_once_fails_nobody_whom_it_would_not_fail_over_time(
    kind: str, looks: list[Look]
) -> None:
    def failed(step_s: float) -> set[str]:
        timed = [replace(look, at=step_s * at) for at, look in enumerate(looks)]
        return {v.gate for v in verdicts(of(kind, timed)) if v.result is Result.FAIL}

    assert failed(0.01) <= failed(10.0)
    if len(looks) < 3:
        assert failed(10.0) == set(), "two seconds are a hiccup"


@settings(max_examples=20, deadline=None)
@given(KINDS, LOOKS)
def test_a_clock_set_back_passes_nothing_that_one_that_goes_would_not(kind: str, looks: list[Look]) -> None:
    def passed(sign: float) -> set[str]:
        timed = [replace(look, at=sign * 10.0 * at, seconds=1.0) for at, look in enumerate(looks)]
        return {verdict.gate for verdict in verdicts(of(kind, timed)) if verdict.result is Result.PASS}

    assert passed(-1.0) <= passed(1.0)

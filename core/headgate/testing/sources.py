"""What every metric source promises. Subject: a `SourceCase`: a source that is made to answer one number.

Whatever a source does wrong must arrive as a sample without a value, with a word that says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from headgate.evidence import PROBLEMS, Need, Sample
from headgate.ports import EvidenceSource, Window
from headgate.testing.suite import Suite

NEED = Need("sample", ("step",), "metrics", "up", ("candidate", "stable"))
WINDOW = Window("fraud", "green", "0123456789", "candidate", 1_700_000_000.0)


@dataclass(frozen=True, slots=True)
class SourceCase:
    source: EvidenceSource
    answers: Callable[[float | None], None]  # from now on it answers this number; None: it has none
    breaks: Callable[[], None]  # from now on it does not answer as it should


SOURCE: Suite[SourceCase] = Suite()


def sound(sample: Sample) -> bool:
    """A finite value, or a known reason why there is none."""
    if sample.value is None:
        return sample.problem in PROBLEMS
    return math.isfinite(sample.value) and not sample.problem


@SOURCE
def _a_number_becomes_a_sample_of_the_arm_that_was_asked_for(case: SourceCase) -> None:
    for arm in ("candidate", "stable"):
        case.answers(0.25)
        found = case.source.collect(NEED, replace(WINDOW, arm=arm))
        assert found == Sample(NEED.source, NEED.query, arm, 0.25), found


@SOURCE
def _no_number_is_a_sample_without_a_value(case: SourceCase) -> None:
    case.answers(None)
    found = case.source.collect(NEED, WINDOW)
    assert (found.value, found.problem) == (None, "empty"), "no value is not zero"


@SOURCE
def _nan_and_infinities_are_no_values(case: SourceCase) -> None:
    for value, problem in ((math.nan, "nan"), (math.inf, "infinite"), (-math.inf, "infinite")):
        case.answers(value)
        found = case.source.collect(NEED, WINDOW)
        assert (found.value, found.problem) == (None, problem), found


@SOURCE
def _what_goes_wrong_is_said_and_never_raised(case: SourceCase) -> None:
    case.breaks()
    found = case.source.collect(NEED, WINDOW)
    assert found.value is None
    assert sound(found), f"{found.problem!r} is none of {PROBLEMS}"
    case.answers(1.0)
    assert case.source.collect(NEED, WINDOW).value == 1.0, "trouble that is over is over"

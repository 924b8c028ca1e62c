"""Findings as values: their text, their order, and who must act."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.findings import (
    ConflictError,
    Finding,
    FindingsError,
    HeadgateError,
    Place,
    PolicyDenied,
    Severity,
    SpecError,
    TerminalError,
    TransientError,
    in_order,
)

ONE = Finding("traffic-sum", "adds up to 95", "a gap", "make it 100", Place("endpoint.yml", 3, 10))


def test_a_place_is_written_as_editors_read_it() -> None:
    assert str(ONE.place) == "endpoint.yml:3:10"
    assert str(Place("endpoint.yml")) == "endpoint.yml"


def test_a_finding_says_what_why_and_how_to_fix_it() -> None:
    head = "endpoint.yml:3:10: error[traffic-sum]: adds up to 95"
    assert str(ONE) == f"{head}\n  why: a gap\n  fix: make it 100"
    assert str(replace(ONE, why="", fix="")) == head


def test_a_warning_is_no_error() -> None:
    assert ONE.is_error
    assert not replace(ONE, severity=Severity.WARNING).is_error


def test_findings_are_read_from_the_top_and_each_once() -> None:
    later = replace(ONE, place=Place("endpoint.yml", 20, 1))
    other = replace(ONE, place=Place("a.yml", 90, 1))
    assert in_order([later, ONE, other, ONE, replace(ONE)]) == (other, ONE, later)


def test_an_exception_of_findings_reads_as_they_do() -> None:
    later = replace(ONE, place=Place("endpoint.yml", 20, 1))
    error = SpecError(later, ONE)
    assert tuple(error.findings) == (ONE, later)
    assert str(error) == f"{ONE}\n{later}"


@pytest.mark.parametrize("kind", [SpecError, PolicyDenied])
def test_findings_are_carried_by_those_whom_an_author_can_help(kind: type[FindingsError]) -> None:
    assert issubclass(kind, FindingsError)


def test_whoever_catches_ours_catches_all_of_them() -> None:
    assert all(issubclass(e, HeadgateError) for e in (FindingsError, TransientError, TerminalError, ConflictError))
    assert (TransientError("busy").retry_after_s, TransientError("busy", 5).retry_after_s) == (1.0, 5)

"""Is the answer to the sample request an answer at all? One request, no statistics, before anything else is asked.

A 2xx, JSON where JSON is claimed, no NaN in it, and, given an earlier answer, the same shape. Not in rollout.yml: the
smoke phase always asks. Says nothing about values.
"""

from __future__ import annotations

import json

from headgate.evidence import Answer, Difference, Result, Verdict
from headgate_policies.compare import Tolerance, compare, cut, media_type, not_numbers, read_json

VERSION = "1"
HIDDEN = "(not shown: the endpoint redacts parts of its answers)"


def judge_smoke(
    status: int,
    media_type_header: str,
    body: str,
    expected: str | None = None,
    *,
    truncated: bool = False,
    quoted: bool = True,
) -> Verdict:
    """Args:
    body: the answer's text; `truncated` when it is only the beginning: then only its status is judged.
    expected: the body of an earlier answer to the same request, whose shape this one must have; None: there
        is none.
    quoted: whether the verdict may show parts of the answer; a verdict ends up in git.
    """
    said = cut(body) if quoted else HIDDEN
    if not 200 <= status < 300:
        return _verdict(Result.FAIL, f"the sample request was answered with {status}: {said}")
    if truncated:
        return _verdict(Result.PASS, f"answered {status}; too long an answer to look into")
    if "json" not in media_type(media_type_header):
        return _verdict(Result.PASS, f"answered {status} with {len(body):,} characters, which are not JSON")
    fault = _fault(body, said)
    if fault:
        return _verdict(Result.FAIL, f"answered {status}, but {fault}")
    return _shape(status, media_type_header, body, expected)


def _fault(body: str, said: str) -> str:
    try:
        value = read_json(body)
    except json.JSONDecodeError as error:
        return f"the answer says it is JSON and is not: {error.msg} at character {error.pos}: {said}"
    except ValueError as error:
        return str(error)
    path = next(not_numbers(value), "")
    return f"{path} is not a number that JSON can hold (NaN or infinite)" if path else ""


def _shape(status: int, header: str, body: str, expected: str | None) -> Verdict:
    if expected is None:
        return _verdict(Result.PASS, f"answered {status} with JSON of {len(body):,} characters")
    earlier = Answer("", status, header, expected)
    found = compare(earlier, Answer("", status, header, body), Tolerance())
    if not found.comparable:
        return _verdict(Result.PASS, f"answered {status}; not compared with the earlier answer: {found.why_not}")
    if found.found:
        differences = tuple(Difference(f.path, f.kind, 1.0, f.stable, f.candidate) for f in found.found[:10])
        first = found.found[0]
        return _verdict(Result.FAIL, f"answered {status} in another shape: {first.path} ({first.kind})", differences)
    return _verdict(Result.PASS, f"answered {status} with JSON of the shape it had before")


def _verdict(result: Result, explanation: str, differences: tuple[Difference, ...] = ()) -> Verdict:
    return Verdict("smoke", VERSION, "smoke", {}, 0.0, result, explanation, differences=differences)

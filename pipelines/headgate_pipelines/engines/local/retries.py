"""retryStrategy: when a node is tried again. The expression is a boolean one over `lastRetry`, nothing more."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from headgate_pipelines.engines.local import boolean, fields
from headgate_pipelines.engines.local.spec import Backoff, Retry

POLICIES = {"Always": (True, True), "OnFailure": (True, False), "OnError": (False, True)}
LAST_RETRY = re.compile(
    r"asInt\(\s*lastRetry\.exitCode\s*\)\s*(?P<compare>==|!=|<=|>=|<|>)\s*(?P<number>-?\d+)"
    r"|lastRetry\.(?P<field>status|exitCode)\s*(?P<equal>==|!=)\s*(?P<quote>['\"])(?P<text>[^'\"]*)(?P=quote)"
)
COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
LOST = -1  # exit code of an attempt that has none, as on the cluster


class Refuses(Protocol):
    """Who collects what is wrong."""

    def refuse(self, where: str, message: str, why: str, fix: str) -> None: ...
    def known(self, where: str, kind: str, block: Any, allowed: set[str]) -> None: ...
    def seconds(self, where: str, value: Any) -> float | None: ...


def read_retry(block: Any, where: str, to: Refuses) -> Retry | None:
    """The strategy; None: there is none, the first failure stands."""
    if block is None:
        return None
    where = f"{where}.retryStrategy"
    to.known(where, "retryStrategy", block, fields.RETRY)
    limit = block.get("limit")
    if limit is not None and not re.fullmatch(r"\d{1,6}", str(limit)):
        to.refuse(where, f"limit `{limit}` is not a whole number", "", "write a number in quotes")
        limit = 0
    # An expression without a policy means Always: both have to hold, and it is the expression that tells.
    policy = str(block.get("retryPolicy") or ("Always" if block.get("expression") else "OnFailure"))
    if policy not in POLICIES:
        to.refuse(where, f"retryPolicy `{policy}` is not supported", "", f"use {', '.join(POLICIES)}")
    failure, error = POLICIES.get(policy, (True, False))
    return Retry(
        limit=None if limit is None else int(limit),
        on_failure=failure,
        on_error=error,
        when=_expression(str(block.get("expression") or ""), where, to),
        backoff=_backoff(block.get("backoff") or {}, f"{where}.backoff", to),
    )


def _expression(text: str, where: str, to: Refuses) -> boolean.Expression:
    if not text:
        return boolean.ALWAYS
    try:
        return boolean.parse(text, LAST_RETRY, _atom)
    except boolean.Unreadable as error:
        fix = "compare lastRetry.status, lastRetry.exitCode or asInt(lastRetry.exitCode), joined by && || ! ( )"
        to.refuse(where, f"expression `{text[:100]}`: {error}", "", fix)
        return boolean.ALWAYS


def _atom(match: re.Match[str]) -> boolean.Expression:
    if match["compare"]:
        return boolean.Atom("number", match["compare"], match["number"])
    return boolean.Atom(match["field"], match["equal"], match["text"])


def _backoff(block: Any, where: str, to: Refuses) -> Backoff:
    to.known(where, "backoff", block, fields.BACKOFF)
    if not isinstance(block, Mapping):
        return Backoff()
    factor = str(block.get("factor") or "1")
    if not re.fullmatch(r"\d{1,4}", factor):
        to.refuse(where, f"factor `{factor}` is not a whole number", "", "write a number in quotes")
        factor = "1"
    return Backoff(
        duration_s=to.seconds(f"{where}.duration", block.get("duration")) or 0.0,
        factor=float(factor),
        cap_s=to.seconds(f"{where}.cap", block.get("cap")),
        max_s=to.seconds(f"{where}.maxDuration", block.get("maxDuration")),
    )


def wants(retry: Retry, *, failed: bool, exit_code: int | None) -> bool:
    """Whether policy and expression ask for another attempt; limit and time are not looked at.

    Args:
        failed: it ran and said no; otherwise it could not be run (`Error`).
        exit_code: None: it has none.
    """
    if not (retry.on_failure if failed else retry.on_error):
        return False
    code = LOST if exit_code is None else exit_code
    values: dict[str, Any] = {"status": "Failed" if failed else "Error", "exitCode": str(code), "number": code}

    def holds(atom: boolean.Atom) -> bool:
        wanted = int(atom.value) if atom.name == "number" else atom.value
        return COMPARE[atom.test](values[atom.name], wanted)

    return boolean.evaluate(retry.when, holds)

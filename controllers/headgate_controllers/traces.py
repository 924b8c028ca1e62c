"""A rollout as one trace, made from its record with the times that were recorded, when it has ended.

Ids follow from names, so anybody who knows the workflow's name knows the trace, and telling it twice tells the same.
"""

from __future__ import annotations

import hashlib

from headgate.rollout import OpEnd, OpRecord, Rollout, State
from headgate_kit import telemetry
from headgate_kit.telemetry import Moment, Span, Value


def emit(rollout: Rollout) -> None:
    """Sends the trace of an ended rollout to wherever telemetry was set up to go; nowhere: nothing is done."""
    if telemetry.active():
        telemetry.send(spans(rollout))


def trace_id(workflow: str) -> str:
    """32 hex digits."""
    return hashlib.sha256(workflow.encode()).hexdigest()[:32]


def span_id(name: str) -> str:
    """16 hex digits. `name` is the workflow's for the root, an op-key for an op."""
    return hashlib.sha256(f"span {name}".encode()).hexdigest()[:16]


def spans(rollout: Rollout) -> tuple[Span, ...]:
    """The root, then one span for each op that was opened."""
    last = max([rollout.started_at, *(op.ended_at or op.opened_at for op in rollout.ops)])
    end = rollout.ended_at if rollout.ended_at is not None else last
    root = Span(
        name=f"rollout {rollout.target.endpoint}",
        trace_id=trace_id(rollout.id),
        span_id=span_id(rollout.id),
        parent_id="",
        start=rollout.started_at,
        end=end,
        attributes={**_common(rollout), "headgate.rollout.state": str(rollout.state)},
        error=rollout.message or str(rollout.state) if rollout.state is State.FAILED else "",
    )
    return (root, *(_op(rollout, op, end) for op in rollout.ops))


def _common(rollout: Rollout) -> dict[str, Value]:
    return {
        "headgate.rollout": rollout.id,
        "headgate.endpoint": rollout.target.endpoint,
        "headgate.revision": rollout.plan.candidate,
        "headgate.commit": rollout.commit,
        "headgate.attempt": rollout.attempt,
    }


def _op(rollout: Rollout, op: OpRecord, end: float) -> Span:
    attributes: dict[str, Value] = {"headgate.op": op.name, "headgate.phase": op.verb, "headgate.percent": op.percent}
    attributes |= {f"headgate.verdict.{verdict.gate}": str(verdict.result) for verdict in op.verdicts}
    ended = op.ended_at if op.ended_at is not None else end
    return Span(
        name=op.name,
        trace_id=trace_id(rollout.id),
        span_id=span_id(f"{rollout.id}/{op.name}"),
        parent_id=span_id(rollout.id),
        start=op.opened_at,
        end=ended,
        attributes={**_common(rollout), **attributes},
        moments=tuple(_moments(op, ended)),
        error=op.message or str(op.state) if op.state is OpEnd.FAILED else "",
    )


def _moments(op: OpRecord, ended: float) -> list[Moment]:
    live = [] if op.live_at is None else [Moment("live", op.live_at, {"headgate.generation": op.generation})]
    return live + [
        Moment(
            f"verdict {verdict.gate}",
            ended,
            {"headgate.result": str(verdict.result), "headgate.explanation": verdict.explanation, **verdict.figures},
        )
        for verdict in op.verdicts
    ]

"""Verdicts that were recorded: which there are, how each came about, and the same one again from its evidence.

Reads the record only. A verdict's evidence is the looks of its op, kept as long as its rollout is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from headgate import codec
from headgate.control import Replay, VerdictReport, VerdictStatus
from headgate.evidence import Result, Verdict
from headgate.findings import Finding, FindingsError, Place
from headgate.phases import BY_VERB, MIRROR
from headgate.rollout import OpRecord, Rollout
from headgate_controllers import smoke
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_policies.replay import Trace, again, course_of, differences
from headgate_policies.trace import write

SMOKE = smoke.PHASE  # judged from one answer, kept as a look when it is short and nothing of it is to be redacted


class Verdicts:
    def __init__(self, record: SqliteRecord, gates: Mapping[str, Any], find: Callable[[str], Rollout | None]) -> None:
        """`find`: a rollout that is kept, by its id."""
        self._record = record
        self._gates = gates
        self._find = find

    def of(self, rollouts: Iterable[Rollout]) -> list[VerdictStatus]:
        """In the order given, each rollout's in the order of its ops."""
        return [status for rollout in rollouts for op in rollout.ops for status in _statuses(rollout, op)]

    def report(self, verdict_id: str) -> VerdictReport:
        """Raises: FindingsError `unknown-verdict`."""
        status, trace = self._known(verdict_id)
        kept = len(trace.looks)
        if kept < status.verdict.looks or status.verdict.gate == SMOKE:
            return VerdictReport(status, kept)
        return VerdictReport(
            status, kept, course_of(trace.first(status.verdict.looks), status.verdict.gate, self._gates)
        )

    def replay(self, verdict_id: str) -> Replay:
        """Raises: FindingsError `unknown-verdict`, `evidence-gone`."""
        status, trace = self._known(verdict_id)
        recorded = status.verdict
        kept = trace.looks
        if recorded.gate == SMOKE:  # several deployments' are of one op: each of the look whose digest it names
            kept = tuple(look for look in kept if codec.digest(look) == recorded.evidence)
        if len(kept) < recorded.looks or (recorded.gate == SMOKE and not kept):
            raise FindingsError(_gone(status, len(kept)))
        found = smoke.again(kept[0]) if recorded.gate == SMOKE else again(trace, recorded, self._gates)
        found = found or _nothing(recorded)
        same = codec.canonical(recorded) == codec.canonical(found)
        return Replay(verdict_id, same, recorded.looks, recorded, found, differences(recorded, found))

    def trace(self, rollout_id: str, op_name: str) -> Iterator[bytes]:
        """The evidence of one op as a trace file, line by line. Raises: FindingsError `unknown-verdict`."""
        rollout, op = self._op(rollout_id, op_name)
        return write(self._trace(rollout, op), endpoint=rollout.target.endpoint, rollout=rollout.id)

    def _known(self, verdict_id: str) -> tuple[VerdictStatus, Trace]:
        rollout_id, _, rest = verdict_id.partition("/")
        rollout, op = self._op(rollout_id, rest.partition("/")[0])
        for status in _statuses(rollout, op):
            if status.id == verdict_id:
                return status, self._trace(rollout, op)
        raise FindingsError(_unknown(verdict_id))

    def _op(self, rollout_id: str, name: str) -> tuple[Rollout, OpRecord]:
        rollout = self._find(rollout_id)
        op = rollout.op(name) if rollout else None
        if rollout is None or op is None:
            raise FindingsError(_unknown(f"{rollout_id}/{name}".rstrip("/")))
        return rollout, op

    def _trace(self, rollout: Rollout, op: OpRecord) -> Trace:
        looks = tuple(self._record.looks(rollout.id, op.name))
        judged = sum(BY_VERB[planned.verb].judged for planned in rollout.plan.ops)
        kind = looks[0].phase if looks else _kind(rollout, op)
        return Trace(rollout.target.process, op.name, kind, judged, looks)


def _kind(rollout: Rollout, op: OpRecord) -> str:
    """Of an op that had no look: what its plan says."""
    if op.verb == MIRROR:
        return MIRROR
    return "bake" if op.percent >= 100 and set(rollout.plan.traffic) <= {rollout.plan.candidate} else "step"


def _statuses(rollout: Rollout, op: OpRecord) -> Iterator[VerdictStatus]:
    """A gate that gave several verdicts in one op (smoke, of each deployment) has them numbered from the second on."""
    seen: dict[str, int] = {}
    for verdict in op.verdicts:
        number = seen[verdict.gate] = seen.get(verdict.gate, 0) + 1
        name = verdict.gate if number == 1 else f"{verdict.gate}~{number}"
        verdict_id = f"{rollout.id}/{op.name}/{name}"
        yield VerdictStatus(verdict_id, rollout.target.endpoint, rollout.id, op.name, op.ended_at, verdict)


def _nothing(recorded: Verdict) -> Verdict:
    return Verdict(recorded.gate, "", recorded.phase, {}, 0.0, Result.ERROR, "this gate does not judge here any more")


def _unknown(verdict_id: str) -> Finding:
    return Finding(
        "unknown-verdict",
        f"there is no verdict {verdict_id}",
        "verdicts are kept with their rollout, and the newest twenty rollouts of an endpoint are kept",
        "`headgate verdict list ENDPOINT` shows those there are",
        Place("control API"),
    )


def _gone(status: VerdictStatus, kept: int) -> Finding:
    if status.verdict.gate == SMOKE:
        why = "the answer to the sample request is not kept: there was none, it is longer than 64 KiB, or is redacted"
        fix = "`headgate verdict show` says what was answered; a new rollout of the revision asks again"
    else:
        why = f"it was given on {status.verdict.looks:,} looks, of which {kept:,} are kept"
        fix = "replay a verdict of a newer rollout; `headgate verdict trace` keeps evidence in a file"
    return Finding("evidence-gone", f"{status.id} cannot be computed again", why, fix, Place("control API"))

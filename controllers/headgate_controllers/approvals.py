"""What people say of a running op becomes evidence of its gates. Refuses what no gate of this phase waits for.

Scoped to the op: an approval is a look of it, and the next op starts without any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headgate.control import OperatorAction
from headgate.evidence import Approval
from headgate.params import parse
from headgate.process import Process
from headgate.rollout import Head, kind_of
from headgate_controllers.evidence import Evidence
from headgate_policies.judge import resolve


class Approvals:
    def __init__(self, evidence: Evidence, gates: Mapping[str, Any]) -> None:
        self._evidence = evidence
        self._gates = gates

    def sign(self, head: Head, asked: OperatorAction, *, approved: bool) -> tuple[str, str]:
        """Answers what was recorded, for a person, and for which op.

        Raises:
            ValueError: nothing waits for it, or it is not clear what.
        """
        rollout = head.active
        op = rollout.running if rollout else None
        kind = kind_of(rollout, op, head.traffic) if rollout and op else ""
        if rollout is None or op is None or not kind:
            raise ValueError(f"nothing of {head.endpoint} is judged just now")
        waiting = waits(rollout.target.process, kind, self._gates)
        gate = asked.gate or (waiting[0] if len(waiting) == 1 else "")
        if gate not in waiting:
            known = f"waiting are {', '.join(waiting)}: name one with --gate" if waiting else "none does"
            raise ValueError(f"{f'{gate} waits' if gate else 'no one gate waits'} for no person at {op.name}; {known}")
        if not asked.who.strip():
            raise ValueError("an approval without a name is none: say who")
        approval = Approval(gate, approved, asked.who.strip()[:200], asked.why[:2_000])
        if not self._evidence.note(head, approvals=(approval,)):
            raise ValueError(f"{op.name} is not live on every router yet: what is said before that does not count")
        verb = "approved" if approved else "rejected"
        return f"{gate} at {op.name} {verb} by {approval.who}" + (f": {approval.why}" if approval.why else ""), op.name


def waits(process: Process, kind: str, gates: Mapping[str, Any]) -> list[str]:
    """The gates that wait for a person in this kind of phase, by name."""
    found = []
    for name, data in sorted(process.gates.items()):
        resolved = resolve(name, gates)
        if resolved is None:
            continue
        gate, implied = resolved
        params, _ = parse(gate.params, {**implied, **data})
        if params is not None and any(n.kind == "approval" and kind in n.phases for n in gate.needs(params)):
            found.append(name)
    return found

"""Opens only when a person says so: `headgate rollout approve ENDPOINT`. `manual-NAME` is one more of them.

An approval counts for the op that is running, and for no other. A rejection fails, and stays. Silence holds until
`max_soak`, then fails closed. The name is the one git or the operator's machine gives: whoever may use the control API
may say any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headgate.evidence import Approval, Detection, Look, Need, Result, Traffic, Verdict
from headgate.params import count, phases
from headgate_policies.sitting import Opinion, Sitting, judged


@dataclass(frozen=True, slots=True)
class ManualParams:
    phases: tuple[str, ...] = phases()  # where a person is asked, each time
    people: int = count(1, low=1, high=9)  # different people who must approve
    label: str = ""  # what follows `manual-` in its name

    @property
    def name(self) -> str:
        return f"manual-{self.label}" if self.label else "manual"


class Manual:
    version = "1"
    params = ManualParams

    def needs(self, params: ManualParams) -> Sequence[Need]:
        return (Need("approval", params.phases),)

    def judge(self, params: ManualParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: ManualParams, alpha: float) -> Sitting:
        return _ManualSitting(params, alpha)

    def power(self, params: ManualParams, traffic: Traffic, alpha: float) -> Detection | None:
        return None  # what a person finds is not known beforehand


class _ManualSitting(Sitting):
    def __init__(self, params: ManualParams, alpha: float) -> None:
        super().__init__("manual", Manual.version, params, alpha)
        self._own = params
        self._said: dict[str, Approval] = {}  # who -> the last they said
        self._rejection: Approval | None = None  # the first

    def _take(self, look: Look) -> None:
        for approval in sorted(look.approvals, key=lambda a: (a.approved, a.who, a.why)):
            if approval.gate != self._own.name:
                continue
            self._said[approval.who] = approval
            if not approval.approved and self._rejection is None:
                self._rejection = approval

    def _opinion(self) -> Opinion:
        wanted = self._own.people
        figures = {"approvals": float(len(self._said)), "people_wanted": float(wanted)}
        if self._rejection is not None:
            return Opinion(Result.FAIL, f"rejected by {_named(self._rejection)}", figures)
        said = [_named(approval) for _, approval in sorted(self._said.items())]
        by = f"approved by {', '.join(said)}" if said else "nobody has approved yet"
        if len(said) >= wanted:
            return Opinion(Result.PASS, by, figures)
        more = "a person" if wanted == 1 else f"{wanted - len(said)} more of {wanted} people"
        missing = f"{more}: `headgate rollout approve ENDPOINT --gate {self._own.name}`"
        return Opinion(Result.INCONCLUSIVE, by, figures, missing)


def _named(approval: Approval) -> str:
    return f"{approval.who} ({approval.why})" if approval.why else approval.who


gate = Manual()

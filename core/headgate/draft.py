"""A head being changed, and what was observed for the change. The two values every decision works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headgate.evidence import Result, Verdict
from headgate.fault import Held
from headgate.rollout import Event, Head, OpRecord, Rollout
from headgate.table import EndpointRoute
from headgate.workload import Purpose, Replica, ReplicaState

ENDED = ("Succeeded", "Failed", "Error")  # phases of a workflow that is over


@dataclass(frozen=True, slots=True)
class Seen:
    """What the controller observed for one pass. `now` is seconds since the epoch."""

    now: float
    unseen_s: float = 0.0  # of the time since the last pass, what nobody watched; below 0: the clock was set back
    replicas: tuple[Replica, ...] = ()
    route: EndpointRoute | None = None  # as last published; None: not in the table
    acked: int = 0  # the table generation that every leased router worker serves; 0: no worker is leased
    workflows: Mapping[str, str] = field(default_factory=dict)  # name -> phase, of those the engine knows
    workflow_message: str = ""  # of the running rollout's
    verdicts: tuple[Verdict, ...] = ()  # of the running op, over all its evidence so far
    result: Result | None = None  # the verdicts combined; None: nothing judged yet
    smokes: Mapping[str, Verdict] = field(default_factory=dict)  # revision -> answer to the sample request
    unasked: Mapping[str, Held] = field(default_factory=dict)  # revision -> why that cannot be asked now

    def ready(self, revision: str, purpose: Purpose = Purpose.SERVE) -> int:
        return sum(r.state is ReplicaState.READY for r in self.of(revision, purpose))

    def of(self, revision: str, purpose: Purpose = Purpose.SERVE) -> list[Replica]:
        return [r for r in self.replicas if r.revision == revision and r.purpose is purpose]

    def given_up(self, revision: str, purpose: Purpose = Purpose.SERVE) -> str:
        """Why the platform gave a replica up; empty: it did not, or it is no fault of the deployment."""
        failed = (r for r in self.of(revision, purpose) if r.state is ReplicaState.FAILED)
        return next((r.message for r in failed if r.fault is None), "")

    def held(self, revision: str, purpose: Purpose = Purpose.SERVE) -> Held | None:
        """The installation's fault that keeps a replica from starting."""
        failed = (r for r in self.of(revision, purpose) if r.state is ReplicaState.FAILED)
        return next((Held(r.fault, r.message) for r in failed if r.fault is not None), None)


@dataclass(slots=True)
class Draft:
    """A head being changed, and what to say of it. Used inside one call only."""

    head: Head
    now: float
    events: list[Event] = field(default_factory=list)
    ended: list[Rollout] = field(default_factory=list)  # rollouts that came to their end, as they ended

    def set(self, **fields: Any) -> None:
        self.head = replace(self.head, **fields)

    def rollout(self, **fields: Any) -> Rollout:
        """The rollout, changed."""
        assert self.head.rollout is not None
        rollout = replace(self.head.rollout, **fields)
        self.set(rollout=rollout)
        return rollout

    def op(self, **fields: Any) -> OpRecord:
        """The last op of the rollout, changed."""
        assert self.head.rollout is not None
        *before, last = self.head.rollout.ops
        op = replace(last, **fields)
        self.rollout(ops=(*before, op))
        return op

    def revision(self, name: str, **fields: Any) -> None:
        states = dict(self.head.revisions)
        states[name] = replace(states[name], **fields)
        self.set(revisions=states)

    def say(self, kind: str, message: str, *, op: str = "", **data: Any) -> None:
        rollout = self.head.rollout.id if self.head.rollout else ""
        self.events.append(Event(self.now, self.head.endpoint, kind, message, rollout, op, data))

    def move(self, traffic: Mapping[str, int], why: str, op: str = "") -> None:
        if dict(traffic) != dict(self.head.traffic):
            self.say("traffic.moved", why, op=op, before=dict(self.head.traffic), after=dict(traffic))
            self.set(traffic=dict(traffic))

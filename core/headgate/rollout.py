"""The record of one endpoint: what was asked, what is decided, and the rollout that leads from one to the other.

Only shapes and questions about them; the transitions are `decide.py` (what happens next) and `asks.py` (what an op may
do). Everything here is stored as canonical JSON by the `Record` port, so a field is a promise: give it a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headgate.evidence import Verdict
from headgate.fault import Held
from headgate.findings import Finding
from headgate.phases import BY_VERB, MIRROR, STEP
from headgate.plan import Plan
from headgate.table import Mirror
from headgate.target import DeploymentTarget, Target
from headgate.workload import Artifact


class State(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # a verdict, a build, a model that does not start: git is reverted
    ABORTED = "aborted"  # a person, or a workflow that ended early
    SUPERSEDED = "superseded"  # a newer commit took over


class OpEnd(StrEnum):
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class OpRecord:
    """One op that was opened: its effect is recorded once, under its key; asked again, it answers the same."""

    name: str
    verb: str
    percent: float
    arguments: str  # digest; the same key with other arguments is refused
    opened_at: float
    state: OpEnd = OpEnd.RUNNING
    ended_at: float | None = None
    generation: int = 0  # of the route that shows this op's split or mirror; 0: not published yet
    live_at: float | None = None  # when every leased router worker had acked it: evidence and soak start here
    unready_since: float | None = None  # the candidate has no ready replica since
    hurried: bool = False  # promoted by a person: the soak no longer holds it
    paused_s: float = 0.0  # for which a person held it: not counted against `max_soak`
    message: str = ""
    verdicts: tuple[Verdict, ...] = ()  # the last of each gate
    held: Held | None = None  # what of the installation it waits for


@dataclass(frozen=True, slots=True)
class Rollout:
    id: str  # the workflow's name
    attempt: int
    commit: str
    target: Target
    plan: Plan
    start: Mapping[str, int]  # L0: the traffic it leads away from, and goes back to
    started_at: float
    state: State = State.RUNNING
    ops: tuple[OpRecord, ...] = ()  # opened so far; the last may be running
    paused: bool = False
    paused_at: float | None = None  # since when
    hurried: bool = False  # promoted in full: no soak holds any op
    ended_at: float | None = None
    message: str = ""
    way: str = ""  # partial | swap: how it fits; empty: beside what serves (`surge.py`)
    sizes: Mapping[str, int] = field(default_factory=dict)  # instances of what served when it began
    queued_at: float | None = None  # waits for room on the cluster since; None: it does not
    closed: str = ""  # how the workflow said it ended (onExit)

    @property
    def running(self) -> OpRecord | None:
        return self.ops[-1] if self.ops and self.ops[-1].state is OpEnd.RUNNING else None

    @property
    def passed(self) -> tuple[str, ...]:
        """Verbs of the ops that passed, in order."""
        return tuple(op.verb for op in self.ops if op.state is OpEnd.PASSED)

    def op(self, name: str) -> OpRecord | None:
        return next((op for op in self.ops if op.name == name), None)

    @property
    def judged(self) -> bool:
        """Whether traffic moves from a live stable to a candidate, so that there is something to compare."""
        return bool(self.plan.candidate and self.start)


@dataclass(frozen=True, slots=True)
class RevisionState:
    """Everything needed to start a revision again without git, without the engine."""

    deployment: DeploymentTarget
    commit: str  # where its source can be read
    artifact: Artifact | None = None  # None: not built
    running: bool = False  # replicas are wanted
    smoked: bool = False
    known_good: bool = False  # finalized, not failed, not rolled away from since
    failed: str = ""  # why a rollout of it ended; empty: none did
    warm_until: float | None = None  # replaced: keeps running until then
    instances: int | None = None  # fewer than git asks for, for another needs the room; None: as asked
    asked_at: float = 0.0  # when git last asked for it: the oldest idle one is forgotten first


@dataclass(frozen=True, slots=True)
class Release:
    """A finalized target."""

    target: Target
    at: float


@dataclass(frozen=True, slots=True)
class Undo:
    """A revert in git that is owed. Traffic is back already."""

    op_key: str  # <workflow>/revert: the commit carries it, so that it is made once
    mode: str  # revert | revert-pr
    failed: Target  # whose files are restored ...
    good: Target | None  # ... to what they were here; None: the endpoint's first commit failed
    reason: str  # one line for the subject
    verdicts: tuple[Verdict, ...] = ()
    state: str = "wanted"  # wanted | done | refused
    result: str = ""  # commit or branch, once done; why not, when refused


@dataclass(frozen=True, slots=True)
class Head:
    """One endpoint's record. Written by compare-and-swap, by the controller only."""

    endpoint: str
    commit: str = ""  # the newest that was read for this endpoint
    asked: Target | None = None  # what git asks, when it could be read; None: nothing yet
    findings: tuple[Finding, ...] = ()  # of the newest commit; an error means `asked` is an older one
    traffic: Mapping[str, int] = field(default_factory=dict)  # decided: revision -> per-mille
    mirrors: tuple[Mirror, ...] = ()  # of a running mirror op
    revisions: Mapping[str, RevisionState] = field(default_factory=dict)
    releases: tuple[Release, ...] = ()  # newest last, at most KEPT_RELEASES
    rollout: Rollout | None = None  # running, or the last one
    attempts: tuple[tuple[str, int], ...] = ()  # (commit, its attempts), newest last: a workflow's name is used once
    switch: Target | None = None  # a known-good target waiting for its cold revisions
    undo: Undo | None = None
    stopping: tuple[str, ...] = ()  # workflows whose rollout is over and that still have to be stopped
    removing_since: float | None = None  # its folder is gone from git but it has traffic

    @property
    def active(self) -> Rollout | None:
        return self.rollout if self.rollout and self.rollout.state is State.RUNNING else None

    def instances(self, revision: str) -> int:
        """How many replicas of it there are to be while it runs."""
        state = self.revisions[revision]
        asked = self.asked.revisions if self.asked else {}
        whole = asked.get(revision, state.deployment).run.instance_count
        return whole if state.instances is None else min(whole, state.instances)

    @property
    def stable(self) -> Release | None:
        """The newest release that traffic still follows."""
        return self.releases[-1] if self.releases else None


KEPT_RELEASES = 10
KEPT_REVISIONS = 20


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an endpoint's history. Facts only; nothing is derived from it but history and traces."""

    at: float
    endpoint: str
    kind: str  # e.g. rollout.started, op.opened, op.ended, traffic.moved, verdict, revert.done, commit.rejected
    message: str
    rollout: str = ""
    op: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def kind_of(rollout: Rollout, op: OpRecord, traffic: Mapping[str, int]) -> str:
    """How an op is judged: mirror, step, or bake (nothing concurrent is left to compare); empty: not judged."""
    if not rollout.judged or not BY_VERB[op.verb].judged:
        return ""
    if op.verb == MIRROR:
        return MIRROR
    others = sum(share for revision, share in traffic.items() if revision != rollout.plan.candidate)
    return STEP if others else "bake"

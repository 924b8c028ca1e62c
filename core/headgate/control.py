"""The control API's messages, as data: router workers exchange, ops ask. One schema for both sides of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headgate.evidence import Batch, Verdict
from headgate.findings import Finding
from headgate.table import RouteTable

EXCHANGE_HOLD_S = 1.0  # the controller answers an exchange after this long even without news
TOKEN_ISSUER = "headgate"  # the claim `iss` of the tokens that the controller signs
LEASE_S = 3.0  # a worker not heard of for this long is lost: reported, not waited for


@dataclass(frozen=True, slots=True)
class Ack:
    generation: int
    hash: str


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """POST /exchange. `sequence` numbers the batches of one boot: a repeated one is received once."""

    worker: str  # stable name of the worker, e.g. router-0
    boot: str  # random per process start
    sequence: int  # 0: nothing sent yet
    acked: Ack | None  # None: serves no table
    batches: tuple[Batch, ...] = ()
    refused: tuple[str, ...] = ()  # why the last table offered was refused; empty: it was not
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class ExchangeReply:
    received: int  # highest sequence stored: the worker may forget it
    table: RouteTable | None = None  # None: nothing newer than acked


class OpState(StrEnum):
    DONE = "done"  # exit 0
    NO = "no"  # a policy said no: exit 3
    LATER = "later"  # not now, try again: exit 75
    WAIT = "wait"  # still running: ask again at once (long poll)
    WORK = "work"  # the op must do the work itself (build), then report


@dataclass(frozen=True, slots=True)
class OpRequest:
    """POST /ops/{verb}. The same op_key with other arguments is refused."""

    op_key: str  # <workflow>/<op>
    endpoint: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 20.0
    result: Mapping[str, Any] | None = None  # build only: what the op made, or why it failed


@dataclass(frozen=True, slots=True)
class OpReply:
    state: OpState
    message: str = ""
    work: Mapping[str, Any] | None = None  # with WORK: what to do


# What people and programs read: `headgate status`, `rollout get`, the demo's table. JSON keys are these names.


@dataclass(frozen=True, slots=True)
class RevisionStatus:
    revision: str
    deployment: str
    role: str  # stable | candidate | warm | idle
    per_mille: int  # asked of the routers
    mirror_per_mille: int
    observed: float | None  # share of live requests counted in the last minute; None: none came
    ready: int  # replicas
    instances: int  # replicas asked for
    known_good: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class OpStatus:
    name: str
    state: str  # waiting | running | passed | failed | stopped
    percent: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    message: str = ""
    verdicts: tuple[Verdict, ...] = ()  # the last of each gate


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    id: str  # the workflow's name
    endpoint: str
    commit: str
    attempt: int
    state: str  # running | paused | succeeded | failed | aborted | superseded
    candidate: str
    started_at: float
    ended_at: float | None
    message: str
    ops: tuple[OpStatus, ...]
    reverted_by: str = ""  # the bot's commit, or the branch it went to
    plan_hash: str = ""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    name: str
    url: str  # where callers POST
    state: str  # Healthy | Progressing | Mirroring | Paused | Degraded | RolledBack | Drained | Removing | Pending
    sync: str  # Synced | OutOfSync | Rejected
    commit: str  # the last commit that asked for its target
    generation: int  # of its route
    acked: int  # generation that all leased router workers serve
    message: str
    revisions: tuple[RevisionStatus, ...]
    rollout: RolloutStatus | None  # running, or the last one
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Reached:
    """GET /commits/COMMIT."""

    commit: str
    reached: bool  # it was acted on, by itself or under a newer one
    version: str  # the controller's


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    worker: str
    boot: str
    acked: int
    age_s: float  # since it was last heard of
    in_flight: int
    lost: bool
    waited: bool = True  # nothing is acked by all before it acks it; a lost one is when it is known to run


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One revision in the table that routers serve by."""

    endpoint: str
    deployment: str
    revision: str
    generation: int  # of its endpoint's route
    per_mille: int  # of live traffic, as asked
    requests: int  # live ones counted in the last minute, those that chose it by header among them
    observed: float | None  # share of its endpoint's requests in the last minute; None: none came
    mirror: str  # `compare 20 %`; empty: no copies go there
    replicas: str  # how many the table lists, or the service that routers follow
    auth_mode: str
    sticky: str


@dataclass(frozen=True, slots=True)
class TableStatus:
    """GET /routes."""

    generation: int
    hash: str
    commit: str
    acked: int  # generation that all leased router workers serve
    routes: tuple[RouteStatus, ...]
    workers: tuple[WorkerStatus, ...]


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """GET /status."""

    version: str
    repo: str
    branch: str
    commit: str  # newest seen on the branch
    handled: str  # newest acted on
    repo_error: str  # why the repo cannot be read; empty: it can
    endpoints: tuple[EndpointStatus, ...]
    workers: tuple[WorkerStatus, ...]
    findings: tuple[Finding, ...] = ()
    drift: tuple[str, ...] = ()  # where git, record, table and counters disagree


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """Body of POST /endpoints/NAME/{pause,resume,promote,abort,rollback,approve,reject}. Recorded with who and why."""

    who: str
    why: str = ""
    to: str = ""  # rollback: a revision or commit; empty: the last known-good
    git_only: bool = False  # rollback: only the commit, traffic follows from it
    full: bool = False  # promote: skip the remaining soaks, not the gates of the running step
    gate: str = ""  # approve, reject: which gate; empty: the one that waits for a person


# Verdicts: `headgate verdict`.


@dataclass(frozen=True, slots=True)
class VerdictStatus:
    """One verdict that the record keeps: the last of its gate in its op."""

    id: str  # <rollout>/<op>/<gate>
    endpoint: str
    rollout: str
    op: str
    at: float | None  # when its op ended; None: it runs
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Point:
    """What a gate said after so many looks."""

    looks: int
    at: float  # of the last of them, seconds since the epoch
    result: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class VerdictReport:
    """GET /verdicts/ID: a verdict and how it came about."""

    status: VerdictStatus
    kept: int  # looks of its op in the record; fewer than the verdict's: collected
    course: tuple[Point, ...] = ()  # at most some dozens, the last is the verdict itself; empty: no looks are kept


@dataclass(frozen=True, slots=True)
class Replay:
    """GET /replays/ID: the verdict computed again from the evidence that is kept."""

    id: str
    same: bool  # byte for byte
    looks: int
    recorded: Verdict
    recomputed: Verdict
    differences: tuple[str, ...] = ()  # `figures.candidate_rate: 0.004 was recorded, now 0.005`

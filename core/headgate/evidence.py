"""What routers saw, as data: outcome counts, latency histograms, pairs of answers; and what a gate says of it.

A `Batch` is what one router worker sends in one exchange for one endpoint. A `Look` is the same batch as a gate sees
it: who is the candidate, who the stable. Counts are additive, so that batches merge by addition in any order.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

# Upper bound of latency bucket i: FIRST_MS * GROWTH**i. 5 % wide: a quantile read from the histogram is within 2.5 %,
# and 300 buckets reach past ten minutes.
FIRST_BUCKET_MS = 0.1
BUCKET_GROWTH = 1.05
LAST_BUCKET = 350
# Of every bucket but the last, by a hair more: a bound that was computed otherwise is still within its own bucket.
BUCKET_ENDS = tuple(FIRST_BUCKET_MS * BUCKET_GROWTH ** (index + 1e-9) for index in range(LAST_BUCKET))

K = TypeVar("K")


def bucket(ms: float) -> int:
    """The index of the latency bucket that holds `ms`; 0 to `LAST_BUCKET`."""
    return bisect_left(BUCKET_ENDS, ms)


def bucket_ms(index: int) -> float:
    """The upper bound of a bucket, in milliseconds."""
    return FIRST_BUCKET_MS * BUCKET_GROWTH**index


# Of an event stream, in milliseconds: to its first event, the longest gap between two, the mean between two.
STREAM_TIMES = ("first_event", "gap", "pace")
SIZE_CLASSES = 8  # of requests, by the bytes of their body
SIZE_ENDS = tuple(1024 * 4**index for index in range(SIZE_CLASSES - 1))  # of every class but the last, in bytes


def size_class(size: int) -> int:
    """0: at most 1 KiB, then four times as much each; the last holds all that is larger (4 MiB)."""
    return bisect_left(SIZE_ENDS, size)


def size_limit(index: int) -> int | None:
    """The most bytes of a class; None: the last has no end."""
    return SIZE_ENDS[index] if index < SIZE_CLASSES - 1 else None


class Outcome(StrEnum):
    OK = "ok"
    MODEL_ERROR = "model_error"  # the model answered other than 2xx (the caller got 424)
    TIMEOUT = "timeout"  # longer than request_timeout_ms (408)
    REFUSED = "refused"  # no replica took it: connection refused or reset, queue full (429, 503)
    TRUNCATED = "truncated"  # the answer broke off after its head was out
    CLIENT_GONE = "client_gone"  # the caller left first; says nothing about the model


# What counts against a revision. A caller who left is nobody's failure.
FAILURES = (Outcome.MODEL_ERROR, Outcome.TIMEOUT, Outcome.REFUSED, Outcome.TRUNCATED)


@dataclass(frozen=True, slots=True)
class Counts:
    """One revision in one batch."""

    outcomes: Mapping[str, int] = field(default_factory=dict)  # Outcome -> requests
    latency: Mapping[int, int] = field(default_factory=dict)  # bucket -> requests that got a whole answer or timed out
    first_byte: Mapping[int, int] = field(default_factory=dict)  # bucket -> requests, to the answer's first byte
    sizes: Mapping[int, Mapping[int, int]] = field(default_factory=dict)  # size class -> its part of `latency`
    streams: Mapping[str, Mapping[int, int]] = field(default_factory=dict)  # of STREAM_TIMES -> bucket -> event streams
    finishes: Mapping[str, int] = field(default_factory=dict)  # how an event stream ended -> streams; `broken`: cut off

    @property
    def requests(self) -> int:
        """Requests that say something about the model: all but those whose caller left."""
        return sum(self.outcomes.values()) - self.outcomes.get(Outcome.CLIENT_GONE, 0)

    @property
    def failures(self) -> int:
        return sum(self.outcomes.get(outcome, 0) for outcome in FAILURES)

    def slower_than(self, ms: float) -> int:
        """Requests in buckets that lie wholly above `ms`."""
        return self.above(bucket(ms))

    def above(self, limit: int) -> int:
        """Requests in buckets beyond this one."""
        return sum([n for index, n in self.latency.items() if index > limit])

    def quantile_ms(self, q: float) -> float | None:
        """Upper bound of the bucket that holds the q-quantile; None without a measured request."""
        total = sum(self.latency.values())
        if not total:
            return None
        rank = math.ceil(q * total)
        seen = 0
        for index in sorted(self.latency):
            seen += self.latency[index]
            if seen >= rank:
                return bucket_ms(index)
        return None


NOTHING = Counts()


def add(parts: Sequence[Counts]) -> Counts:
    if len(parts) == 1:
        return parts[0]
    return Counts(
        _summed([part.outcomes for part in parts]),
        _summed([part.latency for part in parts]),
        _summed([part.first_byte for part in parts]),
        _nested([part.sizes for part in parts]),
        _nested([part.streams for part in parts]),
        _summed([part.finishes for part in parts]),
    )


def _nested(parts: Sequence[Mapping[K, Mapping[int, int]]]) -> dict[K, dict[int, int]]:
    keys = {key for part in parts for key in part}
    return {key: _summed([part[key] for part in parts if key in part]) for key in sorted(keys, key=str)}


def _summed(parts: Sequence[Mapping[K, int]]) -> dict[K, int]:
    totals: dict[K, int] = dict(parts[0]) if parts else {}
    for part in parts[1:]:
        for key, n in part.items():
            totals[key] = totals.get(key, 0) + n
    return totals


@dataclass(frozen=True, slots=True)
class Answer:
    revision: str
    status: int
    media_type: str
    body: str  # UTF-8 text, cut at the router's cap; redacted by the endpoint's rule before it leaves the router
    cut: bool = False  # the body was longer than the cap, or not UTF-8: its text is not comparable
    digest: str = ""  # sha256 of a body that is whole and not UTF-8; empty: it is a text, or was cut


class PairKind(StrEnum):
    COMPARE = "compare"  # stable's live answer, candidate's mirrored answer
    ECHO = "echo"  # stable's live answer, stable's answer to a copy: what differs here is noise


@dataclass(frozen=True, slots=True)
class Pair:
    kind: PairKind
    request_id: str
    live: Answer
    copy: Answer


@dataclass(frozen=True, slots=True)
class Batch:
    """What one router worker saw for one endpoint under one generation since its last batch."""

    endpoint: str
    generation: int  # of the endpoint's route that chose the revision, not of the table it came in
    seconds: float  # how long the worker collected
    live: Mapping[str, Counts] = field(default_factory=dict)  # revision -> counts
    mirrored: Mapping[str, Counts] = field(default_factory=dict)  # revision -> counts of compare copies
    pairs: tuple[Pair, ...] = ()  # a bounded sample
    dropped: Mapping[str, int] = field(default_factory=dict)  # why a copy was not sent or not paired -> how many
    chosen: Mapping[str, int] = field(default_factory=dict)  # revision -> live requests whose caller chose it by header
    statuses: Mapping[str, int] = field(default_factory=dict)  # status we answered -> requests, unrouted ones included


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person said of the running op."""

    gate: str  # the gate's name in rollout.yml
    approved: bool  # False: rejected
    who: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a source outside of the routers answered, once, for one arm; or why it did not."""

    source: str  # its name in headgate.yml
    query: str  # as the gate wrote it
    arm: str  # candidate | stable
    value: float | None  # finite; None: `problem` says why
    problem: str = ""  # one of PROBLEMS
    said: str = ""  # for a person: what the source answered, cut


# Why a sample has no value: what was asked for does not exist (`empty`), is no finite number, is of too long ago, is
# more than one value; or the source did not answer in time, not at all, or not as its kind does.
PROBLEMS = ("empty", "nan", "infinite", "stale", "many", "timeout", "unreachable", "refused")


# A source that is always there: what headgate.yml and the deployment say of an arm's replicas, as samples. One replica
# takes `at_once` requests; a price or GPUs that are not declared are 0.
INSTANCE = "headgate:instance"
INSTANCE_FACTS = ("at_once", "gpus", "price_per_hour")


@dataclass(frozen=True, slots=True)
class Look:
    """One batch with its roles: what a gate judges. `candidate` and `stable` are concurrent.

    What a person said, or a source answered, is a look of its own without counts.
    """

    phase: str  # mirror | step | bake
    generation: int
    at: float  # seconds since the epoch, when the controller received it
    seconds: float
    candidate: Counts = NOTHING  # mirror: answers to copies; step, bake: live
    stable: Counts = NOTHING  # live; empty at bake
    reference: Counts = NOTHING  # bake only: the stable's counts of all ops before
    pairs: tuple[Pair, ...] = ()  # compare and echo
    approvals: tuple[Approval, ...] = ()
    samples: tuple[Sample, ...] = ()


class Result(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"  # not enough to say: holds
    ERROR = "error"  # the gate itself broke: holds, counted apart


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which two answers differ, with an example."""

    path: str  # JSON path, e.g. $.predictions[0]; `$` for the whole
    kind: str  # number | type | missing | extra | text | status | ...
    share: float  # of comparable pairs, 0 to 1
    stable: str  # example value as text, cut
    candidate: str
    effect: str = ""  # how much, e.g. `-98.7 % on average`
    more: tuple[tuple[str, str], ...] = ()  # further examples, of other requests: stable, candidate


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says, with everything needed to say it again. Numbers carry 9 significant digits."""

    gate: str  # its name in rollout.yml, e.g. latency-p99
    version: str
    phase: str  # op name: mirror, step-5, bake ...
    parameters: Mapping[str, Any]
    alpha: float  # this gate's share of false_abort
    result: Result
    explanation: str  # one or two plain sentences with the numbers
    figures: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""  # inconclusive: what would decide it, e.g. `about 190 more candidate requests`
    differences: tuple[Difference, ...] = ()
    looks: int = 0
    evidence: str = ""  # digest of the looks judged


@dataclass(frozen=True, slots=True)
class Need:
    """What a gate wants collected."""

    kind: str  # counts | events | pairs | echo | approval | sample
    phases: tuple[str, ...]  # of mirror, step, bake: where it judges
    source: str = ""  # sample: a source of headgate.yml
    query: str = ""  # sample: what to ask it, with $revision, $endpoint, $deployment of the arm
    arms: tuple[str, ...] = ()  # sample: of candidate, stable
    every_s: float = 15.0  # sample: how often
    max_age_s: float = 300.0  # sample: a value of longer ago is stale


@dataclass(frozen=True, slots=True)
class Traffic:
    """Expected traffic, for a forecast: what a plan may promise before a rollout starts."""

    requests_per_s: float
    error_rate: float = 0.005


@dataclass(frozen=True, slots=True)
class Detection:
    """What a gate can find: `effect` is found within `requests` candidate requests with probability `power`."""

    effect: str
    requests: int
    power: float
    passes: int = 0  # candidate requests within which an equal one passes, with the same probability; 0: not said


def significant(value: float, digits: int = 9) -> float:
    """Rounded to significant digits, so that a figure is the same bytes on every machine."""
    return float(f"{value:.{digits}g}")

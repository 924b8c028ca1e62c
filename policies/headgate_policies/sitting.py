"""What every gate of ours is inside: a sitting that hears looks one by one and can give its verdict after each.

A verdict over n looks is what a sitting says after hearing them in order, so a controller may keep the sitting and
pay for each look once. Broken evidence (negative, NaN, unknown buckets) ends in `error`, never in a pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headgate.codec import to_data
from headgate.evidence import LAST_BUCKET, NOTHING, Counts, Difference, Look, Result, Verdict, significant
from headgate_policies.seconds import WINDOW_S
from headgate_policies.wording import MANY, duration, more

ENOUGH_S = 5.0  # a rate over less says nothing


@dataclass(frozen=True, slots=True)
class Opinion:
    """A verdict without its letterhead."""

    result: Result
    explanation: str
    figures: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""
    differences: tuple[Difference, ...] = ()


class Sitting(ABC):
    """One gate, one phase."""

    def __init__(self, gate: str, version: str, params: Any, alpha: float) -> None:
        self._gate, self._version, self._alpha = gate, version, alpha
        self._parameters = to_data(params)
        self._looks = 0
        self._phase = ""
        self._fault = ""
        self._first_at, self._last_at = math.inf, -math.inf  # what the looks span, seconds since the epoch
        self._since = math.inf  # when the second began that the last look belongs to
        self._fresh = True  # whether the look being taken begins another second

    def hear(self, looks: Iterable[Look]) -> Sitting:
        """Takes looks in the order of time. After a broken one nothing more is taken: its verdict stays an error."""
        return self.take((look, broken(look)) for look in looks)

    def take(self, looks: Iterable[tuple[Look, str]]) -> Sitting:
        """The same, each look with what is wrong with it: who asks several gates looks once."""
        for look, fault in looks:
            self._looks += 1
            self._phase = look.phase
            self._fault = self._fault or fault
            if not self._fault:
                at = look.at
                if at - look.seconds < self._first_at:
                    self._first_at = at - look.seconds
                if at > self._last_at:
                    self._last_at = at
                self._fresh = not self._since < at < self._since + WINDOW_S
                if self._fresh:
                    self._since = at
                self._take(look)
        return self

    def result(self) -> Result:
        """What the verdict would say, without its words: asked after every look."""
        found = self._result()
        return Result.ERROR if self._fault and found is not Result.FAIL else found

    def verdict(self) -> Verdict:
        opinion = self._opinion()
        if self._fault and opinion.result is not Result.FAIL:  # a failure that was found before stays found
            opinion = Opinion(Result.ERROR, f"the evidence cannot be right: {self._fault}")
        return Verdict(
            gate=self._gate,
            version=self._version,
            phase=self._phase,
            parameters=self._parameters,
            alpha=significant(self._alpha),
            result=opinion.result,
            explanation=opinion.explanation,
            figures={name: significant(value) for name, value in sorted(opinion.figures.items())},
            missing=opinion.missing,
            differences=opinion.differences,
            looks=self._looks,
        )

    def _more(self, count: int | None, seen: int, what: str = "candidate requests") -> str:
        """What is still missing, and how long that takes at the rate of the `seen` so far."""
        said, span = more(count, what), self._last_at - self._first_at
        if count is None or count > MANY or seen < 2 or not ENOUGH_S <= span < math.inf:
            return said
        # From the first to the last of them: n requests are n - 1 intervals, which matters when there are few.
        return f"{said}; at this rate {duration(count * span / (seen - 1))}"

    @abstractmethod
    def _take(self, look: Look) -> None: ...

    def _result(self) -> Result:
        """Of the opinion; for a sitting that can tell it with less work, to replace."""
        return self._opinion().result

    @abstractmethod
    def _opinion(self) -> Opinion: ...


def broken(look: Look) -> str:
    """Why a look cannot be evidence; empty: it can."""
    if not (math.isfinite(look.at) and math.isfinite(look.seconds) and look.seconds >= 0):
        return f"time {look.at}, duration {look.seconds} s"
    for role, counts in (("candidate", look.candidate), ("stable", look.stable), ("reference", look.reference)):
        for name, found in _named(counts):
            bad = _bad(found, buckets=name not in ("outcomes", "finishes"))
            if bad:
                return f"{role} {name} {bad}"
    odd = [s for s in look.samples if s.value is not None and not math.isfinite(s.value)]
    return f"a sample of {odd[0].source} is {odd[0].value}" if odd else ""


def _named(counts: Counts) -> tuple[tuple[str, Mapping[Any, int]], ...]:
    if counts is NOTHING:
        return ()
    sizes = tuple((f"size class {index}", found) for index, found in counts.sizes.items())
    streams = tuple((f"stream {name}", found) for name, found in counts.streams.items())
    named = (("outcomes", counts.outcomes), ("finishes", counts.finishes), ("latency", counts.latency))
    return (*named, ("first_byte", counts.first_byte), *sizes, *streams)


def _bad(counts: Mapping[Any, Any], *, buckets: bool) -> str:
    if not counts or (_whole(counts.values()) and min(counts.values()) >= 0 and not (buckets and _beyond(counts))):
        return ""
    return _worst(counts, buckets=buckets)


def _whole(numbers: Iterable[Any]) -> bool:
    return {*map(type, numbers)} == {int}


def _beyond(keys: Collection[Any]) -> bool:
    return not (_whole(keys) and min(keys) >= 0 and max(keys) <= LAST_BUCKET)


def _worst(counts: Mapping[Any, Any], *, buckets: bool) -> str:
    """The first fault in an order of its own, so that the same evidence has the same words."""
    for key, n in sorted(counts.items(), key=str):
        if type(n) is not int or n < 0:
            return f"{key}: {n!r}"
        if buckets and not (type(key) is int and 0 <= key <= LAST_BUCKET):
            return f"has no bucket {key!r}"
    return ""


def judged(sitting: Sitting, looks: Sequence[Look]) -> Verdict:
    return sitting.hear(looks).verdict()

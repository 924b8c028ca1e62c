"""What 1,000 requests cost on the candidate, against the stable beside it: in money, GPU-seconds, or replica-seconds.

    gates:
      cost: {max_increase: 20%}                 # fails beyond
      cost: {max_increase: 20%, on_increase: warn}

A request takes its replica for as long as it is answered, shared with the others that the replica takes at once:
seconds / max_concurrent_requests_per_instance, times the GPUs, or the price, of the instance type. That is what the
traffic *needs*, not what is provisioned for it: a candidate at 5 % has a whole replica for a few requests.

Means are compared, not quantiles, when there were `min_requests`, and each time they have doubled. Steps only: copies
wait behind live requests, and at the bake nothing concurrent is left (`max` judges there).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headgate.evidence import (
    BUCKET_GROWTH,
    INSTANCE,
    INSTANCE_FACTS,
    Counts,
    Detection,
    Look,
    Need,
    Result,
    Sample,
    Traffic,
    Verdict,
    bucket_ms,
)
from headgate.params import count, number, share
from headgate_policies.means import (
    LEAST_SECONDS,
    Mean,
    Ratio,
    Second,
    estimate,
    look_level,
    ratio,
    requests_for,
    without_the_dearest,
)
from headgate_policies.sitting import Opinion, Sitting, judged
from headgate_policies.wording import percent

FACTS_EVERY_S = 60.0  # run settings may change under a rollout
UNITS = {"price": "(by price_per_hour)", "gpu": "GPU-seconds", "replica": "replica-seconds"}
UNKNOWN = {
    "price": "`price_per_hour` of the instance types of both, in headgate.yml",
    "gpu": "`gpus` of the instance types of both, in headgate.yml",
}
ARMS = ("candidate", "stable")
TAIL = 0.025  # of the interval that is shown, on each side


@dataclass(frozen=True, slots=True)
class CostParams:
    max_increase: float = share(0.2, low=0.0, high=100.0)  # of the stable's
    max: float | None = number(None, low=1e-9)  # per 1,000 requests, in the unit of `by`; judged at the bake too
    by: str = "auto"  # price | gpu | replica; auto: the first of them that headgate.yml knows of both
    on_increase: str = "fail"  # or warn: then it says so, and passes
    min_requests: int = count(500, low=100)  # of each arm: below, means say little
    warmup_requests: int = count(20)  # first candidate requests that are not judged: caches and pools are cold
    confidence: float = share(0.95, low=0.5, high=0.999999)  # that a pass is right

    def __post_init__(self) -> None:
        if self.by not in ("auto", *UNITS):
            raise ValueError(f"by is `{self.by}`: write auto, {', '.join(UNITS)}")
        if self.on_increase not in ("fail", "warn"):
            raise ValueError(f"on_increase is `{self.on_increase}`: write fail or warn")
        if self.max is not None and self.by == "auto":
            raise ValueError(f"`max` needs a unit: write `by`, one of {', '.join(UNITS)}")


class Cost:
    version = "1"
    params = CostParams

    def needs(self, params: CostParams) -> Sequence[Need]:
        phases = ("step",) if params.max is None else ("step", "bake")
        facts = [Need("sample", phases, INSTANCE, fact, ARMS, FACTS_EVERY_S) for fact in INSTANCE_FACTS]
        return (Need("counts", phases), *facts)

    def judge(self, params: CostParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: CostParams, alpha: float) -> Sitting:
        return _CostSitting(params, alpha)

    def power(self, params: CostParams, traffic: Traffic, alpha: float) -> Detection | None:
        if params.on_increase == "warn":
            return None
        rise = params.max_increase + max(params.max_increase, 0.1)
        wanted = requests_for(
            1 + rise, 1 + params.max_increase, look_level(alpha if params.max is None else alpha / 2, 0)
        )
        return Detection(f"a cost {percent(rise)} higher", max(wanted, params.min_requests), 0.95)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a second of a busy request costs, of each arm; more than 0."""

    by: str
    factor: Mapping[str, float]


Seconds = Mapping[str, Sequence[Second]]
Question = tuple[Ratio, float]  # what the candidate costs of something, and how much it may


class _CostSitting(Sitting):
    def __init__(self, params: CostParams, alpha: float) -> None:
        super().__init__("cost", Cost.version, params, alpha)
        self._own = params
        self._facts: dict[tuple[str, str], float] = {}  # (arm, fact) -> the newest value
        self._arms = {arm: Mean() for arm in ARMS}
        self._skipped = 0
        self._looked = 0
        self._next = params.min_requests  # candidate requests at which it looks again
        self._said: Opinion | None = None
        self._failed: Opinion | None = None

    def _take(self, look: Look) -> None:
        for sample in sorted(look.samples, key=_order):
            if sample.source == INSTANCE and sample.value is not None:
                self._facts[sample.arm, sample.query] = sample.value
        self._hear(look)
        arms = ARMS[:1] if look.phase == "bake" else ARMS
        due = self._arms["candidate"].requests >= self._next
        if self._failed is None and due and not self._missing(arms):
            self._look(arms)

    def _hear(self, look: Look) -> None:
        measured = sum(look.candidate.latency.values())
        if self._skipped < self._own.warmup_requests:
            self._skipped += measured
            return
        for arm, counts in (("candidate", look.candidate), ("stable", look.stable)):
            self._arms[arm].add(sum(counts.latency.values()), busy_s(counts), self._fresh)

    def _missing(self, arms: Sequence[str]) -> str:
        """What keeps it from looking; empty: nothing."""
        if _known(self._own.by, self._facts, arms) is None:
            told = all((arm, "at_once") in self._facts for arm in arms)
            return (
                UNKNOWN.get(self._own.by, "") if told else "what an instance costs: the controller has not said it yet"
            )
        for arm in arms:
            short = max(self._own.min_requests, self._next if arm == "candidate" else 0) - self._arms[arm].requests
            if short > 0:
                return self._more(short, self._arms[arm].requests, f"{arm} requests")
            if len(self._arms[arm].seconds) < LEAST_SECONDS:
                return f"{arm} requests in {LEAST_SECONDS} different seconds at least"
        return ""

    def _look(self, arms: Sequence[str]) -> None:
        known = _known(self._own.by, self._facts, arms)
        seconds = {arm: self._arms[arm].seconds for arm in arms}
        calm = {**seconds, "candidate": without_the_dearest(seconds["candidate"])}
        if known is None or not (asked := self._questions(known, seconds)):
            return
        fails = look_level(self._alpha / len(asked), self._looked)
        passes = look_level(1 - self._own.confidence, self._looked)
        steady = self._questions(known, calm)
        failed = [
            name
            for name, (found, limit) in asked.items()
            if found.low(fails) > limit and name in steady and steady[name][0].low(fails) > limit
        ]
        passed = all(found.high(passes) < limit for found, limit in asked.values())
        self._looked += 1
        self._next = 2 * self._arms["candidate"].requests
        said, figures = self._words(known, seconds, asked), self._figures(known, seconds, asked)
        self._said = self._answer(failed, said, figures, passed=passed)
        self._failed = self._said if self._said.result is Result.FAIL else None

    def _questions(self, known: _Known, seconds: Seconds) -> dict[str, Question]:
        """Against the stable, and against the ceiling; empty: too few seconds to say."""
        ours = estimate(seconds["candidate"])
        found: dict[str, Question] = {}
        if ours is not None and self._own.max is not None:
            found["max"] = (Ratio(1000 * ours.mean * known.factor["candidate"] / self._own.max, ours.error), 1.0)
        if ours is not None and "stable" in seconds:
            against = ratio(seconds["candidate"], seconds["stable"])
            if against is None:
                return {}
            scale = known.factor["candidate"] / known.factor["stable"]
            found["stable"] = (Ratio(against.value * scale, against.error), 1 + self._own.max_increase)
        return found

    def _answer(self, failed: Sequence[str], said: str, figures: Mapping[str, float], *, passed: bool) -> Opinion:
        if failed and self._own.on_increase == "warn":
            return Opinion(Result.PASS, f"a warning, as declared: {said}", figures)
        if failed:
            return Opinion(Result.FAIL, said, figures)
        if passed:
            return Opinion(Result.PASS, f"{said}; more is ruled out ({percent(self._own.confidence)} sure)", figures)
        if self._own.on_increase == "warn":
            return Opinion(Result.PASS, f"{said}; whether it is more than tolerated cannot be told yet", figures)
        return Opinion(Result.INCONCLUSIVE, f"{said}; not enough to say", figures)

    def _opinion(self) -> Opinion:
        if self._failed is not None:
            return self._failed
        arms = ARMS[:1] if self._phase == "bake" else ARMS
        if self._said is None:
            n = self._arms["candidate"].requests
            return Opinion(Result.INCONCLUSIVE, f"{n:,} candidate requests were measured", missing=self._missing(arms))
        if self._said.result is Result.INCONCLUSIVE:
            short = self._next - self._arms["candidate"].requests
            missing = self._more(short, self._arms["candidate"].requests)
            return Opinion(Result.INCONCLUSIVE, self._said.explanation, self._said.figures, missing)
        return self._said

    def _words(self, known: _Known, seconds: Seconds, asked: Mapping[str, Question]) -> str:
        figures = self._figures(known, seconds, asked)
        said = f"1,000 requests take {figures['candidate_cost']:.3g} {UNITS[known.by]}"
        if "stable" in asked:
            found, limit = asked["stable"]
            said += (
                f", the stable's {figures['stable_cost']:.3g}: {_change(found.value)} ({_change(found.low(TAIL))} to "
                f"{_change(found.high(TAIL))}), tolerated {_change(limit)}"
            )
        if self._own.max is not None:
            said += f", at most {self._own.max:g} may be"
        if "requests_per_s" in figures:
            said += (
                f"; all {figures['requests_per_s']:.3g} requests a second keep {figures['candidate_busy']:.3g} "
                f"replicas busy, with the stable {figures['stable_busy']:.3g}"
            )
        return said

    def _figures(self, known: _Known, seconds: Seconds, asked: Mapping[str, Question]) -> dict[str, float]:
        found: dict[str, float] = {}
        means = {arm: estimate(of) for arm, of in seconds.items()}
        for arm, mean in means.items():
            found[f"{arm}_requests"] = float(self._arms[arm].requests)
            if mean is not None:
                found[f"{arm}_cost"] = 1000 * mean.mean * known.factor[arm]
        if "stable" in asked:
            found["ratio"], found["ratio_error"] = asked["stable"][0].value, asked["stable"][0].error
        span = self._last_at - self._first_at
        if len(means) == len(ARMS) and span > 0:
            rate = sum(self._arms[arm].requests for arm in ARMS) / span
            found["requests_per_s"] = rate
            for arm, mean in means.items():
                found[f"{arm}_busy"] = rate * mean.mean / self._facts[arm, "at_once"] if mean is not None else 0.0
        return found


def busy_s(counts: Counts) -> float:
    """What all measured requests took together, in seconds: each the middle of its bucket."""
    return math.fsum(n * bucket_ms(index) / math.sqrt(BUCKET_GROWTH) for index, n in counts.latency.items()) / 1000


def _known(by: str, facts: Mapping[tuple[str, str], float], arms: Sequence[str]) -> _Known | None:
    """None: the controller has not said it, or headgate.yml does not know it of each arm."""
    for unit in UNITS if by == "auto" else (by,):
        factor = {arm: _factor(unit, {fact: facts.get((arm, fact), 0.0) for fact in INSTANCE_FACTS}) for arm in arms}
        if all(value > 0 for value in factor.values()):
            return _Known(unit, factor)
    return None


def _factor(unit: str, fact: Mapping[str, float]) -> float:
    """Of one second of one request: a replica is shared by as many as it takes at once."""
    if fact["at_once"] <= 0:
        return 0.0
    whole = {"price": fact["price_per_hour"] / 3600, "gpu": fact["gpus"], "replica": 1.0}
    return whole[unit] / fact["at_once"]


def _change(value: float) -> str:
    """`+26 %` of a ratio of 1.26."""
    return f"{(value - 1) * 100:+,.3g} %"


def _order(sample: Sample) -> tuple[str, str, float]:
    return sample.arm, sample.query, sample.value or 0.0


gate = Cost()

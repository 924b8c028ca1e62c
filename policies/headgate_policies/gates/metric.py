"""A number that somebody else measures: PromQL, or what a web hook answers. `metric-NAME` is one more of them.

    gates:
      metric-gpu: {source: prometheus, query: 'avg(gpu_utilization{revision="$revision"})', max: 0.95}
      metric-queue: {source: prometheus, query: 'avg(queue_length{revision="$revision"})', max_ratio: 1.5}

Each answer is held against the limits: it is good, bad, or no value at all. `failures` bad ones in a row fail,
`passes` good ones in a row pass; what has no value never passes, breaks a row of good ones, and holds as declared.
A rule, not a sequential test: its false alarms are those of limits and numbers, and not bounded by `false_abort`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headgate.evidence import Detection, Look, Need, Result, Sample, Traffic, Verdict
from headgate.params import Fault, count, number, phases, seconds, source
from headgate_policies.sitting import Opinion, Sitting, judged

HOLDS = {"inconclusive": Result.INCONCLUSIVE, "error": Result.ERROR}
NO_ANSWER = ("timeout", "unreachable", "refused")  # the source is in trouble; the other problems are the value's
WORDS = {
    "empty": "nothing matches the query",
    "nan": "not a number",
    "infinite": "infinite",
    "stale": "too old",
    "many": "more than one value",
    "timeout": "no answer in time",
    "unreachable": "not reached",
    "refused": "refused",
    "zero": "the stable's is zero or below, a ratio says nothing",
}


@dataclass(frozen=True, slots=True)
class MetricParams:
    source: str = source("prometheus")  # a name below `metrics:` in headgate.yml
    query: str = ""  # with $endpoint, $deployment and $revision
    max: float | None = number(None)  # the candidate's value at most
    min: float | None = number(None)  # and at least
    max_ratio: float | None = number(None, low=0.0)  # of the stable's answer to the same query; 1.2: 20 % more
    max_increase: float | None = number(None)  # more than the stable's, in the unit of the value
    passes: int = count(5, low=1)  # good answers in a row
    failures: int = count(3, low=1)  # bad answers in a row
    every: float = seconds(15.0, low=1.0, high=3_600.0)
    max_age: float = seconds(300.0, low=1.0)  # older values are none
    no_value: str = "inconclusive"  # empty, NaN, infinite, stale: inconclusive or error
    no_answer: str = "error"  # time-out, not reached, refused: inconclusive or error
    phases: tuple[str, ...] = phases()
    label: str = ""  # what follows `metric-` in its name

    def __post_init__(self) -> None:
        for key in ("no_value", "no_answer"):
            if getattr(self, key) not in HOLDS:
                raise ValueError(f"{key} is `{getattr(self, key)}`: write inconclusive or error, never pass")

    def faults(self) -> Sequence[Fault]:
        """What keeps it from ever judging."""
        found = [] if self.query.strip() else [Fault("query", "`query` is missing", fix="write what to ask the source")]
        if not self.absolute and not self.relative:
            found.append(Fault("", "there is no limit", fix="write max, min, max_ratio or max_increase"))
        return found

    @property
    def absolute(self) -> bool:
        return self.max is not None or self.min is not None

    @property
    def relative(self) -> bool:
        return self.max_ratio is not None or self.max_increase is not None


class Metric:
    version = "1"
    params = MetricParams

    def needs(self, params: MetricParams) -> Sequence[Need]:
        """At the bake the stable has no traffic: there only `max` and `min` can judge."""
        where = (
            params.phases if params.absolute or not params.relative else tuple(p for p in params.phases if p != "bake")
        )
        arms = ("candidate", "stable") if params.relative else ("candidate",)
        return (Need("sample", where, params.source, params.query, arms, params.every, params.max_age),)

    def judge(self, params: MetricParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: MetricParams, alpha: float) -> Sitting:
        return _MetricSitting(params, alpha)

    def power(self, params: MetricParams, traffic: Traffic, alpha: float) -> Detection | None:
        return None  # how the number varies is not known beforehand


class _MetricSitting(Sitting):
    def __init__(self, params: MetricParams, alpha: float) -> None:
        super().__init__("metric", Metric.version, params, alpha)
        self._own = params
        self._good = self._bad = self._answers = self._without = 0  # the first two in a row
        self._last = ""  # what the newest answer was, in words
        self._problem = ""  # of the newest answer; empty: it had a value
        self._values: dict[str, float] = {}
        self._failed: Opinion | None = None

    def _take(self, look: Look) -> None:
        arms: dict[str, Sample] = {}
        for sample in sorted(look.samples, key=lambda s: (s.arm, s.problem, s.value or 0.0)):
            if (sample.source, sample.query) == (self._own.source, self._own.query):
                arms.setdefault(sample.arm, sample)
        if "candidate" in arms and self._failed is None:
            self._hear(arms, relative=self._own.relative and look.phase != "bake")

    def _hear(self, arms: Mapping[str, Sample], *, relative: bool) -> None:
        self._answers += 1
        self._values, self._problem, self._last = {}, "", ""
        for arm in ("candidate", "stable") if relative else ("candidate",):
            self._read(arm, arms.get(arm))
        if relative and self._own.max_ratio is not None and self._values.get("stable", 1.0) <= 0 and not self._problem:
            self._problem, self._last = "zero", WORDS["zero"]
        if self._problem:
            self._without += 1
            self._good = 0
            return
        broken = self._broken(relative=relative)
        self._last = broken or self._held(relative=relative)
        self._good, self._bad = (0, self._bad + 1) if broken else (self._good + 1, 0)
        if self._bad >= self._own.failures:
            times = f", {self._bad} times in a row" if self._bad > 1 else ""
            self._failed = Opinion(Result.FAIL, f"{broken}{times}", self._figures())

    def _read(self, arm: str, sample: Sample | None) -> None:
        problem = "empty" if sample is None else sample.problem
        value = None if sample is None else sample.value
        if value is not None and not problem:
            self._values[arm] = value
        elif not self._problem:
            self._problem = problem or "nan"
            said = f": {sample.said}" if sample is not None and sample.said else ""
            self._last = f"the {arm}'s value: {WORDS.get(self._problem, self._problem)}{said}"

    def _broken(self, *, relative: bool) -> str:
        """The limit that does not hold, in words; empty: all do."""
        own, value = self._own, self._values["candidate"]
        if own.max is not None and value > own.max:
            return f"{value:.6g} is more than {own.max:.6g}"
        if own.min is not None and value < own.min:
            return f"{value:.6g} is less than {own.min:.6g}"
        if not relative:
            return ""
        stable = self._values["stable"]
        if own.max_increase is not None and value > stable + own.max_increase:
            return f"{value:.6g} is more than the stable's {stable:.6g} + {own.max_increase:.6g}"
        if own.max_ratio is not None and value > own.max_ratio * stable:
            return f"{value:.6g} is more than {own.max_ratio:.6g} times the stable's {stable:.6g}"
        return ""

    def _held(self, *, relative: bool) -> str:
        against = f", the stable's {self._values['stable']:.6g}" if relative else ""
        return f"{self._values['candidate']:.6g}{against}"

    def _opinion(self) -> Opinion:
        if self._failed is not None:
            return self._failed
        faults = self._own.faults()
        if faults:
            return Opinion(Result.ERROR, "; ".join(fault.message for fault in faults))
        figures = self._figures()
        if not self._answers:
            asked = f"`{self._own.source}` was not asked yet"
            return Opinion(Result.INCONCLUSIVE, asked, figures, f"answers of the metric source `{self._own.source}`")
        seen = f"{self._last} ({self._answers:,} answers, {self._without:,} without a value)"
        if self._problem:
            rule = self._own.no_answer if self._problem in NO_ANSWER else self._own.no_value
            return Opinion(HOLDS[rule], seen, figures, f"a value from `{self._own.source}`")
        if self._good >= self._own.passes:
            return Opinion(Result.PASS, f"{seen}; {self._good:,} good ones in a row", figures)
        wanted = self._own.passes - self._good
        return Opinion(Result.INCONCLUSIVE, seen, figures, f"{wanted} more good answers in a row")

    def _figures(self) -> dict[str, float]:
        counted = {"answers": self._answers, "without_value": self._without, "good": self._good, "bad": self._bad}
        return {**{key: float(n) for key, n in counted.items()}, **self._values}


gate = Metric()

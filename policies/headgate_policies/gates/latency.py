"""Is a larger share of the candidate's requests slow than of the stable's? `latency-p99` is this with quantile 0.99.

Slow means above a threshold: the stable's own quantile so far, times (1 + max_increase), at least slack_ms above it.
Both arms are counted above the *same* threshold in the same looks, so a load spike that slows both changes nothing,
and heavy tails are harmless: a request is slow or it is not. The candidate may be slow more often than the stable by
`max_extra`, by default 1 - quantile: exactly what a candidate whose quantile is within the threshold can show.

Latencies come in buckets 5 % wide, so the threshold is the upper end of its bucket. In the mirror phase copies wait
behind live requests, which is not the candidate's fault: the threshold is `mirror_factor` times higher there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headgate.evidence import (
    NOTHING,
    SIZE_CLASSES,
    Counts,
    Detection,
    Look,
    Need,
    Result,
    Traffic,
    Verdict,
    bucket,
    bucket_ms,
    size_limit,
)
from headgate.params import count, number, seconds, share
from headgate_policies.rates import RateTest, Sample, detection, passing
from headgate_policies.sitting import Opinion, Sitting, judged
from headgate_policies.times import Times
from headgate_policies.wording import milliseconds, part, percent

SHOWN = ("candidate_rate", "threshold_ms")  # figures of each size class


@dataclass(frozen=True, slots=True)
class LatencyParams:
    quantile: float = share(0.99, low=0.01, high=0.9999)
    max_increase: float = share(0.2, low=0.0, high=100.0)  # of the stable's quantile
    slack_ms: float = number(5.0, low=0.0)  # the threshold is at least this much above it: 20 % of 2 ms is noise
    max_ms: float | None = number(None, low=0.1)  # the quantile is never to exceed this, whatever the stable does
    max_extra: float | None = share(None, low=0.0001, high=0.99)  # extra share of slow requests; None: 1 - quantile
    mirror_factor: float = number(2.0, low=1.0)  # in the mirror phase the threshold is so many times higher
    warmup_requests: int = count(20)  # first candidate requests that are not judged: caches and pools are cold
    warmup: float = seconds(0.0)  # first seconds of a step that are not judged, of either arm
    by_size: bool = False  # judge each class of request sizes as well
    size_share: float = share(0.05, low=0.001)  # a smaller class can fail, and is not waited for
    min_requests: int = count(0)  # candidate requests before a pass, above the rollout's own min_requests
    confidence: float = share(0.95, low=0.5, high=0.999999)  # that a pass is right

    @property
    def tolerated(self) -> float:
        return round(1 - self.quantile, 9) if self.max_extra is None else self.max_extra


class Latency:
    version = "2"
    params = LatencyParams

    def needs(self, params: LatencyParams) -> Sequence[Need]:
        return (Need("counts", ("mirror", "step", "bake")),)

    def judge(self, params: LatencyParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: LatencyParams, alpha: float) -> Sitting:
        return _BySizeSitting(params, alpha) if params.by_size else _LatencySitting(params, alpha)

    def power(self, params: LatencyParams, traffic: Traffic, alpha: float) -> Detection | None:
        usual = (1 - params.quantile) / 2  # the stable's own share above the threshold: less than 1 - quantile
        effect = 3 * params.tolerated
        what = f"slow requests rising from {percent(usual)} to {percent(usual + effect)}"
        found = detection(what, usual, effect, params.tolerated, alpha)
        return replace(found, passes=passing(usual, params.tolerated, params.confidence)) if found else None


class _LatencySitting(Sitting):
    def __init__(self, params: LatencyParams, alpha: float) -> None:
        super().__init__("latency", Latency.version, params, alpha)
        self._own = params
        self._test: RateTest | None = None
        self._ceiling: RateTest | None = None
        self._known = Times(params.quantile)  # the stable's latencies before this look, or the reference
        self._reference = NOTHING
        self._bake = False
        self._skipped = 0
        self._began: float | None = None
        self._threshold: float | None = None
        self._least = max(20, math.ceil(1 / (1 - params.quantile)))  # requests of the stable to know the quantile
        self._limited = 0.0  # the quantile that the threshold was made of
        self._last = 0  # the threshold's bucket: the last that is not slow

    def _take(self, look: Look) -> None:
        self._began = look.at if self._began is None else self._began
        if look.at < self._began + self._own.warmup:
            return
        if self._test is None:
            self._open(look)
        self._judge(look)
        if not self._bake:
            self._known.add(look.stable.latency)

    def _open(self, look: Look) -> None:
        """Half of alpha each, when there is a ceiling too: it has a threshold of its own."""
        own = self._own
        self._bake = look.phase == "bake"
        level = self._alpha / (1 if own.max_ms is None else 2)
        reference = None
        if self._bake:
            self._reference = look.reference
            self._known.add(look.reference.latency)
            self._threshold = self._limit()
            reference = _slow(look.reference, self._threshold)
        self._test = RateTest(own.tolerated, alpha=level, confidence=own.confidence, reference=reference)
        if own.max_ms is not None:
            self._ceiling = RateTest(
                0, alpha=level, confidence=own.confidence, ceiling=1 - own.quantile, reference=Sample()
            )

    def _judge(self, look: Look) -> None:
        measured = sum(look.candidate.latency.values())
        if self._skipped < self._own.warmup_requests:
            self._skipped += measured
            return
        if self._ceiling is not None and self._own.max_ms is not None:
            self._ceiling.add(Sample(measured, look.candidate.slower_than(self._own.max_ms)), self._fresh)
        self._threshold = self._limit()
        if self._test is not None and self._threshold is not None:
            slow = look.candidate.above(self._last)
            stables = 0 if self._bake else sum(look.stable.latency.values())
            stable_slow = 0 if self._bake else look.stable.above(self._last)
            self._test.count(measured, slow, stables, stable_slow, self._fresh)

    def _limit(self) -> float | None:
        """The threshold from what is known before this look. None: too little to know the quantile."""
        known = self._known.quantile_ms()
        if known is None or self._known.total < self._least:
            return None
        if known != self._limited:
            self._limited = known
            limit = max(known * (1 + self._own.max_increase), known + self._own.slack_ms)
            self._last = bucket(limit * (self._own.mirror_factor if self._phase == "mirror" else 1))
        return bucket_ms(self._last)

    def _result(self) -> Result:
        results = [test.result for test in self._tests()]
        if not results or self._test is None:
            return Result.INCONCLUSIVE
        if Result.FAIL in results:
            return Result.FAIL
        if self._test.candidates < self._own.min_requests or Result.INCONCLUSIVE in results:
            return Result.INCONCLUSIVE
        return Result.PASS

    def _tests(self) -> list[RateTest]:
        return [test for test in (self._test, self._ceiling) if test is not None and test.compares]

    def _opinion(self) -> Opinion:
        tests = self._tests()
        if not tests or self._test is None:
            return Opinion(
                Result.INCONCLUSIVE,
                "the stable's latency is not known yet",
                missing=f"latencies of the stable to know its p{self._own.quantile * 100:g}, or `max_ms`",
            )
        figures = self._figures()
        seen = self._seen()
        if self._ceiling is not None and self._ceiling.result is Result.FAIL:
            return Opinion(Result.FAIL, f"{self._seen_ceiling()}", figures)
        if self._test.result is Result.FAIL:
            return Opinion(Result.FAIL, f"{seen}; tolerated is {percent(self._own.tolerated)} more", figures)
        if self._result() is Result.PASS:
            sure = f"({percent(self._own.confidence)} sure)"
            return Opinion(
                Result.PASS, f"{seen}; {percent(self._own.tolerated)} more or worse is ruled out {sure}", figures
            )
        return Opinion(
            Result.INCONCLUSIVE,
            f"{seen}; not enough to say",
            figures,
            self._more(self._needed(tests), self._test.total.candidates),
        )

    def _needed(self, tests: Sequence[RateTest]) -> int | None:
        wanted = [test.needed() for test in tests]
        known = [n for n in wanted if n is not None]
        if len(known) < len(wanted):
            return None
        warmup = max(0, self._own.warmup_requests - self._skipped)
        short = self._own.min_requests - (self._test.total.candidates if self._test else 0)
        return warmup + max([*known, short, 1])

    def _seen(self) -> str:
        if self._test is None or self._threshold is None:
            return "the stable's latency is not known yet"
        total = self._test.total
        name = f"p{self._own.quantile * 100:g}"
        base = milliseconds(self._known.quantile_ms() or 0.0)
        if self._bake:
            before = _slow(self._reference, self._threshold)
            against = f"{part(before.stable_bad, before.stables)} of the stable's before"
        else:
            against = f"{part(total.stable_bad, total.stables)} of the stable's beside it"
        return (
            f"{part(total.candidate_bad, total.candidates)} candidate requests were slower than "
            f"{milliseconds(self._threshold)} (the stable's {name} is {base}); {against}"
        )

    def _seen_ceiling(self) -> str:
        total = self._ceiling.total if self._ceiling else Sample()
        return (
            f"{part(total.candidate_bad, total.candidates)} candidate requests were slower than "
            f"{milliseconds(self._own.max_ms or 0.0)}; at most {percent(1 - self._own.quantile)} may be"
        )

    def _figures(self) -> dict[str, float]:
        found = dict(self._test.figures) if self._test else {}
        found |= self._ceiling.figures if self._ceiling else {}
        found["warmup_skipped"] = float(self._skipped)
        if self._threshold is not None:
            found["threshold_ms"] = self._threshold
        return found


class _BySizeSitting(Sitting):
    """The gate over all requests with half of alpha, and over each class of sizes with a part of the other half."""

    def __init__(self, params: LatencyParams, alpha: float) -> None:
        super().__init__("latency", Latency.version, params, alpha)
        self._own = params
        self._all = _LatencySitting(params, alpha / 2)
        one = replace(params, min_requests=0)
        self._classes = [_LatencySitting(one, alpha / 2 / SIZE_CLASSES) for _ in range(SIZE_CLASSES)]
        self._measured = [0] * SIZE_CLASSES  # candidate requests

    def _take(self, look: Look) -> None:
        self._all.hear([look])
        for index, sitting in enumerate(self._classes):
            of_size = _of_size(look, index)
            self._measured[index] += sum(of_size.candidate.latency.values())
            sitting.hear([of_size])

    def _opinion(self) -> Opinion:
        whole = self._all.verdict()
        classes = [(index, sitting.verdict()) for index, sitting in enumerate(self._classes)]
        figures = dict(whole.figures) | self._of_classes(classes)
        if whole.result is Result.FAIL:
            return Opinion(Result.FAIL, whole.explanation, figures)
        failed = [known for known in classes if known[1].result is Result.FAIL]
        held = [known for known in classes if self._counts(known[0]) and known[1].result is not Result.PASS]
        if not failed and whole.result is not Result.PASS:
            return Opinion(whole.result, whole.explanation, figures, whole.missing)
        for index, verdict in (*failed, *held):
            of = f"of requests {_size_name(index)}"
            missing = f"{of}: {verdict.missing}" if verdict.missing else ""
            return Opinion(verdict.result, f"{of}: {verdict.explanation}", figures, missing)
        judged_too = [_size_name(index) for index in range(SIZE_CLASSES) if self._counts(index)]
        return Opinion(Result.PASS, f"{whole.explanation}; also of requests {', '.join(judged_too)}", figures)

    def _of_classes(self, classes: Sequence[tuple[int, Verdict]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for index, verdict in classes:
            if self._measured[index]:
                found[f"size_{index}_requests"] = float(self._measured[index])
                found |= {f"size_{index}_{name}": verdict.figures[name] for name in SHOWN if name in verdict.figures}
        return found

    def _counts(self, index: int) -> bool:
        return self._measured[index] > 0 and self._measured[index] >= self._own.size_share * sum(self._measured)


def _of_size(look: Look, index: int) -> Look:
    """The look as it is for one class of sizes."""
    candidate, stable, reference = (
        Counts(latency=counts.sizes.get(index, {})) for counts in (look.candidate, look.stable, look.reference)
    )
    return replace(look, candidate=candidate, stable=stable, reference=reference, pairs=())


def _size_name(index: int) -> str:
    """`up to 4 KiB`, `beyond 4 MiB`."""
    limit = size_limit(index)
    edge = limit if limit is not None else size_limit(index - 1) or 0
    text = f"{edge // 1024} KiB" if edge < 1024**2 else f"{edge // 1024**2} MiB"
    return f"up to {text}" if limit is not None else f"beyond {text}"


def _slow(counts: Counts, threshold: float | None) -> Sample:
    if threshold is None:
        return Sample()
    return Sample(stables=sum(counts.latency.values()), stable_bad=counts.slower_than(threshold))


gate = Latency()

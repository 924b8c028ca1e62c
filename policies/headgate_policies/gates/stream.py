"""Do the candidate's event streams begin as soon, flow as evenly and as fast, and end as they should?

For answers of `text/event-stream`. Time to the first event, the longest gap, and the time between events (the inverse
of events a second; one event is most often one token) are tested as `latency` tests: the share of streams beyond the
stable's own quantile. Streams that break off or end without a word, and streams that a length limit ended, are tested
as rates. Each of the five has a fifth of alpha. Says nothing about what the events hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headgate.evidence import STREAM_TIMES, Counts, Detection, Look, Need, Result, Traffic, Verdict
from headgate.params import count, number, share
from headgate_policies.gates.latency import LatencyParams
from headgate_policies.gates.latency import gate as latency
from headgate_policies.rates import RateTest, Sample, detection
from headgate_policies.sitting import Opinion, Sitting, judged
from headgate_policies.wording import more, part, percent

NAMES = {"first_event": "to the first event", "gap": "longest gap", "pace": "between events"}
UNFINISHED = ("broken", "open")  # cut off, or ended without `[DONE]` or a finish reason
CUT = ("length",)  # by a limit
PARTS = len(STREAM_TIMES) + 2


@dataclass(frozen=True, slots=True)
class StreamParams:
    quantile: float = share(0.95, low=0.01, high=0.9999)
    max_increase: float = share(0.2, low=0.0, high=100.0)  # of the stable's quantile
    slack_ms: float = number(20.0, low=0.0)
    max_extra: float | None = share(None, low=0.0001, high=0.99)  # extra share of slow streams; None: 1 - quantile
    mirror_factor: float = number(2.0, low=1.0)
    max_unfinished: float = share(0.01, low=0.0005, high=0.99)  # extra share of streams that do not end as they should
    max_cut: float = share(0.05, low=0.0005, high=0.99)  # extra share of streams that a length limit ended
    warmup_requests: int = count(20)
    min_streams: int = count(50, low=1)  # of the candidate, before a pass
    confidence: float = share(0.95, low=0.5, high=0.999999)

    @property
    def times(self) -> LatencyParams:
        """How each of the times is judged."""
        return LatencyParams(
            quantile=self.quantile,
            max_increase=self.max_increase,
            slack_ms=self.slack_ms,
            max_extra=self.max_extra,
            mirror_factor=self.mirror_factor,
            warmup_requests=self.warmup_requests,
            confidence=self.confidence,
        )


class StreamGate:
    version = "2"
    params = StreamParams

    def needs(self, params: StreamParams) -> Sequence[Need]:
        return (Need("events", ("mirror", "step", "bake")),)

    def judge(self, params: StreamParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: StreamParams, alpha: float) -> Sitting:
        return _StreamSitting(params, alpha)

    def power(self, params: StreamParams, traffic: Traffic, alpha: float) -> Detection | None:
        effect = 3 * params.max_unfinished
        what = f"streams that do not end rising by {percent(effect)}"
        return detection(what, 0.0, effect, params.max_unfinished, alpha / PARTS)


class _StreamSitting(Sitting):
    def __init__(self, params: StreamParams, alpha: float) -> None:
        super().__init__("stream", StreamGate.version, params, alpha)
        self._own = params
        self._share = alpha / PARTS
        self._times = {name: latency.sitting(params.times, self._share) for name in STREAM_TIMES}
        self._measured = dict.fromkeys(STREAM_TIMES, 0)
        self._rates: dict[str, RateTest] = {}
        self._streams = 0

    def _take(self, look: Look) -> None:
        if not self._rates:
            self._open(look)
        for name, sitting in self._times.items():
            of_time = _of_time(look, name)
            self._measured[name] += sum(of_time.candidate.latency.values())
            sitting.hear([of_time])
        self._streams += _streams(look.candidate)
        for name, (words, _) in _kinds(self._own).items():
            bake = look.phase == "bake"
            stable = (0, 0) if bake else (_streams(look.stable), _ended(look.stable, words))
            sample = Sample(_streams(look.candidate), _ended(look.candidate, words), *stable)
            self._rates[name].add(sample, self._fresh)

    def _open(self, look: Look) -> None:
        for name, (words, tolerated) in _kinds(self._own).items():
            before = Sample(stables=_streams(look.reference), stable_bad=_ended(look.reference, words))
            self._rates[name] = RateTest(
                tolerated,
                alpha=self._share,
                confidence=self._own.confidence,
                reference=before if look.phase == "bake" else None,
            )

    def _opinion(self) -> Opinion:
        if not self._streams:
            return Opinion(Result.INCONCLUSIVE, "no event stream of the candidate was seen", missing="event streams")
        times = {name: sitting.verdict() for name, sitting in self._times.items()}
        figures = {"streams": float(self._streams)}
        for name, verdict in times.items():
            figures |= {f"{name}_{key}": value for key, value in verdict.figures.items() if key in SHOWN}
        for name, test in self._rates.items():
            figures[f"{name}_rate"] = test.total.candidate_rate
        for name, verdict in times.items():
            if verdict.result is Result.FAIL:
                return Opinion(Result.FAIL, f"{NAMES[name]}: {verdict.explanation}", figures)
        for name, test in self._rates.items():
            if test.result is Result.FAIL:
                return Opinion(Result.FAIL, self._seen(name, test), figures)
        missing = self._missing(times)
        seen = "; ".join(self._seen(name, test) for name, test in self._rates.items())
        if missing:
            return Opinion(Result.INCONCLUSIVE, f"{seen}; not enough to say", figures, missing)
        judged_too = ", ".join(NAMES[name] for name in STREAM_TIMES if self._measured[name])
        return Opinion(Result.PASS, f"{seen}; no slower {judged_too} ({percent(self._own.confidence)} sure)", figures)

    def _missing(self, times: dict[str, Verdict]) -> str:
        """What keeps it from passing; empty: nothing. A time that no stream shows is not waited for."""
        for name, verdict in times.items():
            if self._measured[name] and verdict.result is not Result.PASS:
                return f"{NAMES[name]}: {verdict.missing or verdict.explanation}"
        for test in self._rates.values():
            if not test.compares:
                return "event streams of the stable in an earlier step"
            if test.result is not Result.PASS:
                return more(test.needed(), "event streams of the candidate")
        short = self._own.min_streams - self._streams
        return more(short, "event streams of the candidate") if short > 0 else ""

    def _seen(self, name: str, test: RateTest) -> str:
        total = test.total
        against = f"; {part(total.stable_bad, total.stables)} of the stable's beside it" if total.stables else ""
        tolerated = _kinds(self._own)[name][1]
        counted = part(total.candidate_bad, total.candidates)
        return f"{counted} streams {WORDS[name]}{against}, {percent(tolerated)} more may"


SHOWN = ("candidate_rate", "threshold_ms")
WORDS = {"unfinished": "did not end as they should", "cut": "were ended by a length limit"}


def _kinds(params: StreamParams) -> dict[str, tuple[tuple[str, ...], float]]:
    return {"unfinished": (UNFINISHED, params.max_unfinished), "cut": (CUT, params.max_cut)}


def _streams(counts: Counts) -> int:
    return sum(counts.finishes.values())


def _ended(counts: Counts, words: Sequence[str]) -> int:
    return sum(counts.finishes.get(word, 0) for word in words)


def _of_time(look: Look, name: str) -> Look:
    """The look as the latency gate reads it, with one of a stream's times for latency."""
    candidate, stable, reference = (
        Counts(latency=counts.streams.get(name, {})) for counts in (look.candidate, look.stable, look.reference)
    )
    return replace(look, candidate=candidate, stable=stable, reference=reference, pairs=())


gate = StreamGate()

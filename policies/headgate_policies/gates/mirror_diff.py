"""Does the candidate answer the same requests differently? Judged on copies, before it gets any live traffic.

A pair differs when a path that is not noise differs. The test: the candidate may differ from the stable in at most
`max_share` more of the pairs than the stable differs from itself (echoes). With `rel` or `abs` values are compared;
without, only shape, types, NaN and gross drift are, because a better model is meant to answer differently: what that
cannot see is in docs/judgement.md. Pairs in which only one side answered 2xx are the error rate's, and not compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headgate.evidence import Detection, Difference, Look, Need, Pair, PairKind, Result, Traffic, Verdict
from headgate.params import Fault, ParameterError, count, number, share
from headgate_policies.compare import Comparison, Found, Tolerance, compare, cut, example, generalised, media_type
from headgate_policies.drift import Drift
from headgate_policies.noise import MAX_PATHS, Noise
from headgate_policies.rates import RateTest, Sample, detection, passing
from headgate_policies.rules import rules
from headgate_policies.sitting import Opinion, Sitting, judged
from headgate_policies.wording import part, percent

SHOWN = 10  # differences in a verdict
EXAMPLES = 3  # of one difference
SHORT = 32 * 1024  # characters: half of what a router keeps of an answer
UNREADABLE = "longer than 64 KiB, or no text, or no JSON although parts are to be redacted"
NOISE = 2.0  # a candidate may differ so many times as often as the stable from itself, and pass
ECHOED = 0.1  # echoes per compared pair that a forecast takes: the default of `mirror.echo`


@dataclass(frozen=True, slots=True)
class MirrorDiffParams:
    rel: float | None = number(None, low=0.0)  # of the stable's number; None with abs None: values are not judged
    abs: float | None = number(None, low=0.0)
    max_share: float = share(0.01, low=0.0005, high=0.9)  # of comparable pairs that may differ
    ignore: tuple[str, ...] = ()  # JSON paths, with everything below: `$.meta`, `$.items[*].id`
    paths: Any = None  # JSON path -> how it is compared: `{as: set}`, `{as: ranking, by: id}`, `{as: text, most: 20%}`
    min_pairs: int = count(50)  # comparable pairs before a pass
    min_echoes: int = count(3)  # learnt from before pairs are judged; 0: the model has no noise, judge from the first
    noisy: float = share(0.05, low=0.001)  # a path that differs in this share of echoes is noise
    min_comparable: float = share(0.5)  # least share of pairs that could be compared
    confidence: float = share(0.95, low=0.5, high=0.999999)  # that a pass is right

    @property
    def tolerance(self) -> Tolerance:
        known = {generalised(path): rule for path, rule in rules(self.paths or {}).items()}
        return Tolerance(self.rel, self.abs, tuple(generalised(path) for path in self.ignore), known)

    def __post_init__(self) -> None:
        try:
            rules(self.paths or {})
        except ValueError as error:
            raise ParameterError(Fault("paths", str(error))) from error


class MirrorDiff:
    version = "3"  # 2: answers of which only one can be read differ; 3: seconds, bets that are kept, twice the noise
    params = MirrorDiffParams

    def needs(self, params: MirrorDiffParams) -> Sequence[Need]:
        return (Need("pairs", ("mirror",)), Need("echo", ("mirror",)))

    def judge(self, params: MirrorDiffParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: MirrorDiffParams, alpha: float) -> Sitting:
        return _MirrorDiffSitting(params, alpha)

    def power(self, params: MirrorDiffParams, traffic: Traffic, alpha: float) -> Detection | None:
        effect = 3 * params.max_share
        what = f"wrong answers in {percent(effect)} of cases"
        echoed, noise = (ECHOED, params.noisy) if params.min_echoes else (None, 0.0)
        found = detection(what, 0.0, effect, params.max_share, alpha, echoed)
        passes = passing(noise, params.max_share, params.confidence, echoed, NOISE)
        return replace(found, passes=passes) if found else None


class _MirrorDiffSitting(Sitting):
    def __init__(self, params: MirrorDiffParams, alpha: float) -> None:
        super().__init__("mirror-diff", MirrorDiff.version, params, alpha)
        self._own = params
        self._tolerance = params.tolerance
        # A quarter of alpha for drift, when it is judged at all.
        self._drift = None if self._tolerance.declared else Drift(alpha / 4)
        self._test = RateTest(
            params.max_share,
            alpha=alpha if self._drift is None else alpha * 3 / 4,
            confidence=params.confidence,
            ceiling=None if params.min_echoes else params.max_share,
            reference=None if params.min_echoes else Sample(),
            times=NOISE,
        )
        self._noise = Noise(params.noisy)
        self._excluded: dict[str, float] = {}
        self._not: Counter[str] = Counter()  # why pairs could not be compared
        self._echoes = 0
        self._examples: dict[tuple[str, str], _Tally] = {}

    def _take(self, look: Look) -> None:
        learning = self._echoes < self._own.min_echoes  # until its noise is known, a look teaches and is not judged
        self._excluded = dict(self._noise.excluded())
        counts = {PairKind.COMPARE: [0, 0], PairKind.ECHO: [0, 0]}
        learnt: list[tuple[PairKind, set[str]]] = []
        for pair in sorted(look.pairs, key=_order):
            found = self._compare(pair)
            if found is None:
                continue
            counts[pair.kind][0] += 1
            counts[pair.kind][1] += any(each.path not in self._excluded for each in found.found)
            learnt.append((pair.kind, {each.path for each in found.found}))
            if self._drift is not None:
                self._drift.see(pair.kind, found.numbers)
            if pair.kind is PairKind.COMPARE and not learning:
                self._remember(found.found)
        for kind, paths in learnt:
            self._noise.learn(kind, paths)
        if self._drift is not None:
            self._drift.close_look(judged=not learning)
        self._echoes += counts[PairKind.ECHO][0]
        if not learning:
            self._test.add(Sample(*counts[PairKind.COMPARE], *counts[PairKind.ECHO]), self._fresh)

    def _compare(self, pair: Pair) -> Comparison | None:
        """None: cannot be compared; counted, with the reason."""
        live, copy = 200 <= pair.live.status < 300, 200 <= pair.copy.status < 300
        echo = pair.kind is PairKind.ECHO
        if not (live and copy):
            if not echo:
                self._not["only the stable answered 2xx" if live else "the stable did not answer 2xx"] += 1
            return None
        found = _one_sided(pair, self._tolerance) or compare(pair.live, pair.copy, self._tolerance)
        if not found.comparable:
            self._not[found.why_not] += int(not echo)
            return None
        return found

    def _remember(self, found: Sequence[Found]) -> None:
        for each in found:
            key = (each.path, each.kind)
            if key not in self._examples and len(self._examples) < MAX_PATHS:
                self._examples[key] = _Tally(each)
            if key in self._examples:
                self._examples[key].count(each)

    def _result(self) -> Result:
        if self._test.result is Result.FAIL or (self._drift is not None and self._drift.failed):
            return Result.FAIL
        return Result.INCONCLUSIVE if self._missing() else Result.PASS

    def _opinion(self) -> Opinion:
        figures = self._figures()
        seen, differences = self._seen(), self._differences()
        if self._test.result is Result.FAIL or (self._drift is not None and self._drift.failed):
            return Opinion(Result.FAIL, f"{seen}{self._worst(differences)}", figures, differences=differences)
        missing = self._missing()
        if missing:
            return Opinion(Result.INCONCLUSIVE, f"{seen}; not enough to say", figures, missing, differences)
        twice = f"{NOISE:g} times that + " if self._test.total.stable_bad else ""
        more_or = f"{twice}{percent(self._own.max_share)} or more is ruled out ({percent(self._own.confidence)} sure)"
        return Opinion(Result.PASS, f"{seen}; {more_or}", figures, differences=differences)

    def _missing(self) -> str:
        """What keeps it from passing; empty: nothing."""
        compared, refused = self._test.total.candidates, sum(self._not.values())
        if compared + refused and compared / (compared + refused) < self._own.min_comparable:
            reason = min(self._not, key=lambda why: (-self._not[why], why))
            return f"pairs that can be compared: {part(refused, compared + refused)} cannot, mostly because {reason}"
        if self._echoes < self._own.min_echoes:
            return (
                f"{self._own.min_echoes - self._echoes} more echoes to learn the stable's own noise "
                "(`mirror.echo` above 0, or `min_echoes: 0` for a model without any)"
            )
        if self._test.result is not Result.PASS:
            wanted = self._test.needed()
            short = self._own.min_pairs - compared
            return self._more(None if wanted is None else max(wanted, short), compared, "pairs of answers")
        if compared < self._own.min_pairs:
            return self._more(self._own.min_pairs - compared, compared, "pairs of answers")
        drifting = self._drift.suspicious if self._drift is not None else []
        return f"pairs to tell whether {', '.join(drifting[:3])} drifted" if drifting else ""

    def _seen(self) -> str:
        total = self._test.total
        noise = [f"{path} ({percent(share)} of echoes)" for path, share in self._excluded.items()]
        ignored = f"; ignored as noise: {', '.join(noise[:3])}" if noise else ""
        rest = sum(self._not.values())
        not_compared = f"; {rest:,} pairs could not be compared" if rest else ""
        what = "differ" if self._tolerance.declared or self._tolerance.rules else "differ in shape"
        return (
            f"{part(total.candidate_bad, total.candidates)} pairs {what}, tolerated {percent(self._own.max_share)}; "
            f"the stable differs from itself in {part(total.stable_bad, total.stables)} echoes{ignored}{not_compared}"
        )

    def _worst(self, differences: Sequence[Difference]) -> str:
        if not differences:
            return ""
        worst = differences[0]
        effect = f", {worst.effect}" if worst.effect else ""
        return (
            f"; {worst.path} ({worst.kind}) in {percent(worst.share)} of pairs{effect}: "
            f"{worst.stable} became {worst.candidate}"
        )

    def _differences(self) -> tuple[Difference, ...]:
        total = max(1, self._test.total.candidates)
        found = [
            Difference(
                tally.path,
                tally.kind,
                round(tally.pairs / total, 9),
                tally.stable,
                tally.candidate,
                tally.effect,
                tuple(tally.more),
            )
            for tally in self._examples.values()
            if tally.path not in self._excluded
        ]
        for path, seen, stable, candidate, stable_sum, candidate_sum in self._drift.findings() if self._drift else []:
            effect = change(stable_sum, candidate_sum)
            found.append(Difference(path, "drift", round(seen, 9), example(stable), example(candidate), effect))
        return tuple(sorted(found, key=lambda each: (-each.share, each.path, each.kind))[:SHOWN])

    def _figures(self) -> dict[str, float]:
        total = self._test.total
        found = {
            **self._test.figures,
            "pairs": float(total.candidates),
            "pairs_different": float(total.candidate_bad),
            "echoes": float(self._echoes),
            "not_comparable": float(sum(self._not.values())),
        }
        if self._drift is not None:
            found["evidence_drift"] = self._drift.peak
        return found


class _Tally:
    """How often one path differs in one way, and by how much."""

    def __init__(self, first: Found) -> None:
        self.path, self.kind, self.stable, self.candidate = first.path, first.kind, first.stable, first.candidate
        self.pairs = 0
        self.more: list[tuple[str, str]] = []
        self._sums = [0.0, 0.0]
        self._distances = 0.0

    def count(self, found: Found) -> None:
        self.pairs += 1
        said = (found.stable, found.candidate)
        if len(self.more) < EXAMPLES - 1 and said not in ((self.stable, self.candidate), *self.more):
            self.more.append(said)
        self._sums[0] += math.fsum(stable for stable, _ in found.numbers)
        self._sums[1] += math.fsum(candidate for _, candidate in found.numbers)
        self._distances += max(found.distances, default=0.0)

    @property
    def effect(self) -> str:
        if self.kind == "number":
            return change(*self._sums)
        return f"{percent(self._distances / self.pairs)} apart on average" if self._distances else ""


def _one_sided(pair: Pair, tolerance: Tolerance) -> Comparison | None:
    """One answer is short JSON, the other cannot be read. Left out, a model that only fails so would never be seen.

    None: that is not so. Answers of nearly the same length may lie on both sides of the cap: they are not compared.
    """
    sides = [answer.cut and not answer.digest for answer in (pair.live, pair.copy)]
    whole = pair.copy if sides[0] else pair.live
    if sides[0] == sides[1] or tolerance.ignores("$"):
        return None
    if "json" not in media_type(whole.media_type) or len(whole.body) > SHORT:
        return None
    said = (UNREADABLE, cut(whole.body)) if sides[0] else (cut(whole.body), UNREADABLE)
    return Comparison(found=(Found("$", "unreadable", *said),))


def change(stable: float, candidate: float) -> str:
    """`-98.6 % on average`; empty when the stable's numbers add up to nothing."""
    if not stable or not math.isfinite(candidate / stable):
        return ""
    return f"{(candidate / stable - 1) * 100:+,.1f} % on average"


def _order(pair: Pair) -> tuple[str, str, str, str, int, int]:
    """The same for any order in which the router reported them."""
    return pair.request_id, pair.kind, pair.live.body, pair.copy.body, pair.live.status, pair.copy.status


gate = MirrorDiff()

"""Does the candidate fail more often than the stable that runs beside it?

Failures are counted by outcome class: model errors, timeouts, refused, truncated. A caller who left is nobody's
failure. Mirrored copies count as the candidate's requests in the mirror phase. Says nothing about the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headgate.evidence import FAILURES, NOTHING, Detection, Look, Need, Result, Traffic, Verdict
from headgate.params import count, share
from headgate_policies.rates import RateTest, Sample, detection, passing
from headgate_policies.sitting import Opinion, Sitting, judged
from headgate_policies.wording import classes, part, percent


@dataclass(frozen=True, slots=True)
class ErrorRateParams:
    max_increase: float = share(0.005, low=0.0001, high=0.99)  # of all requests: 0.005 tolerates 0.5 % -> 1 %
    max_rate: float | None = share(None, low=0.0001, high=0.99)  # never above this, whatever the stable does
    min_requests: int = count(0)  # candidate requests before a pass, above the rollout's own min_requests
    confidence: float = share(0.95, low=0.5, high=0.999999)  # that a pass is right


class ErrorRate:
    version = "2"
    params = ErrorRateParams

    def needs(self, params: ErrorRateParams) -> Sequence[Need]:
        return (Need("counts", ("mirror", "step", "bake")),)

    def judge(self, params: ErrorRateParams, looks: Sequence[Look], alpha: float) -> Verdict:
        return judged(self.sitting(params, alpha), looks)

    def sitting(self, params: ErrorRateParams, alpha: float) -> Sitting:
        return _ErrorRateSitting(params, alpha)

    def power(self, params: ErrorRateParams, traffic: Traffic, alpha: float) -> Detection | None:
        effect = 3 * params.max_increase
        what = f"errors rising from {percent(traffic.error_rate)} to {percent(traffic.error_rate + effect)}"
        found = detection(what, traffic.error_rate, effect, params.max_increase, alpha)
        passes = passing(traffic.error_rate, params.max_increase, params.confidence)
        return replace(found, passes=passes) if found else None


class _ErrorRateSitting(Sitting):
    def __init__(self, params: ErrorRateParams, alpha: float) -> None:
        super().__init__("error-rate", ErrorRate.version, params, alpha)
        self._own = params
        self._test: RateTest | None = None
        self._reference = NOTHING
        self._failed: dict[str, int] = dict.fromkeys(FAILURES, 0)  # of the candidate, by class

    def _take(self, look: Look) -> None:
        if self._test is None:
            self._test = self._open(look)
        candidate, stable = look.candidate, look.stable
        for outcome in FAILURES:
            self._failed[outcome] += candidate.outcomes.get(outcome, 0)
        self._test.count(candidate.requests, candidate.failures, stable.requests, stable.failures, self._fresh)

    def _open(self, look: Look) -> RateTest:
        self._reference = look.reference
        before = Sample(stables=look.reference.requests, stable_bad=look.reference.failures)
        return RateTest(
            self._own.max_increase,
            alpha=self._alpha,
            confidence=self._own.confidence,
            ceiling=self._own.max_rate,
            reference=before if look.phase == "bake" else None,
        )

    def _result(self) -> Result:
        test = self._test
        found = test.result if test is not None else Result.INCONCLUSIVE
        few = test is not None and test.candidates < self._own.min_requests
        return Result.INCONCLUSIVE if found is Result.PASS and few else found

    def _opinion(self) -> Opinion:
        test = self._test
        if test is None:
            return Opinion(Result.INCONCLUSIVE, "no evidence yet", missing="candidate requests")
        if not test.compares:
            return Opinion(
                Result.INCONCLUSIVE,
                f"{self._seen(test)}; nothing was measured before to compare with",
                test.figures,
                "counts of the stable from an earlier step, or `max_rate` to judge without them",
            )
        result = self._result()
        if result is Result.FAIL:
            return Opinion(Result.FAIL, f"{self._seen(test)}; {self._limit(test)}", test.figures)
        if result is Result.PASS:
            return Opinion(Result.PASS, f"{self._seen(test)}; {self._ruled_out()}", test.figures)
        wanted = test.needed()
        if wanted is not None:
            wanted = max(wanted, self._own.min_requests - test.total.candidates)
        return Opinion(
            Result.INCONCLUSIVE,
            f"{self._seen(test)}; not enough to say",
            test.figures,
            self._more(wanted, test.total.candidates),
        )

    def _seen(self, test: RateTest) -> str:
        total = test.total
        failed = classes(self._failed)
        kinds = f": {failed}" if failed else ""
        before = self._reference
        if before.requests:
            against = f"{part(before.failures, before.requests)} of the stable's before"
        else:
            against = f"{part(total.stable_bad, total.stables)} of the stable's beside it"
        return f"{part(total.candidate_bad, total.candidates)} candidate requests failed{kinds}; {against}"

    def _limit(self, test: RateTest) -> str:
        if test.failed_on == "ceiling" and self._own.max_rate is not None:
            return f"at most {percent(self._own.max_rate)} is tolerated"
        return f"tolerated is the stable's rate + {percent(self._own.max_increase)}"

    def _ruled_out(self) -> str:
        return (
            f"a rise of {percent(self._own.max_increase)} or more is ruled out ({percent(self._own.confidence)} sure)"
        )


gate = ErrorRate()

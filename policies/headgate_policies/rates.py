"""One rate of the candidate, judged: against the concurrent stable, or at the bake against what was measured before.

What `error-rate` and `latency` share. A rate here is any share of requests: failed ones, slow ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headgate.evidence import Detection, Result
from headgate_policies import bets, stats

DRIFT = 2.0  # nothing concurrent is left at the bake: the rate may have become so many times what it was by itself


@dataclass(frozen=True, slots=True)
class Sample:
    """What one look (or all of them) adds: requests and bad ones, of each arm."""

    candidates: int = 0
    candidate_bad: int = 0
    stables: int = 0
    stable_bad: int = 0

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            self.candidates + other.candidates,
            self.candidate_bad + other.candidate_bad,
            self.stables + other.stables,
            self.stable_bad + other.stable_bad,
        )

    @property
    def candidate_rate(self) -> float:
        return self.candidate_bad / self.candidates if self.candidates else 0.0

    @property
    def stable_rate(self) -> float:
        return self.stable_bad / self.stables if self.stables else 0.0


@dataclass(frozen=True, slots=True)
class _Test:
    name: str
    test: stats.Concurrent | stats.Fixed
    needed: float  # nats of evidence that are a failure

    @property
    def failed(self) -> bool:
        return self.test.worse.peak >= self.needed


def _named(name: str, test: stats.Concurrent | stats.Fixed, level: float) -> _Test:
    return _Test(name, test, math.log(1 / level))


class RateTest:
    """Fails when the rate is worse by more than `tolerance`, passes when that is ruled out.

    Fails at its highest evidence at any look, so that more evidence never turns a failure into a pass; passes only
    on the evidence as it stands now.
    """

    def __init__(
        self,
        tolerance: float,
        *,
        alpha: float,
        confidence: float,
        ceiling: float | None = None,
        reference: Sample | None = None,
        times: float = 1.0,
    ) -> None:
        """
        Args:
            tolerance: how much higher than the stable's the candidate's rate may be, as a fraction.
            alpha: chance of a false failure over all looks.
            confidence: 1 minus the chance of a pass although the rate is worse by `tolerance` or more.
            ceiling: a rate never to be exceeded, whatever the stable does; None: there is none.
            reference: the stable's counts from before (in `stables`): judge against them; None: it is concurrent.
            times: a pass rules out `times` the concurrent stable's rate + tolerance; a failure is never beyond 1.
        """
        self._total = [0, 0, 0, 0]
        self._enough = math.log(1 / (1 - confidence))
        compares = reference is None or reference.stables > 0
        level = alpha / max(1, compares + (ceiling is not None))
        self._tests: list[_Test] = []
        if reference is None:
            self._tests.append(_named("stable", stats.Concurrent(tolerance, level, times), level))
        elif compares:
            self._tests.append(_named("reference", _against(reference, tolerance, level / 2), level / 2))
        if ceiling is not None:
            self._tests.append(_named("ceiling", stats.Fixed(ceiling, level=level), level))

    @property
    def compares(self) -> bool:
        """Whether there is anything to hold the rate against."""
        return bool(self._tests)

    def add(self, sample: Sample, fresh: bool = True) -> None:
        """One look. `fresh`: it begins another second than the look before."""
        self.count(sample.candidates, sample.candidate_bad, sample.stables, sample.stable_bad, fresh)

    def count(
        self, candidates: int, candidate_bad: int, stables: int = 0, stable_bad: int = 0, fresh: bool = True
    ) -> None:
        """`add`, of a sample's numbers."""
        total = self._total
        total[0] += candidates
        total[1] += candidate_bad
        total[2] += stables
        total[3] += stable_bad
        for each in self._tests:
            test = each.test
            if isinstance(test, stats.Concurrent):
                test.add(candidates, candidate_bad, stables, stable_bad, fresh)
            else:
                test.add(candidates, candidate_bad, fresh)

    @property
    def total(self) -> Sample:
        """Everything it was given."""
        return Sample(*self._total)

    @property
    def failed_on(self) -> str:
        """stable | reference | ceiling; empty: it has not failed."""
        for each in self._tests:
            if each.failed:
                return each.name
        return ""

    @property
    def result(self) -> Result:
        if self.failed_on:
            return Result.FAIL
        for each in self._tests:
            if not self._passes(each.test):
                return Result.INCONCLUSIVE
        return Result.PASS if self._tests else Result.INCONCLUSIVE

    def _passes(self, test: stats.Concurrent | stats.Fixed) -> bool:
        if not test.fine.reaches(self._enough):
            return False
        total = self.total
        limit = test.times * total.stable_rate + test.delta if isinstance(test, stats.Concurrent) else test.floor
        return total.candidate_rate <= limit

    @property
    def candidates(self) -> int:
        """Requests of the candidate so far."""
        return self._total[0]

    def needed(self) -> int | None:
        """Candidate requests until it decides, should the rates stay as they are. None: it cannot be said."""
        wanted = [self._needed(each) for each in self._tests if not self._passes(each.test)]
        known = [n for n in wanted if n is not None]
        return max(known, default=0) if len(known) == len(wanted) else None

    def _needed(self, each: _Test) -> int | None:
        growth = each.test.growth()
        fine, worse = self._enough - each.test.fine.value, each.needed - each.test.worse.value
        missing = fine if each.test.leans_fine else worse
        return max(1, math.ceil(missing / growth)) if growth > 1e-12 else None

    @property
    def figures(self) -> dict[str, float]:
        found = {
            "candidate_requests": float(self.total.candidates),
            "candidate_rate": self.total.candidate_rate,
        }
        for each in self._tests:
            found[f"evidence_worse_{each.name}"] = each.test.worse.peak
            found[f"evidence_fine_{each.name}"] = each.test.fine.value
            found[f"needed_worse_{each.name}"] = each.needed
            found[f"needed_fine_{each.name}"] = self._enough
        return found


def _against(reference: Sample, tolerance: float, level: float) -> stats.Fixed:
    """A failure needs more than the reference's own uncertainty, and a world that moved on, can explain."""
    high = stats.upper_bound(reference.stables, reference.stable_bad, level)
    limit = max(DRIFT * high, reference.stable_rate) + tolerance
    return stats.Fixed(limit=limit, floor=min(limit, DRIFT * reference.stable_rate + tolerance), level=level)


def detection(
    what: str, stable_rate: float, effect: float, tolerance: float, alpha: float, stables: float | None = None
) -> Detection | None:
    """Requests after which a rise of `effect` is found.

    Args:
        stables: stable requests (echoes) beside each of the candidate; None: so many that its rate is known.
    """
    rate, limit = stable_rate + effect, stable_rate + tolerance
    if not 0 < limit < rate < 1:
        return None
    if stables is None:
        growth, spread = bets.divergence(rate, limit), _spread(rate, limit)
    else:
        null = bets.project(1.0, rate, stables, bets.clipped(stable_rate), tolerance)
        growth = bets.divergence(rate, null + tolerance) + stables * bets.divergence(stable_rate, null)
        spread = math.hypot(_spread(rate, null + tolerance), math.sqrt(stables) * _spread(stable_rate, null))
    requests = stats.requests_to(alpha, growth, spread)
    return None if requests is None else Detection(what, requests, 0.95)


def passing(rate: float, tolerance: float, confidence: float, stables: float | None = None, times: float = 1.0) -> int:
    """Requests within which a candidate that fails as often as the stable passes, in 95 % of cases. 0: cannot be said.

    Args:
        stables, times: as in `detection` and `RateTest`.
    """
    rate = bets.clipped(rate)
    if not 0 < rate + tolerance < 1:
        return 0
    if stables is None:
        growth, spread = bets.divergence(rate, times * rate + tolerance), _spread(rate, times * rate + tolerance)
    else:
        null = bets.project(1.0, rate, stables, rate, tolerance, times)
        growth = bets.divergence(rate, times * null + tolerance) + stables * bets.divergence(rate, null)
        spread = math.hypot(_spread(rate, times * null + tolerance), math.sqrt(stables) * _spread(rate, null))
    return stats.requests_to(1 - confidence, growth, spread) or 0


def _spread(rate: float, null: float) -> float:
    """Standard deviation of the log likelihood ratio of one request, in nats."""
    rate, null = bets.clipped(rate), bets.clipped(null)
    return abs(math.log(rate / null) - math.log((1 - rate) / (1 - null))) * math.sqrt(rate * (1 - rate))

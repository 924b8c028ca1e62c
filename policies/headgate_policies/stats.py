"""Sequential tests of rates that may be looked at any time: the arithmetic under every gate.

Everything is an *e-process*: a bet against a hypothesis that starts with 1 and, while the hypothesis is true, is not
expected to grow, whatever is looked at and whenever one stops. By Ville's inequality the chance that it ever reaches
1 / level is at most `level`. So "reject once the e-process has reached 1 / level" holds at any look and at any number
of looks. Proofs, sources and where the assumptions fail in practice: docs/judgement.md.

Works in logarithms on counts: 10^9 requests do not overflow and cost what one does. Refuses to decide: gates do that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from headgate_policies.bets import FIRST_START, TINY, Bet, EProcess, clipped, divergence, log_ratios, project

SECONDS_TO_FAIL = 3  # no less evidence than of so many different seconds fails anybody: a hiccup is no regression
PRIOR_FAILURES = 0.5  # what an estimate assumes before it has seen anything (Krichevsky-Trofimov)
MULTIPLES = (2.0, 4.0)  # of what is tolerated: bets that need not learn how bad it is; they halve the time to detect
PRIOR_RATE = 0.005  # and at what rate the stable fails until it has shown its own, when less is tolerated
KEPT = 0.5  # a bet is kept while the rates it is on are within so many standard errors of what is known now


def upper_bound(requests: int, failures: int, level: float) -> float:
    """A rate that the true one exceeds with probability at most `level`.

    Chernoff's bound: the largest u with `requests * divergence(failures / requests, u) <= log(1 / level)`.
    A little wider than Clopper-Pearson, and ten lines shorter. 1.0 without a request.
    """
    if not requests:
        return 1.0
    seen = failures / requests
    low, high = seen, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if requests * divergence(seen, middle) <= math.log(1 / level):
            low = middle
        else:
            high = middle
    return high


class Concurrent:
    """Is the candidate's rate worse than the concurrent stable's by more than `delta`? Two e-processes, one each way.

    `worse` bets against "candidate <= stable + delta", `fine` against "candidate >= times * stable + delta". Each block
    is bet on with rates chosen before it; the theorem is `Bet`'s.

    Assumes: given the past, requests of one block fail independently, and the *mean* rates of the block are in the
    null. The rates may drift from block to block as they like, for both at once: nothing is pooled over time.
    """

    def __init__(self, delta: float, level: float = 0.0, times: float = 1.0) -> None:
        """
        Args:
            level: of a false failure; more than one window must agree on it. 0: a single look may show anything.
            times: `fine` bets against "candidate >= times * stable + delta".
        """
        self.times = times
        self.delta = min(max(delta, TINY), 1 - 1e-6)
        weights = (2, 1, *[1] * len(MULTIPLES))  # what was learnt; a broken candidate; effects of a size
        self.worse = EProcess(weights, cap_of(level, len(weights)))
        # What was learnt of each arm; that hardly any fails; that both are alike.
        self.fine = EProcess((1, 2, 1), peaks=False)
        self.candidates = self.candidate_failures = self.stables = self.stable_failures = 0
        self._open = [0, 0, 0, 0]  # a block: looks are joined until each arm has a request
        self._fresh = False
        self._bets: list[Bet | None] = [None] * (len(weights) + 3)

    def add(
        self, candidates: int, candidate_failures: int, stables: int, stable_failures: int, fresh: bool = True
    ) -> None:
        """One more look. `fresh`: it opens a new window of time."""
        block = self._open
        self._fresh = self._fresh or fresh
        block[0] += candidates
        block[1] += candidate_failures
        block[2] += stables
        block[3] += stable_failures
        if block[0] and block[2]:
            self._judge(block)

    def _judge(self, block: Sequence[int]) -> None:
        b = self._stable_guess()
        limit = b + self.delta
        near_b = _kept(self.stable_failures)
        near_a = _kept(self.candidate_failures)
        ratio = (self.stables + block[2]) / (self.candidates + block[0])  # so far: one block's is noise
        gain = self._gain
        gains = [
            gain(0, self._candidate_guess(limit), b, block, ratio, near_a, near_b),
            gain(1, self._dire(b), b, block, ratio, near_b, near_b),
        ]
        for index, times in enumerate(MULTIPLES, 2):
            gains.append(gain(index, clipped(times * limit), b, block, ratio, near_b, near_b))
        self.worse.add(gains, self._fresh)
        calm, alike = self.delta / 50, self._pooled(b)
        gains = [
            gain(-1, self._candidate_guess(b), b, block, ratio, near_a, near_b),
            gain(-2, calm, calm, block, ratio, near_a, near_b),
            gain(-3, alike, alike, block, ratio, near_a, near_b),
        ]
        self.fine.add(gains)
        self._learn(block)

    def guesses(self) -> tuple[float, float]:
        """The rates of candidate and stable as the next bet takes them, smoothed a little towards each other."""
        b = self._stable_guess()
        return self._candidate_guess(b), b

    def _learn(self, block: Sequence[int]) -> None:
        self.candidates += block[0]
        self.candidate_failures += block[1]
        self.stables += block[2]
        self.stable_failures += block[3]
        self._open = [0, 0, 0, 0]
        self._fresh = False

    def _stable_guess(self) -> float:
        return clipped(
            (self.stable_failures + PRIOR_FAILURES) / (self.stables + PRIOR_FAILURES / max(self.delta, PRIOR_RATE))
        )

    def _candidate_guess(self, before_any: float) -> float:
        prior = PRIOR_FAILURES / clipped(before_any)
        return clipped((self.candidate_failures + PRIOR_FAILURES) / (self.candidates + prior))

    def _pooled(self, before_any: float) -> float:
        failures, requests = self.candidate_failures + self.stable_failures, self.candidates + self.stables
        return clipped((failures + PRIOR_FAILURES) / (requests + PRIOR_FAILURES / before_any))

    def _dire(self, b: float) -> float:
        """Half of what may fail at most does: finds a broken candidate in the first look."""
        return (1 + b + self.delta) / 2

    def _gain(
        self, strategy: int, a: float, b: float, block: Sequence[int], ratio: float, near_a: float, near_b: float
    ) -> float:
        """What a strategy wins in this block with a bet on (a, b), or on the rates near them that it has bet on before;
        one that takes the hypothesis for true keeps its stake. Those below 0 bet that all is fine."""
        if strategy >= 0:
            times = 1.0
            if a - b - self.delta <= 0:
                return 0.0
        else:
            times = self.times
            if a - times * b - self.delta >= 0:
                return 0.0
        bet = self._bets[strategy]
        if bet is None or not bet.near(a, b, ratio, near_a, near_b):
            bet = self._bets[strategy] = Bet(a, b, self.delta, ratio, times)
        return bet.gain(block[0], block[1], block[2], block[3])

    @property
    def leans_fine(self) -> bool:
        """Whether the rates seen so far are inside what is tolerated."""
        a, b = self.guesses()
        return a < self.times * b + self.delta

    def growth(self) -> float:
        """Nats that one more candidate request is worth at the rates seen so far; >= 0."""
        a, b = self.guesses()
        ratio = self.stables / self.candidates if self.candidates else 1.0
        times = self.times if self.leans_fine else 1.0
        s = project(1.0, a, ratio, b, self.delta, times)
        return divergence(a, times * s + self.delta) + ratio * divergence(b, s)


def _kept(failures: int) -> float:
    """How far off a rate may be that a bet is kept on: far less than what is known of it."""
    return min(0.25, KEPT / math.sqrt(failures + 1))


class Fixed:
    """Is a rate above `limit`, or below `floor`? One e-process each way; nothing concurrent to compare with.

    `worse` bets against "rate <= limit", `fine` against "rate >= floor" (mostly the same number).

    Theorem (Wald 1945; Ville 1939): the likelihood ratio of Bernoulli(a) to Bernoulli(limit), a > limit, is a
    test martingale at the limit; each factor rises with a failure, so below the limit it is a supermartingale.
    The bet is spread over a fixed row of alternatives, each with half the odds of the one before, so that only
    the counts matter and not how they were cut into looks.

    Assumes: given the past, each request fails with a probability inside the hypothesis; it may drift there.
    """

    def __init__(self, limit: float, floor: float | None = None, level: float = 0.0) -> None:
        self.limit = min(max(limit, TINY), 1 - 1e-6)
        self.floor = self.limit if floor is None else min(max(floor, TINY), 1 - 1e-6)
        self._dire = [log_ratios(a, self.limit) for a in _row(self.limit, up=True)]
        self._calm = [log_ratios(a, self.floor) for a in _row(self.floor, up=False)]
        self.worse = EProcess([1] * len(self._dire), cap_of(level, len(self._dire)))
        # Half of the stake on "it hardly ever happens", which is what a healthy candidate shows.
        self.fine = EProcess([*([1 / (len(self._calm) - 1)] * (len(self._calm) - 1)), 1], peaks=False)
        self.candidates = self.candidate_failures = 0

    def add(self, requests: int, failures: int, fresh: bool = True) -> None:
        if requests:
            passed = requests - failures
            self.worse.add([failures * failed + passed * ok for failed, ok in self._dire], fresh)
            self.fine.add([failures * failed + passed * ok for failed, ok in self._calm])
            self.candidates += requests
            self.candidate_failures += failures

    @property
    def leans_fine(self) -> bool:
        return self._rate() <= self.limit

    def growth(self) -> float:
        """Nats that one more request is worth at the rate seen so far; 0 between floor and limit."""
        rate = self._rate()
        return divergence(rate, min(max(rate, self.floor), self.limit))

    def _rate(self) -> float:
        prior = PRIOR_FAILURES / self.floor
        return (self.candidate_failures + PRIOR_FAILURES) / (self.candidates + prior)


def cap_of(level: float, strategies: int) -> float:
    """What one window may add: `SECONDS_TO_FAIL` of them can be enough, even for one strategy; one less never is."""
    if level <= 0:
        return math.inf
    needed = math.log(1 / level)
    enough = (needed + math.log(strategies / FIRST_START)) / SECONDS_TO_FAIL
    return min(enough, 0.999 * needed / (SECONDS_TO_FAIL - 1))


def _row(boundary: float, *, up: bool) -> list[float]:
    odds = boundary / (1 - boundary)
    if up:
        count = max(1, math.ceil(math.log2(max(2.0, 50 / odds))))
        row = [odds * 1.5 * 2**k for k in range(count)]
    else:
        row = [odds / (1.5 * 2**k) for k in range(4)] + [odds / 100]
    return [value / (1 + value) for value in row]


def requests_to(level: float, growth: float, spread: float, power: float = 0.95) -> int | None:
    """Requests until an e-process that grows by `growth` nats each reaches 1 / level with probability `power`.

    Args:
        growth: expected gain of one request; `spread`: its standard deviation; both in nats.
    Returns:
        None when it does not grow. A forecast (normal approximation plus what mixtures and estimates cost), not a
        guarantee: the guarantee is the level.
    """
    if growth <= 0:
        return None
    cost = math.log(1 / level) + math.log(2 / FIRST_START) + 1.5
    z = NormalDist().inv_cdf(power)
    root = (z * spread + math.sqrt((z * spread) ** 2 + 4 * growth * cost)) / (2 * growth)
    return math.ceil(root**2)

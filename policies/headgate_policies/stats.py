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

TINY = 1e-12  # rates are kept this far from 0 and 1, so that every logarithm is finite
LARGE = 1 - TINY
FIRST_START = 0.8  # weight of betting from the first look on; the rest is for bets that start later
SECONDS_TO_FAIL = 3  # no less evidence than of so many different seconds fails anybody: a hiccup is no regression
PRIOR_FAILURES = 0.5  # what an estimate assumes before it has seen anything (Krichevsky-Trofimov)
MULTIPLES = (2.0, 4.0)  # of what is tolerated: bets that need not learn how bad it is; they halve the time to detect
PRIOR_RATE = 0.005  # and at what rate the stable fails until it has shown its own, when less is tolerated


def clipped(rate: float) -> float:
    return rate if TINY <= rate <= LARGE else min(max(rate, TINY), LARGE)


def divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q), in nats: what one request teaches on average."""
    p, q = clipped(p), clipped(q)
    return p * math.log(p / q) + (1 - p) * math.log1p((q - p) / (1 - q))


def log_ratio(requests: float, failures: float, alternative: float, null: float) -> float:
    """Log likelihood of the counts under one rate against another."""
    a, q = clipped(alternative), clipped(null)
    return failures * math.log(a / q) + (requests - failures) * math.log1p((q - a) / (1 - q))


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


class EProcess:
    """A mixture of bets, over several strategies and several times to start betting.

    Strategies hedge against not knowing how large an effect is; starts (at looks 1, 2, 4, 8, ...) forget what came
    before, so that a fault that begins late is still found soon and one unlucky bet is not for ever. Any mixture of
    e-processes with weights fixed beforehand is an e-process.
    """

    def __init__(self, weights: Sequence[float], cap: float = math.inf) -> None:
        """`cap`: what one strategy may win in one window at most, in nats. Winning less than it could keeps an
        e-process an e-process, whatever the requests of a window have to do with each other."""
        total = math.fsum(weights)
        self._weights = [math.log(weight / total) for weight in weights]
        self._sums = [0.0] * len(weights)
        self._cap = cap
        self._room = [cap] * len(weights)
        self._starts: list[tuple[Sequence[float], Sequence[float]]] = []  # log weights, sums then: of each strategy
        self._lowest = [math.inf] * len(weights)  # of the sums that the starts began with
        self._waiting = 1.0  # weight of the starts still to come; they hold their stake
        self._looks = 0
        self._value: float | None = 0.0  # None: not computed since the last look
        self.peak = 0.0  # the highest value at any look: what is once rejected stays rejected

    @property
    def value(self) -> float:
        """Log of the e-process now."""
        if self._value is None:
            self._value = self._mixture()
        return self._value

    def add(self, gains: Sequence[float], fresh: bool = True) -> None:
        """One more look: what each strategy won or lost in it, in nats. `fresh`: it opens a new window."""
        self._looks += 1
        if self._looks & (self._looks - 1) == 0:
            self._start(self._looks.bit_length() - 1)
        sums, room = self._sums, self._room
        if fresh:
            room[:] = [self._cap] * len(gains)
        for index, gain in enumerate(gains):
            won = gain if gain <= room[index] else room[index]
            if won > 0.0:  # a loss makes no room: a bet that starts after it never had it
                room[index] -= won
            sums[index] += won
        self._value = None
        if self._may_peak():
            self.peak = max(self.peak, self.value)

    def _may_peak(self) -> bool:
        """Whether the mixture can be above its peak: it is at most its best bet, and below 1 if none gained and one
        lost. The margins are far above what rounding moves; mostly they spare the sum over all bets."""
        best = max(now - before for now, before in zip(self._sums, self._lowest, strict=True))
        return not ((best <= 0.0 and min(self._sums) < -1e-6) or max(best, 0.0) < self.peak - 1e-9)

    def _start(self, number: int) -> None:
        weight = FIRST_START if number == 0 else (1 - FIRST_START) / (number * (number + 1))
        self._starts.append(([math.log(weight) + share for share in self._weights], tuple(self._sums)))
        self._lowest = [min(pair) for pair in zip(self._lowest, self._sums, strict=True)]
        self._waiting = 1 - FIRST_START if number == 0 else (1 - FIRST_START) / (number + 1)

    def _mixture(self) -> float:
        terms = [math.log(self._waiting)]
        for weights, origin in self._starts:
            terms += [weight + now - before for weight, now, before in zip(weights, self._sums, origin, strict=True)]
        top = max(terms)
        return top + math.log(math.fsum([math.exp(term - top) for term in terms]))


def project(candidates: float, a: float, stables: float, b: float, delta: float) -> float:
    """The stable's rate s for which (s + delta, s) is nearest to (a, b), in divergence weighted by requests.

    The nearest point of the line candidate = stable + delta: the least favourable null for a bet on (a, b).
    Newton's method on the derivative, from the closed form, kept inside its bracket: the root lies between b and
    a - delta. The closed form alone loses its digits where rates are tiny.
    """
    low, high = (b, a - delta) if b <= a - delta else (a - delta, b)
    low, high = max(low, 0.0), min(high, 1 - delta)
    s = _cubic(candidates, a, stables, b, delta)
    if not low < s < high:
        s = (low + high) / 2
    for _ in range(80):
        c = s + delta
        spread_c, spread_s = c * (1 - c), s * (1 - s)
        if spread_c <= 0 or spread_s <= 0:
            break
        slope = candidates * (c - a) / spread_c + stables * (s - b) / spread_s
        if slope > 0:
            high = s
        else:
            low = s
        bend = (
            candidates * (spread_c - (c - a) * (1 - 2 * c)) / spread_c**2
            + stables * (spread_s - (s - b) * (1 - 2 * s)) / spread_s**2
        )
        step = s - slope / bend if bend > 0 else low
        if abs(step - s) <= 1e-13 * s:  # before the bracket, one end of which s is by now: the root was found
            break
        following = step if low < step < high else (low + high) / 2
        if abs(following - s) <= 1e-13 * s:
            break
        s = following
    return s


def _cubic(candidates: float, a: float, stables: float, b: float, delta: float) -> float:
    """The root of the cubic that the nearest point solves: Farrington, Manning (1990), restricted likelihood.

    NaN where rounding leaves no real root.
    """
    ratio = stables / candidates
    third = -(1 + ratio + a + ratio * b + delta * (ratio + 2)) / (3 * (1 + ratio))
    linear = (delta**2 + delta * (2 * a + ratio + 1) + a + ratio * b) / (1 + ratio)
    v = third**3 - third * linear / 2 - a * delta * (1 + delta) / (2 * (1 + ratio))
    square = third**2 - linear / 3
    if square <= 0:
        return math.nan
    u = math.copysign(math.sqrt(square), v)
    angle = (math.pi + math.acos(min(1.0, max(-1.0, v / u**3)))) / 3 if u else 0.0
    return 2 * u * math.cos(angle) - third - delta


class Concurrent:
    """Is the candidate's rate worse than the concurrent stable's by more than `delta`? Two e-processes, one each way.

    `worse` bets against "candidate <= stable + delta", `fine` against "candidate >= stable + delta".

    Theorem (Turner, Ly, Gruenwald 2024; Turner, Gruenwald 2023). Let a block hold n_c and n_s requests, (a, b) be any
    rates chosen before it, the null a convex set of rates, and (a0, b0) its point nearest to (a, b) in
    n_c KL + n_s KL. Then the likelihood ratio of (a, b) to (a0, b0) has expectation <= 1 under every (p, q) of
    the null. Proof: the expectation is f^n_c g^n_s with f = 1 + (p - a0)(a - a0) / (a0 (1 - a0)), g alike, so at most
    exp(n_c (f - 1) + n_s (g - 1)); the exponent is minus the slope of the divergence at its minimum towards
    (p, q), and at a minimum over a convex set no slope inside the set is negative.

    Assumes: given the past, requests of one block fail independently, and the *mean* rates of the block are in the
    null. The rates may drift from block to block as they like, for both at once: nothing is pooled over time.
    """

    def __init__(self, delta: float, level: float = 0.0) -> None:
        """`level`: of a false failure; more than one window must agree on it. 0: a single look may show anything."""
        self.delta = min(max(delta, TINY), 1 - 1e-6)
        weights = (2, 1, *[1] * len(MULTIPLES))  # what was learnt; a broken candidate; effects of a size
        self.worse = EProcess(weights, cap_of(level, len(weights)))
        self.fine = EProcess((1, 1))
        self.candidates = self.candidate_failures = self.stables = self.stable_failures = 0
        self._open = [0, 0, 0, 0]  # a block: looks are joined until each arm has a request
        self._fresh = False

    def add(
        self, candidates: int, candidate_failures: int, stables: int, stable_failures: int, fresh: bool = True
    ) -> None:
        """One more look. `fresh`: it opens a new window of time."""
        block = self._open
        self._fresh = self._fresh or fresh
        for index, n in enumerate((candidates, candidate_failures, stables, stable_failures)):
            block[index] += n
        if block[0] and block[2]:
            b = self._stable_guess()
            limit = b + self.delta
            rates = (self._candidate_guess(limit), self._dire(b), *(clipped(times * limit) for times in MULTIPLES))
            self.worse.add([self._gain(a, b, block, 1) for a in rates], self._fresh)
            fine = ((self._candidate_guess(b), b), (self.delta / 50, self.delta / 50))
            self.fine.add([self._gain(a, b, block, -1) for a, b in fine])
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

    def _dire(self, b: float) -> float:
        """Half of what may fail at most does: finds a broken candidate in the first look."""
        return (1 + b + self.delta) / 2

    def _gain(self, a: float, b: float, block: Sequence[int], side: int) -> float:
        """What the bet on (a, b) wins in this block; a bet on the hypothesis itself keeps its stake."""
        if side * (a - b - self.delta) <= 0:
            return 0.0
        s = project(block[0], a, block[2], b, self.delta)
        return log_ratio(block[0], block[1], a, s + self.delta) + log_ratio(block[2], block[3], b, s)

    @property
    def leans_fine(self) -> bool:
        """Whether the rates seen so far are inside what is tolerated."""
        a, b = self.guesses()
        return a < b + self.delta

    def growth(self) -> float:
        """Nats that one more candidate request is worth at the rates seen so far; >= 0."""
        a, b = self.guesses()
        ratio = self.stables / self.candidates if self.candidates else 1.0
        s = project(1.0, a, ratio, b, self.delta)
        return divergence(a, s + self.delta) + ratio * divergence(b, s)


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
        self._dire = _row(self.limit, up=True)
        self._calm = _row(self.floor, up=False)
        self.worse = EProcess([1] * len(self._dire), cap_of(level, len(self._dire)))
        # Half of the stake on "it hardly ever happens", which is what a healthy candidate shows.
        self.fine = EProcess([*([1 / (len(self._calm) - 1)] * (len(self._calm) - 1)), 1])
        self.candidates = self.candidate_failures = 0

    def add(self, requests: int, failures: int, fresh: bool = True) -> None:
        if requests:
            self.worse.add([log_ratio(requests, failures, a, self.limit) for a in self._dire], fresh)
            self.fine.add([log_ratio(requests, failures, a, self.floor) for a in self._calm])
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

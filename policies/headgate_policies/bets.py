"""Bets on rates, and the wealth of whoever makes them: what the sequential tests of `stats` are made of.

A look costs what it adds and not what came before: of all looks so far each strategy keeps two numbers. Refuses to
judge: what wealth is enough, and of what test, `stats` and the gates say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import add, sub

TINY = 1e-12  # rates are kept this far from 0 and 1, so that every logarithm is finite
LARGE = 1 - TINY
FIRST_START = 0.8  # weight of betting from the first look on; the rest is for bets that start later
SPARED = 1e-3  # nats: a block that would lose more to being of other sizes than the bet's has its own point of the null
STRAIGHT = 0.3  # of the logarithm of the sizes' ratio: so far a straight line leads near enough to that point
APART = 1.5  # a bet is kept while the arms' sizes are within this factor of what it was tuned to


def clipped(rate: float) -> float:
    return rate if TINY <= rate <= LARGE else min(max(rate, TINY), LARGE)


def divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q), in nats: what one request teaches on average."""
    p, q = clipped(p), clipped(q)
    return p * math.log(p / q) + (1 - p) * math.log1p((q - p) / (1 - q))


def log_ratio(requests: float, failures: float, alternative: float, null: float) -> float:
    """Log likelihood of the counts under one rate against another."""
    failed, passed = log_ratios(alternative, null)
    return failures * failed + (requests - failures) * passed


def log_ratios(alternative: float, null: float) -> tuple[float, float]:
    """The same of one request that failed, and of one that did not."""
    a = alternative if TINY <= alternative <= LARGE else clipped(alternative)
    q = null if TINY <= null <= LARGE else clipped(null)
    return math.log(a / q), math.log1p((q - a) / (1 - q))


class EProcess:
    """A mixture of bets, over several strategies and several times to start betting.

    Strategies hedge against not knowing how large an effect is; starts (at looks 1, 2, 4, 8, ...) forget what came
    before, so that a fault that begins late is still found soon and one unlucky bet is not for ever. Any mixture of
    e-processes with weights fixed beforehand is an e-process.

    A start at a look holds its weight times exp(sum now - sum then). So of all starts of a strategy one number is
    enough: the log of what they are worth while the sum is 0.
    """

    def __init__(self, weights: Sequence[float], cap: float = math.inf, *, peaks: bool = True) -> None:
        """
        Args:
            cap: what one strategy may win in one window at most, in nats. Winning less than it could keeps an
                e-process an e-process, whatever the requests of a window have to do with each other.
            peaks: keep `peak`; without it the sum over all bets is made when it is asked for.
        """
        self._peaks = peaks
        total = math.fsum(weights)
        self._weights = [math.log(weight / total) for weight in weights]
        self._sums = [0.0] * len(weights)
        self._parts = math.log(len(weights) + 1)
        self._cap = cap
        self._room = [cap] * len(weights)
        self._stakes = [-math.inf] * len(weights)  # log of what the starts so far would be worth at a sum of 0
        self._lowest = [math.inf] * len(weights)  # of the sums that the starts began with
        self._waiting = 1.0  # weight of the starts still to come; they hold their stake
        self._looks = 0
        self._value: float | None = 0.0  # None: not computed since the last look
        self.peak = 0.0  # the highest value at any look: what is once rejected stays rejected; 0 without `peaks`

    @property
    def value(self) -> float:
        """Log of the e-process now."""
        if self._value is None:
            self._value = log_sum([math.log(self._waiting), *map(add, self._sums, self._stakes)])
        return self._value

    def reaches(self, least: float) -> bool:
        """Whether `value` is at least so much. A mixture is at least its best part, and at most so many times that as
        it has parts; mostly this spares the sum over them, and the margins are far above what rounding moves."""
        if self._value is None:
            best = max(map(add, self._sums, self._stakes))
            if best > least + 1e-9:
                return True
            if (best if best > 0.0 else 0.0) + self._parts < least - 1e-9:
                return False
        return self.value >= least

    def add(self, gains: Sequence[float], fresh: bool = True) -> None:
        """One more look: what each strategy won or lost in it, in nats. `fresh`: it opens a new window."""
        self._looks += 1
        if self._looks & (self._looks - 1) == 0:
            self._start(self._looks.bit_length() - 1)
        room, sums = self._room, self._sums
        if fresh:
            room[:] = [self._cap] * len(gains)
        for index, gain in enumerate(gains):
            if gain > 0.0:  # a loss makes no room: a bet that starts after it never had it
                won = gain if gain < room[index] else room[index]
                room[index] -= won
                sums[index] += won
            else:
                sums[index] += gain
        self._value = None
        if self._peaks and self._may_peak():
            self.peak = max(self.peak, self.value)

    def _may_peak(self) -> bool:
        """Whether the mixture can be above its peak: it is at most its best bet, and below 1 if none gained and one
        lost. The margins are far above what rounding moves; mostly they spare the sum over all bets."""
        best = max(map(sub, self._sums, self._lowest))
        if best <= 0.0:
            return self.peak <= 0.0 and min(self._sums) >= -1e-6
        return bool(best >= self.peak - 1e-9)

    def _start(self, number: int) -> None:
        weight = math.log(FIRST_START if number == 0 else (1 - FIRST_START) / (number * (number + 1)))
        self._stakes = [
            log_sum((stake, weight + share - now))
            for stake, share, now in zip(self._stakes, self._weights, self._sums, strict=True)
        ]
        self._lowest = [min(pair) for pair in zip(self._lowest, self._sums, strict=True)]
        self._waiting = 1 - FIRST_START if number == 0 else (1 - FIRST_START) / (number + 1)


def log_sum(terms: Sequence[float]) -> float:
    """Log of the sum of what the terms are logarithms of."""
    top = max(terms)
    return top + math.log(math.fsum([math.exp(term - top) for term in terms]))


class Bet:
    """That candidate and stable fail at rates (a, b), against every pair of rates on the line candidate = times *
    stable + delta and beyond it, seen from (a, b). Below, `times` is 1.

    The likelihood ratio of (a, b) to one point (s + delta, s) of the line, divided by the most that its expectation
    can be on the line for a block of n_c and n_s requests. *Theorem*: under every (p, q) of the null the expectation
    is at most 1. *Proof*: requests fail independently, so the ratio's expectation is f^n_c g^n_s with
    f = 1 + (p - s - delta) U, U = (a - s - delta) / ((s + delta)(1 - s - delta)), and g = 1 + (q - s) V alike. On the
    line both depend on x = q - s only, and n_c log f + n_s log g is concave in x: its maximum is where its slope is
    0 or at an end, and it is divided away. Beyond the line, away from (a, b), f only falls as p moves away from a
    (a is on the other side of the line), and g as q leaves [0, 1 - delta]. Requests of a block may differ: log f and
    log g are concave in p and q, so of all rates with these means equal ones are the most. This holds for *any* s
    between b and a - delta and any block, so s need not be the nearest point for these very sizes: near it little is
    divided away, and a bet can be kept for many blocks. Where more would be, the block gets a nearer s of its own. At
    the nearest point nothing is: that is the theorem of Turner, Ly, Gruenwald (2024). With another `times` the slope
    of log f in x is as many times as steep, and no more.
    """

    __slots__ = ("_delta", "_here", "_lean", "_times", "a", "b", "ratio")

    def __init__(self, a: float, b: float, delta: float, ratio: float, times: float = 1.0) -> None:
        """`ratio`: stable requests for each of the candidate that it is tuned to."""
        self.a, self.b, self.ratio = a, b, ratio
        self._delta, self._times = delta, times
        self._here = _Point(a, b, delta, times, project(1.0, a, ratio, b, delta, times))
        self._lean = _lean(a, b, delta, times, self._here.s, ratio)

    def gain(self, candidates: int, candidate_failures: int, stables: int, stable_failures: int) -> float:
        """What it wins in one block, in nats."""
        point = self._here
        most = point.most(candidates, stables)
        if most > SPARED:
            point = self._toward(stables / candidates)
            most = point.most(candidates, stables)
        failed_c, passed_c, failed_s, passed_s = point.terms
        return (
            candidate_failures * failed_c
            + (candidates - candidate_failures) * passed_c
            + stable_failures * failed_s
            + (stables - stable_failures) * passed_s
            - most
        )

    def _toward(self, ratio: float) -> _Point:
        """The nearest point for a block of these sizes, or as near as a straight line leads when they differ little."""
        a, b, delta, times = self.a, self.b, self._delta, self._times
        off = math.log(ratio / self.ratio)
        if not -STRAIGHT <= off <= STRAIGHT:
            return _Point(a, b, delta, times, project(1.0, a, ratio, b, delta, times))
        s, low, high = self._here.s + self._lean * off, b, (a - delta) / times
        if low > high:
            low, high = high, low
        return _Point(a, b, delta, times, low if s < low else s if s < high else high)

    def near(self, a: float, b: float, ratio: float, near_a: float, near_b: float) -> bool:
        """Whether it is still good enough a bet on these rates in a block with so many stable requests for each of the
        candidate. `near_a`, `near_b`: how far off each rate may be, as a fraction of it."""
        own_a, own_b, own_ratio = self.a, self.b, self.ratio
        return (
            abs(a - own_a) <= near_a * own_a
            and abs(b - own_b) <= near_b * own_b
            and own_ratio <= APART * ratio <= APART**2 * own_ratio
        )


class _Point:
    """A point of the line, (times * s + delta, s), as what a bet on (a, b) is held against."""

    __slots__ = ("_high", "_low", "_pull_c", "_pull_s", "_rest", "s", "terms")

    def __init__(self, a: float, b: float, delta: float, times: float, s: float) -> None:
        end = (1 - delta) / times
        if not TINY <= s <= end - TINY:
            s = min(max(s, TINY), end - TINY)
        self.s = s
        null = times * s + delta
        self.terms = (*log_ratios(a, null), *log_ratios(b, s))
        self._pull_c = pull_c = times * (a - null) / (null * (1 - null))
        self._pull_s = pull_s = (b - s) / (s * (1 - s))
        self._rest = pull_c * pull_s  # < 0: the two arms pull x apart
        self._low, self._high = -s, end - s

    def most(self, candidates: int, stables: int) -> float:
        """Log of the most that the ratio's expectation can be on the line, for a block of these sizes; >= 0."""
        pull_c, pull_s, rest = self._pull_c, self._pull_s, self._rest
        slope = candidates * pull_c + stables * pull_s  # at x = 0
        x = -slope / ((candidates + stables) * rest) if rest < 0 else math.copysign(math.inf, slope)
        if not self._low < x < self._high:
            x = self._low if x <= self._low else self._high
            return max(candidates * _log1p(x * pull_c) + stables * _log1p(x * pull_s), 0.0)
        most = candidates * math.log1p(x * pull_c) + stables * math.log1p(x * pull_s)
        return most if most > 0.0 else 0.0  # by rounding it may be less


def _lean(a: float, b: float, delta: float, times: float, s: float, ratio: float) -> float:
    """How far the nearest point's s moves for each unit of the logarithm of `ratio`, at s."""
    bend = times**2 * _bend(a, times * s + delta) + ratio * _bend(b, s)
    return -ratio * _pull(b, s) / bend if bend > 0 else 0.0


def _pull(rate: float, at: float) -> float:
    """First derivative of the divergence of `rate` from `at`, by `at`."""
    return (at - rate) / (at * (1 - at))


def _bend(rate: float, at: float) -> float:
    """The second."""
    spread = at * (1 - at)
    return (spread - (at - rate) * (1 - 2 * at)) / spread**2


def _log1p(x: float) -> float:
    return math.log1p(x if x > -LARGE else -LARGE)


def project(candidates: float, a: float, stables: float, b: float, delta: float, times: float = 1.0) -> float:
    """The stable's rate s for which (times * s + delta, s) is nearest to (a, b), in divergence weighted by requests.

    The nearest point of the line candidate = times * stable + delta: the least favourable null for a bet on (a, b).
    Newton's method on the derivative, for `times` 1 from the closed form, kept inside its bracket: the root lies
    between b and (a - delta) / times. The closed form alone loses its digits where rates are tiny.
    """
    end = (a - delta) / times
    low, high = (b, end) if b <= end else (end, b)
    low, high = max(low, 0.0), min(high, (1 - delta) / times)
    s = _cubic(candidates, a, stables, b, delta) if times == 1.0 else math.nan
    if not low < s < high:
        s = (low + high) / 2
    for _ in range(80):
        c = times * s + delta
        if not (0 < c < 1 and 0 < s < 1):
            break
        slope = times * candidates * _pull(a, c) + stables * _pull(b, s)
        if slope > 0:
            high = s
        else:
            low = s
        bend = times**2 * candidates * _bend(a, c) + stables * _bend(b, s)
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

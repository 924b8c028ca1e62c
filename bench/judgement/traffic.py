"""Simulated rollouts: counts of both arms, look by look, from processes that are known. Seeded.

A rollout here is three concurrent steps and the bake at 100 %. Nothing is decided; `ours.py` and `peers.py` judge the
same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from headgate.evidence import BUCKET_GROWTH, FIRST_BUCKET_MS, LAST_BUCKET, Counts, Outcome

LOOK_S = 10.0
LOOKS_A_MINUTE = 6
STEPS = (0.05, 0.25, 0.50, 1.0)  # the candidate's share; at the last there is no stable beside it
BASE_ERRORS = 0.005
MEDIAN_MS, SPREAD = 50.0, 0.7  # log-normal: the p99 is 255 ms
EDGES = np.log(FIRST_BUCKET_MS) + np.log(BUCKET_GROWTH) * np.arange(LAST_BUCKET + 1)
PER_MINUTE = 0.7  # autocorrelation of the noise from one minute to the next
Array = np.ndarray


@dataclass(frozen=True)
class Change:
    """What is wrong with the candidate; the default is nothing."""

    errors: float = 0.0  # added to its error rate
    leak: float = 0.0  # added error rate after `leak_s`, growing from nothing
    leak_s: float = 1_200.0
    latency: float = 1.0  # all its times are so many times longer


@dataclass(frozen=True)
class World:
    """How the surroundings behave, for both arms alike unless said."""

    name: str
    errors_sd: float = 0.0  # of the log of the error rate
    latency_sd: float = 0.0  # of the log of the time
    walk: bool = False  # the noise is a random walk; else it forgets at PER_MINUTE
    own: bool = False  # each arm has noise of its own
    day: bool = False  # volume, errors and times follow a day of 40 minutes
    bursts: bool = False  # every five minutes on average, 20 s in which a fifth fails and all is three times slower
    hiccups: bool = False  # every replica, every ten minutes on average: two seconds in which half of it fails
    spread: float = SPREAD
    tail: float = 0.0  # share of requests from a Pareto tail of index 1.1


WORLDS = (
    World("iid"),
    World("drifting", errors_sd=0.05, latency_sd=0.01, walk=True),
    World("diurnal", day=True),
    World("autocorrelated 0.7, shared", errors_sd=0.5, latency_sd=0.1),
    World("autocorrelated 0.7, each arm its own", errors_sd=0.25, latency_sd=0.05, own=True),
    World("bursts, shared", bursts=True),
    World("bursts, of single replicas", hiccups=True),
    World("heavy tails", spread=1.4, tail=0.02),
)


@dataclass
class Arm:
    """One arm of one phase, an entry per look."""

    requests: Array
    failures: Array
    times: Array  # (looks, buckets)

    def counts(self, look: int) -> Counts:
        n, bad = int(self.requests[look]), int(self.failures[look])
        found = np.flatnonzero(self.times[look])
        latency = {int(b): int(self.times[look, b]) for b in found}
        outcomes: dict[str, int] = {}
        if n - bad:
            outcomes[Outcome.OK] = n - bad
        if bad:
            outcomes[Outcome.MODEL_ERROR] = bad
        return Counts(outcomes, latency)

    def minute(self, minute: int) -> tuple[int, int, Array]:
        part = slice(minute * LOOKS_A_MINUTE, (minute + 1) * LOOKS_A_MINUTE)
        return int(self.requests[part].sum()), int(self.failures[part].sum()), self.times[part].sum(axis=0)


@dataclass
class Phase:
    share: float
    candidate: Arm
    stable: Arm
    looks: int = field(default=0)


def simulate(
    rng: np.random.Generator, world: World, per_minute: float, looks: int, change: Change = Change()
) -> list[Phase]:
    """A rollout of `looks` looks in each step."""
    total = looks * len(STEPS)
    errors = [_noise(rng, total, world.errors_sd, world.walk) for _ in range(2)]
    times = [_noise(rng, total, world.latency_sd, world.walk) for _ in range(2)]
    if not world.own:
        errors[1], times[1] = errors[0], times[0]
    day = np.zeros(total)
    if world.day:
        day = np.sin(2 * np.pi * np.arange(total) * LOOK_S / 2_400 + rng.uniform(0, 2 * np.pi))
    volume = per_minute / LOOKS_A_MINUTE * (1 + 0.7 * day) * np.ones(total)
    burst = _bursts(rng, total) if world.bursts else np.zeros(total, bool)
    phases = []
    for index, share in enumerate(STEPS):
        part = slice(index * looks, (index + 1) * looks)
        arms = []
        for arm, arm_share in enumerate((share, 1 - share)):
            rate = BASE_ERRORS * np.exp(errors[arm][part] + 0.7 * day[part])
            level = np.exp(times[arm][part] + 0.25 * day[part])
            rate, level = np.where(burst[part], 0.2, rate), np.where(burst[part], 3.0 * level, level)
            if world.hiccups:
                rate = rate + 0.5 * _hiccups(rng, looks, replicas=max(1, round(4 * arm_share)))
            if arm == 0:
                at = (np.arange(total)[part]) * LOOK_S
                rate = rate + change.errors + change.leak * np.minimum(1.0, at / change.leak_s)
                level = level * change.latency
            arms.append(_arm(rng, volume[part] * arm_share, np.clip(rate, 0, 1), level, world))
        phases.append(Phase(share, arms[0], arms[1], looks))
    return phases


def _noise(rng: np.random.Generator, looks: int, sd: float, walk: bool) -> Array:
    if not sd:
        return np.zeros(looks)
    if walk:
        return np.clip(np.cumsum(rng.normal(0, sd, looks)), -1.6, 1.6)
    keep = PER_MINUTE ** (1 / LOOKS_A_MINUTE)
    found = np.empty(looks)
    found[0] = rng.normal(0, sd)
    steps = rng.normal(0, sd * np.sqrt(1 - keep**2), looks)
    for at in range(1, looks):
        found[at] = keep * found[at - 1] + steps[at]
    return found


def _bursts(rng: np.random.Generator, looks: int) -> Array:
    """Two looks long, one in thirty begins one."""
    starts = rng.random(looks) < 1 / 30
    return starts | np.roll(starts, 1)


def _hiccups(rng: np.random.Generator, looks: int, replicas: int) -> Array:
    """Share of an arm's requests that meet a replica in its two bad seconds."""
    return rng.binomial(replicas, 1 / 60, looks) / replicas * (2 / LOOK_S)


def _arm(rng: np.random.Generator, volume: Array, rate: Array, level: Array, world: World) -> Arm:
    requests = rng.poisson(volume)
    times = np.zeros((len(requests), LAST_BUCKET + 1), np.int64)
    for look, n in enumerate(requests):
        if n:
            times[look] = rng.multinomial(n, _shares(float(level[look]), world))
    return Arm(requests, rng.binomial(requests, rate), times)


_KNOWN: dict[tuple[float, str], Array] = {}


def _shares(level: float, world: World) -> Array:
    """Probability of each latency bucket. Levels are rounded to a thousandth, which is far below a bucket's width."""
    key = (round(np.log(level), 3), world.name)
    if key not in _KNOWN:
        below = _normal((EDGES - np.log(MEDIAN_MS) - key[0]) / world.spread)
        if world.tail:
            scale = np.log(MEDIAN_MS) + key[0]
            pareto = np.where(scale < EDGES, 1 - np.exp(-1.1 * (EDGES - scale)), 0.0)
            below = (1 - world.tail) * below + world.tail * pareto
        found = np.diff(below, prepend=0.0)
        found[-1] += 1 - found.sum()
        _KNOWN[key] = np.clip(found, 0, 1) / np.clip(found, 0, 1).sum()
    return _KNOWN[key]


def _normal(x: Array) -> Array:
    from scipy.special import ndtr

    found: Array = ndtr(x)
    return found


REGRESSIONS: Mapping[str, Change] = {
    "errors 0.5 -> 1 %": Change(errors=0.005),
    "errors 0.5 -> 1.5 % (twice the tolerated)": Change(errors=0.01),
    "errors 0.5 -> 2 %": Change(errors=0.015),
    "errors 0.5 -> 5 %": Change(errors=0.045),
    "p99 +20 %": Change(latency=1.2),
    "p99 +50 %": Change(latency=1.5),
    "slow leak to 3 %": Change(leak=0.03),
    "one class of requests (10 %) fails in a fifth": Change(errors=0.02),
}

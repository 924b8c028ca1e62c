"""One replica's life as data: what a start, a death, a probe means, and when to try again. Pure; time is passed in.

A replica that was never ready is given up after a few deaths, because trying again changes nothing; one that was ready
is started again for ever, because callers wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headgate.workload import Probe, ReplicaState

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 10.0
HEALTHY_S = 60.0  # ready for this long, and the next death counts as the first
DEATHS_BEFORE_READY = 5  # a replica that dies this often without ever being ready is given up


@dataclass(frozen=True, slots=True)
class Life:
    """Kept in life.json, so that a restarted controller counts on. Times are seconds since the epoch."""

    started_at: float | None = None  # of this run; None: it does not run
    restarts: int = 0  # since the replica was asked for
    deaths: int = 0  # in a row
    ready_since: float | None = None  # None: not ready in this run
    ever_ready: bool = False
    unready: bool = False  # was ready in this run; its probe has failed often enough
    retry_at: float = 0.0  # not before this
    failed: bool = False
    message: str = ""  # why it is not ready
    succeeded: int = 0  # readiness probes in a row
    refused: int = 0  # readiness probes in a row, counted once per period
    refused_at: float = 0.0  # when the last one was counted
    silent: int = 0  # liveness probes in a row

    @property
    def state(self) -> ReplicaState:
        if self.failed:
            return ReplicaState.FAILED
        if self.started_at is None:
            return ReplicaState.RESTARTING if self.deaths else ReplicaState.STARTING
        if self.ready_since is None:
            return ReplicaState.STARTING
        return ReplicaState.UNREADY if self.unready else ReplicaState.READY


def started(life: Life, now: float) -> Life:
    return replace(
        life,
        started_at=now,
        restarts=life.restarts + (1 if life.deaths else 0),
        ready_since=None,
        unready=False,
        succeeded=0,
        refused=0,
        refused_at=0.0,
        silent=0,
    )


def died(life: Life, why: str, now: float) -> Life:
    """Ended without being asked to: tried again after a pause that doubles, or given up."""
    healthy = life.ready_since is not None and now - life.ready_since >= HEALTHY_S
    deaths = 1 if healthy else life.deaths + 1
    return replace(
        life,
        started_at=None,
        ready_since=None,
        unready=False,
        deaths=deaths,
        failed=not life.ever_ready and deaths >= DEATHS_BEFORE_READY,
        retry_at=now + min(BACKOFF_FIRST_S * 2 ** min(deaths - 1, 20), BACKOFF_MOST_S),
        message=why,
    )


def not_started(life: Life, why: str, now: float, after_s: float) -> Life:
    """The machine could not start it (a full disk): not the replica's fault, so not counted."""
    return replace(life, retry_at=now + after_s, message=why)


def asked_again(life: Life) -> Life:
    """A new apply gives a given-up replica another chance."""
    return Life(restarts=life.restarts) if life.failed else life


def answered_ready(life: Life, probe: Probe, now: float) -> Life:
    """Readiness is asked all the time; it takes `success_threshold` answers in a row."""
    succeeded = life.succeeded + 1
    if succeeded < probe.success_threshold:
        return replace(life, succeeded=succeeded, refused=0)
    since = now if life.ready_since is None or life.unready else life.ready_since
    return replace(life, succeeded=succeeded, refused=0, ready_since=since, ever_ready=True, unready=False, message="")


def answered_unready(life: Life, probe: Probe, why: str, now: float) -> Life:
    """Failure counts once per period, and not before the initial delay. Never ready in time: given up, or started
    again when it has been ready before."""
    if _young(life, probe, now) or now < life.refused_at + probe.period_s:
        return replace(life, succeeded=0, message=why if life.ready_since is None else life.message)
    refused = life.refused + 1
    counted = replace(life, succeeded=0, refused=refused, refused_at=now, message=why)
    if refused < probe.failure_threshold:
        return counted
    return counted if life.ready_since is None else replace(counted, unready=True)


def gone(life: Life) -> Life:
    """Nobody listens at its address: not ready from this moment, whatever the probe's patience."""
    return replace(life, unready=life.ready_since is not None, succeeded=0, message="it does not listen any more")


def too_late(life: Life, probe: Probe) -> bool:
    """It had all the time its readiness probe allows and never got ready in this run."""
    return life.ready_since is None and life.refused >= probe.failure_threshold


def given_up(life: Life, why: str) -> Life:
    return replace(life, started_at=None, failed=True, message=why)


def alive(life: Life) -> Life:
    return replace(life, silent=0) if life.silent else life


def silent(life: Life, probe: Probe, why: str, now: float) -> Life:
    """A liveness probe had no answer; counts after the initial delay."""
    if _young(life, probe, now):
        return life
    return replace(life, silent=life.silent + 1, message=why)


def _young(life: Life, probe: Probe, now: float) -> bool:
    return life.started_at is None or now < life.started_at + probe.initial_delay_s


def hangs(life: Life, probe: Probe) -> bool:
    return life.silent >= probe.failure_threshold


def cores(asked: float, seed: int, available: list[int]) -> list[int]:
    """The cores a replica stays on: one more than asked, for the front beside the model; empty: any.

    Only where that leaves cores for others; who comes next starts at another core.
    """
    count = -int(-asked // 1) + 1
    if asked <= 0 or count >= len(available):
        return []
    first = seed % len(available)
    return sorted(available[(first + i) % len(available)] for i in range(count))

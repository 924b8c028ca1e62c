"""What starts, deaths and probes mean, with time passed in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.workload import Probe, ReplicaState
from headgate_controllers.platforms.process import life as lives
from headgate_controllers.platforms.process.life import Life

PROBE = Probe(initial_delay_s=10, period_s=5, success_threshold=1, failure_threshold=3)


def up(now: float = 0.0) -> Life:
    return lives.answered_ready(lives.started(Life(), now), PROBE, now)


def test_a_new_replica_is_starting_and_ready_with_its_first_good_answer() -> None:
    assert Life().state is ReplicaState.STARTING
    assert lives.started(Life(), 1.0).state is ReplicaState.STARTING
    assert up().state is ReplicaState.READY


def test_several_good_answers_in_a_row_may_be_asked_for() -> None:
    patient = replace(PROBE, success_threshold=2)
    life = lives.answered_ready(lives.started(Life(), 0.0), patient, 1.0)
    assert life.state is ReplicaState.STARTING
    assert lives.answered_ready(life, patient, 2.0).state is ReplicaState.READY
    between = lives.answered_unready(life, patient, "no", 1.5)
    assert lives.answered_ready(between, patient, 2.0).state is ReplicaState.STARTING


def test_a_dead_replica_waits_and_the_wait_doubles_to_its_limit() -> None:
    life, waits = up(), []
    for _ in range(10):
        life = lives.started(lives.died(life, "why", 5.0), 5.0)
        waits.append(round(life.retry_at - 5.0, 3))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert life.restarts == 10
    assert lives.died(life, "why", 5.0).state is ReplicaState.RESTARTING


def test_a_minute_of_health_forgets_earlier_deaths() -> None:
    life = lives.died(lives.died(up(), "a", 1.0), "b", 2.0)
    healthy = lives.answered_ready(lives.started(life, 3.0), PROBE, 3.0)
    assert lives.died(healthy, "c", 63.0).deaths == 1
    assert lives.died(healthy, "c", 62.0).deaths == 3


def test_a_replica_that_never_got_ready_is_given_up_after_five_deaths_with_the_last_reason() -> None:
    life = Life()
    for number in range(1, 6):
        assert not life.failed
        life = lives.died(lives.started(life, 0.0), f"death {number}", 0.0)
    assert (life.state, life.message) == (ReplicaState.FAILED, "death 5")


def test_a_replica_that_was_ready_once_is_never_given_up() -> None:
    life = up()
    for _ in range(50):
        life = lives.died(lives.started(life, 0.0), "again", 0.0)
    assert not life.failed


def test_a_new_apply_gives_a_given_up_replica_another_chance_and_others_nothing() -> None:
    assert lives.asked_again(lives.given_up(Life(restarts=4), "no")) == Life(restarts=4)
    assert lives.asked_again(up()) == up()


def test_readiness_failure_counts_once_per_period_and_after_the_initial_delay() -> None:
    life = up(0.0)
    for now in (1.0, 9.9, 10.0, 12.0, 15.0, 16.0):
        life = lives.answered_unready(life, PROBE, "busy", now)
    assert life.state is ReplicaState.READY
    life = lives.answered_unready(life, PROBE, "busy", 20.0)
    assert (life.state, life.message) == (ReplicaState.UNREADY, "busy")
    assert lives.answered_ready(life, PROBE, 21.0).state is ReplicaState.READY


def test_one_that_is_not_ready_in_all_the_time_its_probe_allows_is_too_late() -> None:
    life = lives.started(Life(), 0.0)
    for now in (10.0, 15.0):
        life = lives.answered_unready(life, PROBE, "init() is not done", now)
    assert not lives.too_late(life, PROBE)
    assert lives.too_late(lives.answered_unready(life, PROBE, "init() is not done", 20.0), PROBE)


def test_one_that_does_not_listen_any_more_is_unready_at_once() -> None:
    assert lives.gone(up()).state is ReplicaState.UNREADY
    assert lives.gone(lives.started(Life(), 0.0)).state is ReplicaState.STARTING


def test_liveness_failures_in_a_row_mean_it_hangs() -> None:
    life = lives.silent(lives.silent(up(), PROBE, "no answer", 11.0), PROBE, "no answer", 16.0)
    assert not lives.hangs(life, PROBE)
    assert not lives.hangs(lives.silent(lives.alive(life), PROBE, "no answer", 21.0), PROBE)
    assert lives.hangs(lives.silent(life, PROBE, "no answer", 21.0), PROBE)
    assert lives.silent(up(), PROBE, "no answer", 9.0).silent == 0


def test_a_machine_that_cannot_start_it_is_not_the_replicas_fault() -> None:
    life = lives.not_started(Life(), "no space left", 10.0, 5.0)
    assert (life.deaths, life.retry_at, life.state, life.message) == (0, 15.0, ReplicaState.STARTING, "no space left")


@pytest.mark.parametrize(
    ("asked", "seed", "available", "chosen"),
    [
        pytest.param(1.0, 0, [0, 1, 2, 3], [0, 1], id="one-and-the-front"),
        pytest.param(1.0, 3, [0, 1, 2, 3], [0, 3], id="next-one-starts-elsewhere"),
        pytest.param(0.5, 1, [4, 5, 6], [5, 6], id="part-of-a-core"),
        pytest.param(1.0, 0, [0, 1], [], id="small-machine-any"),
        pytest.param(0.0, 0, [0, 1, 2], [], id="no-limit-any"),
    ],
)
def test_cores_are_a_rotating_part_of_the_machine(
    asked: float, seed: int, available: list[int], chosen: list[int]
) -> None:
    assert lives.cores(asked, seed, available) == chosen

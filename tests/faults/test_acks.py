"""No step counts as served by all while a router worker that runs may still serve the table before."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import System

pytestmark = pytest.mark.faults


def live(system: System, commit: str) -> list[dict[str, Any]]:
    found = system.api("/events?endpoint=adder&limit=5000")["events"]
    return [event for event in found if event["kind"] == "op.live" and commit[:10] in event["rollout"]]


def silent(system: System, worker: str) -> bool:
    """Long enough that its lease has ended, and known as one that is waited for."""
    rows = {row["worker"]: row for row in system.api("/status")["workers"]}
    return worker in rows and bool(rows[worker]["lost"] and rows[worker]["waited"])


def test_a_worker_that_hangs_holds_the_steps_of_a_controller_that_never_heard_it(system: System) -> None:
    system.serve_blue()
    hangs = system.service("router-1")
    assert hangs is not None
    os.kill(hangs, signal.SIGSTOP)
    try:
        assert system.kill(system.service("controller"))
        system.deployment("green", 2, offset=1)
        system.traffic(green=100)
        green = system.push("green")
        system.until("the mirror is published", lambda: mirrored(system))
        system.until("a lease has ended", lambda: silent(system, "router-1"))
        shown = system.endpoint()
        assert (shown["acked"], live(system, green)) == (0, [])
        assert shown["generation"] > 0
    finally:
        os.kill(hangs, signal.SIGCONT)
    system.until("the mirror is live", lambda: live(system, green))
    assert system.endpoint()["acked"] >= shown["generation"]


def mirrored(system: System) -> bool:
    return any(row["mirror"] for row in system.api("/routes")["routes"])


def test_a_worker_that_hung_and_was_killed_is_not_waited_for(system: System) -> None:
    system.serve_blue()
    hangs = system.service("router-1")
    assert hangs is not None
    os.kill(hangs, signal.SIGSTOP)
    system.until("its lease has ended", lambda: silent(system, "router-1"))
    assert system.kill(hangs)
    system.until("another one is in its place", lambda: not silent(system, "router-1"))
    system.deployment("green", 2, offset=1)
    system.traffic(green=100)
    green = system.push("green")
    system.until("the mirror is live", lambda: live(system, green))

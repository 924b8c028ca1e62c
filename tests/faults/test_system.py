"""kill -9 of every part, at every op boundary and at random: the rollout ends where it would have, each effect once."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import System

pytestmark = pytest.mark.faults

OPS = ["build", "smoke", "deploy", "mirror", "step-20", "step-100", "finalize"]
PARTS = ["controller", "op", "supervisor", "router", "replica"]


def commit_green(system: System) -> str:
    system.deployment("green", 2, offset=1)
    system.traffic(green=100)
    return system.push("green")


def events(system: System, kind: str) -> list[dict[str, Any]]:
    found = system.api("/events?endpoint=adder&limit=5000")["events"]
    return [event for event in found if event["kind"] == kind]


def opened(system: System, commit: str, op: str) -> bool:
    return any(e["op"] == op and commit[:10] in e["rollout"] for e in events(system, "op.opened"))


def kill(system: System, part: str, chance: random.Random) -> bool:
    if part == "controller":
        return system.kill(system.service("controller"))
    if part == "router":
        return system.kill(system.service(f"router-{chance.randrange(system.workers)}"))
    if part == "op":
        return any([system.kill(pid) for pid in system.ops()])  # noqa: C419 - all of them
    if part == "replica":
        # One of two, never both: what is promised is that the other one takes the request.
        system.until("both replicas of what is live", lambda: both_ready(system))
        return system.kill(chance.choice(system.replicas()))
    killed = system.kill(system.supervisor())
    if killed:
        system.up()
    return killed


def both_ready(system: System) -> bool:
    """Both processes live, and are known to be ready: one that was killed a moment ago may still be listed as ready."""
    live = [row for row in system.endpoint()["revisions"] if row["per_mille"]]
    return all(len(system.replicas(row["revision"])) >= 2 and row["ready"] >= 2 for row in live)


def each_effect_once(system: System, commits: list[str]) -> None:
    started = Counter(event["rollout"] for event in events(system, "rollout.started"))
    assert len(started) == len(commits), started
    assert set(started.values()) == {1}, started
    opened = Counter((event["rollout"], event["op"]) for event in events(system, "op.opened"))
    assert set(opened.values()) == {1}, opened
    passed = Counter((event["rollout"], event["op"]) for event in events(system, "op.passed"))
    assert opened.keys() == passed.keys()
    assert set(passed.values()) == {1}, passed


@pytest.mark.parametrize("part", PARTS)
def test_a_part_killed_at_every_op_boundary_changes_no_outcome(system: System, part: str, seed: int) -> None:
    chance = random.Random(seed)
    blue = system.serve_blue()
    caller = system.caller()
    green = commit_green(system)
    struck = []
    for op in OPS:
        system.until(f"{op} opened", lambda op=op: opened(system, green, op))
        if kill(system, part, chance):
            struck.append(op)
    system.settled(green)
    system.until("answers", lambda: caller.seen.ok > 50)
    seen = caller.end()
    assert struck, "nothing was killed"
    assert system.shares() == {"green": 1000}
    each_effect_once(system, [blue, green])
    if part == "router":  # only requests open at the kill are lost
        assert len(seen.bad) <= len(struck), seen.bad
    else:
        assert seen.bad == []


def test_parts_killed_at_random_change_no_outcome(system: System, seed: int) -> None:
    chance = random.Random(seed)
    blue = system.serve_blue()
    caller = system.caller()
    green = commit_green(system)
    routers = 0
    for _ in range(12):
        time.sleep(chance.uniform(0.2, 1.2))
        part = chance.choice(PARTS)
        routers += kill(system, part, chance) and part == "router"
    system.settled(green)
    seen = caller.end()
    assert system.shares() == {"green": 1000}
    each_effect_once(system, [blue, green])
    assert len(seen.bad) <= routers, seen.bad


def test_a_bad_model_is_stopped_although_the_controller_is_killed_again_and_again(system: System, seed: int) -> None:
    chance = random.Random(seed)
    system.serve_blue()
    caller = system.caller()
    system.deployment("wrong", 2000)
    del system.models["wrong"]  # no caller may ever see its answers
    system.traffic(wrong=100)
    wrong = system.push("wrong: another scale")
    system.until("the mirror", lambda: [e for e in events(system, "op.opened") if e["op"] == "mirror"])
    for _ in range(5):
        kill(system, "controller", chance)
        time.sleep(chance.uniform(0.3, 1.5))
    reverts = system.until("the revert commit", lambda: [s for s in system.log() if s.startswith("Revert")])
    assert len(reverts) == 1
    seen = caller.end()
    assert seen.bad == []
    assert system.shares() == {"blue": 1000}
    undone = system.log("%(trailers:key=Headgate-Undoes,valueonly)")[0]
    assert wrong in undone


def test_everything_down_and_up_again_serves_the_same(system: System) -> None:
    commit = system.serve_blue()
    before = system.endpoint()["revisions"]
    system.down()
    system.up()
    after = system.settled(commit)["revisions"]
    assert [(r["revision"], r["per_mille"]) for r in after] == [(r["revision"], r["per_mille"]) for r in before]
    assert len(events(system, "rollout.started")) == 1
    caller = system.caller()
    system.until("answers", lambda: caller.seen.ok > 10 or caller.seen.bad)
    assert caller.end().bad == []

"""kill -9 at every phase of a rollout, of a rollback, of an abort: the same end, each effect once, no failed request.

One victim at a time: the controller, a router pod, the kubelet of the controller's node, the pod of the op that runs.
README.md turns it on; the table of what was seen is kept in bench/results/cluster.json, `kills`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from bench.numbers import RESULTS, keep

import machine
from installation import CLAIMS, Installation, Recorder, within
from world import PATIENCE_S, World, ready, start

PHASES = ("build", "smoke", "deploy", "mirror", "step", "finalize")
VICTIMS = ("controller", "router", "kubelet", "op")
OP = "headgate.dev/op"  # of an op's pod: the op it is
NOBODY = "-"
DOWN_S = 4.0  # of a kubelet: whoever watches over it starts it again

pytestmark = pytest.mark.skipif(
    bool(not CLAIMS or machine.missing()),
    reason=f"{machine.LACKS}; and HEADGATE_E2E_CLAIMS=1, as a controller that is killed needs its volume",
)


@pytest.fixture(scope="module")
def world(installation: Installation) -> World:
    return start(installation)


# --- victims ----------------------------------------------------------------------------------------------------------


def kill_container(world: World, part: str) -> Callable[[], bool]:
    """Kills the first ready pod of a part; answers whether as many are ready as before."""
    before = world.pods(part)
    victim = next(pod for pod in before if ready(pod))
    world.machine.kill_container(victim)
    killed = victim["status"]["containerStatuses"][0]["containerID"]

    def back() -> bool:
        now = world.pods(part)
        for pod in now:
            status = (pod["status"].get("containerStatuses") or [{}])[0]
            if (status.get("state") or {}).get("waiting", {}).get("reason") == "CrashLoopBackOff":
                world.place.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
        running = [pod for pod in now if ready(pod)]
        known = {pod["status"]["containerStatuses"][0]["containerID"] for pod in running}
        return len(running) >= len(before) and killed not in known

    return back


def kill_kubelet(world: World) -> Callable[[], bool]:
    """Of the node on which the controller runs."""
    node = world.pods("controller")[0]["spec"]["nodeName"]
    with world.machine.without(f"kubelet-{node}"):
        time.sleep(DOWN_S)  # how long it is away: nothing is waited for

    def back() -> bool:
        found = world.place.get("node", node)
        return ready(found)

    return back


def kill_op(world: World, phase: str) -> Callable[[], bool] | None:
    """The pod of the phase's op. None: the phase has no op, or its op ended before its pod was seen to run."""

    def killed() -> str:
        """Its pod's name; NOBODY: there is none left to kill; empty: it does not run yet."""
        asks = [pod for pod in world.pods("op") if pod["metadata"]["annotations"][OP].partition("-")[0] == phase]
        newest = max(asks, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
        if newest is not None and newest["status"]["phase"] == "Pending":
            return ""
        runs = newest is not None and newest["status"]["phase"] == "Running"
        return str(newest["metadata"]["name"]) if runs and world.machine.kill_container(newest) else NOBODY

    name = within(PATIENCE_S, killed, f"the pod of {phase} runs")
    if name == NOBODY:
        return None
    return lambda: all(
        pod["metadata"]["name"] != name or pod["status"]["phase"] != "Running" for pod in world.pods("op")
    )


def strike(world: World, victim: str, phase: str) -> None:
    """Kills, waits until what was killed is back, and notes how long that took."""
    began = time.monotonic()
    if victim == "kubelet":
        back: Callable[[], bool] | None = kill_kubelet(world)
    elif victim == "op":
        back = kill_op(world, phase)
    else:
        back = kill_container(world, victim)
    if back is None:
        world.rows.setdefault(victim, {})[phase] = None
        return
    within(PATIENCE_S, back, f"{victim}, killed at {phase}, is back")
    world.rows.setdefault(victim, {})[phase] = round(time.monotonic() - began, 1)


# --- what is done -----------------------------------------------------------------------------------------------------


def reached(world: World, commit: str, phase: str) -> bool:
    """The phase's op runs, or has passed just now."""
    found = world.rollout(commit)
    ops = {op["name"]: op["state"] for op in found["ops"]} if found else {}
    return any(name.partition("-")[0] == phase and state != "waiting" for name, state in ops.items())


def go_forward(world: World, victim: str, word: str) -> str:
    world.write(word)
    commit = world.place.push(word)
    for phase in PHASES:
        within(PATIENCE_S, lambda p=phase: reached(world, commit, p), f"{phase} of {word}")
        strike(world, victim, phase)
    within(PATIENCE_S, lambda: world.serves(commit), f"{word} serves")
    return commit


def go_back(world: World, victim: str) -> str:
    """`git revert` of what serves: a rollback."""
    world.place.git("revert", "--no-edit", "HEAD")
    world.place.git("push", "-q", "origin", "HEAD:main")
    strike(world, victim, "rollback")
    commit = world.place.git("rev-parse", "HEAD")
    within(PATIENCE_S, lambda: world.serves(commit), "the revert serves")
    return commit


def go_wrong(world: World, victim: str, word: str) -> str:
    """A commit that its gates refuse; the bot's revert is fetched."""
    world.write(word)
    commit = world.place.push(word)
    within(PATIENCE_S, lambda: (world.rollout(commit) or {}).get("state") == "failed", f"{word} is refused")
    strike(world, victim, "abort")

    def reverted() -> bool:
        world.place.git("fetch", "-q", "origin")
        return world.place.git("rev-parse", "origin/main") != commit

    within(PATIENCE_S, reverted, "git is reverted")
    world.place.git("reset", "-q", "--hard", "origin/main")
    commit = world.place.git("rev-parse", "HEAD")
    within(PATIENCE_S, lambda: world.serves(commit), "the bot's revert serves")
    return commit


def effects(world: World, events: list[Any]) -> dict[str, Counter[str]]:
    """How often each thing was done, by what it is."""
    done: dict[str, Counter[str]] = {}
    for event in events:
        if event["kind"] in ("rollout.started", "op.opened", "op.passed", "op.failed", "revert.done"):
            done.setdefault(event["kind"], Counter())[f"{event['rollout']}/{event['op']}"] += 1
    deployments = world.place.get("deployments", selector="headgate.dev/part=model")["items"]
    done["deployment"] = Counter(item["metadata"]["labels"]["headgate.dev/revision"] for item in deployments)
    trailers = world.place.git("log", "--format=%(trailers:key=Headgate-Op-Key,valueonly)", "origin/main").split()
    done["revert commit"] = Counter(trailers)
    return done


@pytest.mark.parametrize("victim", VICTIMS)
def test_whatever_is_killed_the_end_is_the_same_and_nothing_is_done_twice(world: World, victim: str) -> None:
    before = within(60, world.live, "something serves")
    newest = within(60, lambda: world.ask("/events?endpoint=greet&limit=1"), "the controller answers")["next"]
    recorder = Recorder(world.place, world.place.key())
    recorder.start()
    began = time.monotonic()
    go_forward(world, victim, f"good-{victim}")
    went = world.live()
    go_back(world, victim)
    assert world.live() == before
    go_wrong(world, victim, f"bad-{victim}")
    took = time.monotonic() - began
    seen = recorder.stop()
    path = f"/events?endpoint=greet&after={newest}&limit=5000"
    events = within(60, lambda: world.ask(path), "the controller answers")["events"]
    done = effects(world, events)
    row = {
        "back_s": world.rows[victim],
        "seconds": round(took, 1),
        "requests": sum(seen.values()),
        "failed": sum(count for status, count in seen.items() if status != 200),
        "asked_again": recorder.again,
        "rollouts": len(done["rollout.started"]),
        "ops": len(done["op.opened"]),
        "reverts": len(done["revert.done"]),
    }
    _keep(victim, row)
    assert (world.live(), went != before) == (before, True)
    assert len(done["rollout.started"]) == 2, "one for the good commit, one for the bad one; a rollback needs none"
    assert len(done["revert.done"]) == 1
    assert {what: n for found in done.values() for what, n in found.items() if n != 1} == {}
    assert set(seen) == {200}, seen
    assert recorder.again == 0 or victim == "router", "only a router pod that is killed loses connections"


def _keep(victim: str, row: dict[str, Any]) -> None:
    file = RESULTS / "cluster.json"
    known = json.loads(file.read_text()).get("kills", {}) if file.exists() else {}
    keep("cluster", {"kills": {**known, victim: row}})

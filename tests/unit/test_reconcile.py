"""The loop over endpoints: bad luck with one is nobody else's. On a controller put together as in production."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headgate.control import Ack, ExchangeRequest
from headgate.evidence import Result
from headgate.rollout import Head, OpRecord, State
from headgate.testing import FAST, World, deployment, target
from headgate_controllers import reconcile
from headgate_controllers.adapters import Adapters
from headgate_controllers.api.news import News
from headgate_controllers.main import Parts, assemble
from headgate_controllers.options import Options
from headgate_kit.layout import DataFolder

DEPLOYMENT = (
    "name: blue\nmodel: {path: ../code/m.pkl}\ncode_configuration: {code: ../code, scoring_script: score.py}\n"
    "environment: {conda_file: ../code/conda.yml}\ninstance_type: small\n"
)


class Clock:
    """What the machine says it is; somebody may set it."""

    def __init__(self) -> None:
        self.set_by_s = 0.0
        self._real = time.time

    def __call__(self) -> float:
        return self._real() + self.set_by_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    return made


@pytest.fixture
def parts(tmp_path: Path, clock: Clock) -> Iterator[Parts]:
    """Two endpoints, each with a commit that was taken up; nothing is started."""
    repo = tmp_path / "repo"
    for name in ("churn", "fraud"):
        files = {
            "endpoint.yml": f"name: {name}\nauth_mode: key\ntraffic: {{blue: 100}}\n",
            "deployments/blue.yml": DEPLOYMENT,
            "code/score.py": "def init(): ...\n",
            "code/m.pkl": "weights",
            "code/conda.yml": "dependencies: [python=3.11]\n",
        }
        for path, text in files.items():
            file = repo / "endpoints" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    git = ("git", "-C", str(repo), "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for command in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    data = DataFolder(tmp_path / "data")
    data.prepare()
    made = assemble(Options(data, str(repo), None), Adapters(), "token", News())
    made.controller.commits.look()
    yield made
    for part in (made.acts, made.engine, made.platform, made.repo, made.record):
        part.close()


def rollout(parts: Parts, endpoint: str) -> str:
    active = parts.controller.heads.get(endpoint).active
    assert active is not None
    return active.id


def test_an_adapter_that_breaks_for_one_endpoint_leaves_the_others_their_actions(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = parts.engine.submit

    def breaks(workflow: Mapping[str, Any]) -> None:
        if workflow["metadata"]["name"] == rollout(parts, "churn"):
            raise ValueError("an adapter may be anybody's")
        submit(workflow)

    monkeypatch.setattr(parts.engine, "submit", breaks)
    parts.reconciler._guarded_passes(("churn", "fraud"))
    assert parts.engine.status(rollout(parts, "fraud")) is not None
    monkeypatch.undo()
    parts.reconciler._guarded_passes(("churn", "fraud"))
    assert parts.engine.status(rollout(parts, "churn")) is not None


def at_a_step(parts: Parts, began: float) -> None:
    """fraud is at its first step, since then."""
    blue, green = deployment("blue"), deployment("green")
    world = World(Head("fraud"), now=began, result=Result.INCONCLUSIVE)
    world.commit(target("b1", [blue], {"blue": 100})).commit(target("a2", [blue, green], {"green": 100}))
    world.result = Result.PASS
    world.wait(10)
    parts.controller.heads.change("fraud", lambda draft: draft.set(**{f: getattr(world.head, f) for f in FIELDS}))


FIELDS = ("asked", "traffic", "revisions", "releases", "rollout")


def running(parts: Parts) -> OpRecord:
    rollout = parts.controller.heads.get("fraud").rollout
    assert rollout is not None
    assert rollout.state is State.RUNNING, rollout.message
    return rollout.ops[-1]


def test_a_controller_that_was_away_for_longer_than_max_soak_holds_what_it_finds(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    began = now - 10 * FAST.max_soak_s
    at_a_step(parts, began)
    parts.record.meta_set(reconcile.WATCHED, repr(began + 20))
    monkeypatch.setattr(parts.reconciler, "_watched_at", began + 20)
    held = running(parts)
    assert (held.verb, held.live_at) == ("step", began + 10)
    parts.reconciler._decide("fraud")
    live_at = running(parts).live_at
    assert live_at is not None
    assert now - live_at == pytest.approx(10 + reconcile.WATCHED_S, abs=5), "what was watched counts, and no more"


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0], ids=["it slept, or its clock was set on", "set back"])
def test_a_gap_between_two_passes_ends_no_op(parts: Parts, clock: Clock, jump_s: float) -> None:
    now = time.time()
    at_a_step(parts, now - 20)
    parts.reconciler._decide("fraud")
    before = running(parts)
    assert before.live_at is not None
    assert before.unready_since is not None, "nothing runs here"
    clock.set_by_s = jump_s
    parts.reconciler._decide("fraud")
    after = running(parts)
    assert after.live_at is not None
    assert after.unready_since is not None
    assert now + jump_s - after.live_at == pytest.approx(now - before.live_at, abs=reconcile.WATCHED_S + 1)
    assert after.unready_since == pytest.approx(now + jump_s, abs=reconcile.WATCHED_S + 1)


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0], ids=["on", "back"])
def test_a_clock_that_is_set_changes_no_lease_of_a_router_worker(parts: Parts, clock: Clock, jump_s: float) -> None:
    table = parts.controller.routes.table
    parts.controller.exchanged(ExchangeRequest("elsewhere-0", "b", 0, Ack(table.generation, table.hash), ()))
    (before,) = parts.controller.workers.status()
    clock.set_by_s = jump_s
    (after,) = parts.controller.workers.status()
    assert (before.lost, after.lost) == (False, False)
    assert 0.0 <= after.age_s < 60.0


def test_a_controller_that_is_not_the_one_to_act_does_nothing_and_goes_on_when_it_is(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = False
    asked = threading.Event()

    def may() -> bool:
        asked.set()
        return ours

    monkeypatch.setattr(parts.reconciler, "_may", may)
    monkeypatch.setattr(reconcile, "RETRY_S", 0.01)
    parts.reconciler.start()
    assert asked.wait(30)
    asked.clear()
    assert asked.wait(30), "it asks again"
    parts.reconciler._guarded_passes(("fraud",))
    assert parts.engine.status(rollout(parts, "fraud")) is None
    ours = True
    deadline = time.monotonic() + 60
    while parts.engine.status(rollout(parts, "fraud")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parts.reconciler.close()

"""Ten thousand endpoints in one repo: validating all of them cold, and planning a change to one of them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.control import repos
from bench.control.measure import Measured, one_core, quantile

from headgate import reading
from headgate.planning import make_plan
from headgate.process import Settings
from headgate.rollout import Head
from headgate_controllers.repo import EndpointsRepo

ENDPOINTS = 10_000
CHANGES = 20


def plan() -> list[Measured]:
    """Fetch, what changed, read the one endpoint, plan: the controller's way from a pushed commit to a plan."""
    with tempfile.TemporaryDirectory() as folder:
        origin = repos.make(Path(folder) / "origin.git", ENDPOINTS)
        repo = EndpointsRepo(origin, Path(folder) / "mirror.git", "main")
        repo.fetch()
        cache: dict[object, object] = {}
        handled = repo.head()
        reading.read_all(repo.tree(handled), Settings(), None, cache)  # the first load
        took = []
        for number in range(CHANGES):
            name = repos.endpoint_name(number * 499)
            path = f"endpoints/{name}/deployments/blue.yml"
            text = repos.DEPLOYMENT.format(name=name, deployment="blue").replace("MODEL:", f"CHANGED_{number}:")
            repos.commit(origin, {path: text}, "one file")
            began = time.perf_counter()
            handled = _plan_change(repo, handled, cache)
            took.append((time.perf_counter() - began) * 1e3)
        repo.close()
    says = f"plan of a one-file change in {ENDPOINTS:,} endpoints, median of {CHANGES} (fetch, diff, read, plan)"
    return [Measured("plan_one_of_10k_ms", round(quantile(took, 0.5), 2), says, 100)]


def _plan_change(repo: EndpointsRepo, handled: str, cache: dict[object, object]) -> str:
    repo.fetch()
    commit = repo.head()
    touched = {path.split("/")[1] for path in repo.changed_paths(handled, commit)}
    for name in touched:
        target = reading.read_endpoint(repo.tree(commit), name, Settings(), None, cache).target
        assert target is not None
        assert make_plan(Head(name), target).plan is not None
    assert len(touched) == 1
    return commit


def validate() -> list[Measured]:
    """`headgate validate` of a work tree, as a process of its own on one core, nothing cached."""
    with tempfile.TemporaryDirectory() as folder:
        origin = repos.make(Path(folder) / "origin.git", ENDPOINTS)
        tree = Path(folder) / "tree"
        subprocess.run(["git", "clone", "-q", str(origin), str(tree)], check=True)
        began = time.perf_counter()
        argv = [sys.executable, "-m", "headgate_console.main", "validate", str(tree)]
        done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=one_core, check=False)
        took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"validate ended with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return [Measured("validate_10k_s", round(took, 2), f"cold validation of {ENDPOINTS:,} endpoints on one core", 5)]

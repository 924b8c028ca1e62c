"""The whole story of `headgate demo`, told on a cluster: every chapter, every check, every promise but the time.

A node of a test cluster is shared by everything; so the caller is slower here, and a revert may take seconds.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bench.numbers import keep

from headgate import codec
from headgate.control import EndpointStatus
from headgate_console.demo import story
from headgate_console.demo.system import System
from headgate_console.demo.table import Outcome
from headgate_console.demo.workdir import WorkTree
from headgate_kit.files import write_atomic
from installation import POOL, Installation, within

RATE = float(os.environ.get("HEADGATE_E2E_RATE", "40"))  # requests a second
REVERT_GOAL_S = 5.0
SIZE = "{cpus: 0.25, memory_gb: 0.4}"  # the stable, a warm one, a candidate and a smoke test side by side on two cores


class OnCluster(System):
    """Headgate installed by its chart; the endpoints repo is served by a pod."""

    def __init__(self, folder: Path, place: Installation) -> None:
        super().__init__(folder)
        self._place = place
        self._router = ""

    def begin(self, tree: WorkTree) -> str:
        self.command("init", str(tree.folder))
        size = SIZE.replace("}", f", node_pool: {POOL}}}") if POOL else SIZE
        (tree.folder / "headgate.yml").write_text(f"instance_types:\n  small: {size}\n")
        with suppress(Exception):
            tree.git("remote", "remove", "origin")
        tree.git("remote", "add", "origin", self._place.git("remote", "get-url", "origin"))
        tree.git("add", "-A")
        tree.git("commit", "-q", "-m", "what this cluster has")
        tree.push()
        self._place.install()
        self._place.kubectl("rollout", "status", "deployment/headgate-controller", "--timeout=120s")
        self._place.kubectl("rollout", "status", "deployment/headgate-router", "--timeout=120s")
        token = within(60, self._place.token, "the control API has a token")
        self.data.prepare()
        write_atomic(self.data.token, token.encode(), mode=0o600)
        write_atomic(self.data.control, json.dumps({"url": self._place.door("headgate-controller", 7070)}).encode())
        self._router = self._place.door("headgate-router", 80)
        return f"Headgate runs in namespace {self._place.namespace}"

    def url(self, seen: EndpointStatus) -> str:
        return self._router + urlsplit(seen.url).path

    def pushed_at(self, tree: WorkTree) -> float:
        """When the commit was made, a moment before it was pushed: the origin's own time is not seen from here."""
        return (tree.folder / ".git/refs/heads/main").stat().st_mtime_ns / 1e9

    def down(self) -> None:
        """The namespace goes with its test."""


@pytest.mark.parametrize("engine", ["pods"])
def test_the_whole_story_has_the_same_end_on_a_cluster(installation: Installation, engine: str, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    options = story.Options(rate=RATE, keep=tmp_path, json=told, revert_goal_s=REVERT_GOAL_S)
    ended = story.main(options, lambda folder: OnCluster(folder, installation))
    outcome = codec.decode(Outcome, told.read_bytes())
    assert (ended, outcome.problems) == (0, ())
    assert (outcome.audit.failures, outcome.audit.strangers) == (0, 0)
    assert outcome.audit.requests > 0
    keep(
        "cluster",
        {
            f"story_{engine}_s": outcome.seconds,
            f"story_{engine}_requests": outcome.audit.requests,
            f"story_{engine}_failed": outcome.audit.failures,
            f"story_{engine}_revert_s": outcome.revert.answered_s,
        },
    )

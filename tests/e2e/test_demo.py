"""`headgate demo` as a new user runs it: everything real, and everything it promises holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from headgate_console import supervisor
from headgate_kit.layout import DataFolder

pytestmark = pytest.mark.e2e
WITHIN_S = 900.0  # two minutes on two free cores, and a download of scikit-learn; stuck is longer


def test_the_demo_tells_its_story_and_everything_in_it_holds(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headgate_console.main", "demo", "--keep", str(place / "d"), "--json", str(place / "j")],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    outcome = json.loads((place / "j").read_bytes())
    assert outcome["problems"] == []
    assert outcome["audit"]["requests"] > 300 * 20
    assert (outcome["audit"]["failures"], outcome["audit"]["strangers"]) == (0, 0)
    assert 0 < outcome["revert"]["answered_s"] < 1.0
    stopped = {
        name: next((op["name"] for op in rollout["ops"] if op["state"] == "failed"), "")
        for name, rollout in outcome["rollouts"].items()
    }
    assert stopped == {"blue": "", "green": "", "wrong": "mirror", "flaky": "mirror", "slow": "step-5"}
    assert set(outcome["commits"]) == {"wrong", "flaky", "slow"}

    data = DataFolder(place / "d" / "data")
    assert [supervisor.running(folder) for folder in (data.services, data.replicas, data.ops)] == [[], [], []]

"""Bad input at every door ends as a clear finding, and the last good state serves on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import System

pytestmark = pytest.mark.faults

ENDPOINT = "endpoints/adder/endpoint.yml"
BLUE = "endpoints/adder/deployments/blue.yml"


def swap(path: str, old: str, new: str) -> Callable[[System], None]:
    def break_it(system: System) -> None:
        file = system.work / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return break_it


def put(path: str, text: str) -> Callable[[System], None]:
    return lambda system: system.write(path, text)


def link_out(system: System) -> None:
    (system.work / "endpoints/adder/blue/score.py").unlink()
    (system.work / "endpoints/adder/blue/score.py").symlink_to("/etc/passwd")


# what is broken, and the code of the finding that says so
REFUSED = {
    "broken YAML": (put(ENDPOINT, "name: [adder\n"), "yaml-syntax"),
    "percents that add up to 95": (swap(ENDPOINT, "blue: 100", "blue: 95"), "traffic-sum"),
    "traffic to an unknown deployment": (swap(ENDPOINT, "blue: 100", "bleu: 100"), "traffic-unknown"),
    "25,000 nested brackets": (put(ENDPOINT, "name: " + "[" * 25_000), "yaml-depth"),
    "50 MB where YAML is expected": (put(ENDPOINT, "name: adder # " + "x" * 50_000_000), "yaml-size"),
    "a path out of the repo": (swap(BLUE, "code: ../blue", "code: ../../../../etc"), "path-outside"),
    "a link out of the repo": (link_out, "path-link"),
    "a missing scoring script": (swap(BLUE, "score.py", "gone.py"), "script-missing"),
    "a gate nobody has": (
        swap("endpoints/adder/rollout.yml", "error-rate:", "error-rat:"),
        "gate-unknown",
    ),
}

INIT_RAISES = "def init():\n    raise RuntimeError('no weights')\n\ndef run(raw):\n    return 1\n"
RUN_RAISES = "def init():\n    pass\n\ndef run(raw):\n    raise KeyError('x')\n"

# what is broken only shows when it is run: the rollout fails, with the reason in its message
FAILED = {
    "a scoring script that does not import": ("import nothing_of_that_name\n", "nothing_of_that_name"),
    "one whose init() raises": (INIT_RAISES, "no weights"),
    "one that fails on the sample request": (
        "def init():\n    pass\n\ndef run(raw):\n    raise KeyError('x')\n",
        "500",
    ),
}


def test_every_bad_commit_is_a_finding_and_the_last_good_state_serves_on(system: System) -> None:
    good = system.serve_blue()
    caller = system.caller(30)
    missing = []
    for what, (break_it, code) in REFUSED.items():
        break_it(system)
        commit = system.push(what)
        found = system.until(what, lambda commit=commit: _rejected(system, commit))
        codes = [f["code"] for f in found["findings"] if f["severity"] == "error"]
        if code not in codes:
            missing.append(f"{what}: {code} not in {codes}")
        assert all(f["message"] and f["place"]["file"] for f in found["findings"])
        assert system.shares() == {"blue": 1000}
        system.revert()
        system.until("the revert is taken up", lambda: not system.endpoint()["findings"])
    seen = caller.end()
    assert missing == []
    assert seen.bad == []
    assert system.endpoint()["state"] == "Healthy"
    assert not _events(system, "rollout.started")[1:]
    assert system.endpoint()["commit"] != good


def test_every_model_that_does_not_work_is_stopped_with_its_reason(system: System) -> None:
    system.serve_blue()
    caller = system.caller(30)
    for number, (what, (script, reason)) in enumerate(FAILED.items()):
        name = f"bad{number}"
        system.deployment(name, count=1, score=script)
        system.traffic(**{name: 100})
        commit = system.push(what)
        rollout = system.until(what, lambda commit=commit: _failed(system, commit))
        assert reason in rollout["message"], rollout["message"]
        assert system.shares() == {"blue": 1000}
        system.until(
            "the revert commit", lambda what=what: [s for s in system.log() if s.startswith(f'Revert "{what}')]
        )
        system.pull()
    assert caller.end().bad == []


def test_a_removed_endpoint_serves_through_its_grace_and_comes_back_unchanged(system: System) -> None:
    system.serve_blue()
    caller = system.caller(30)
    subprocess.run(["git", "rm", "-rq", "endpoints/adder"], cwd=system.work, check=True)
    system.push("remove it")
    system.until("removing", lambda: system.endpoint()["state"] == "Removing")
    time.sleep(1)
    system.revert()
    system.until("back", lambda: system.endpoint()["state"] == "Healthy")
    assert caller.end().bad == []
    assert not _events(system, "rollout.started")[1:]


def test_ten_commits_in_a_burst_roll_out_once_to_the_last_and_no_other_endpoint_moves(system: System) -> None:
    system.serve_blue()
    commits = []
    for number in range(10):
        system.deployment("green", 2, offset=number + 1, count=1)
        system.traffic(green=100)
        system._git(system.work, "add", "-A")
        system._git(system.work, "commit", "-q", "-m", f"green {number}")
        commits.append(system._git(system.work, "rev-parse", "HEAD").strip())
    caller = system.caller()
    system._git(system.work, "push", "-q", "origin", "main")
    system.settled(commits[-1])
    caller.end()
    started = [e["rollout"] for e in _events(system, "rollout.started")]
    assert len(started) == 2
    assert commits[-1][:10] in started[-1]


def test_rewritten_history_stops_with_a_finding_until_a_person_accepts_it(system: System) -> None:
    commit = system.serve_blue()
    system._git(system.work, "checkout", "-q", "--orphan", "other")
    system.deployment("blue", 3)
    system._git(system.work, "add", "-A")
    system._git(system.work, "commit", "-q", "-m", "another past")
    system._git(system.work, "push", "-qf", "origin", "other:main")
    rewritten = system._git(system.work, "rev-parse", "HEAD").strip()
    found = system.until("the finding", lambda: system.api("/status")["findings"])
    assert [f["code"] for f in found] == ["history-rewritten"]
    assert system.api("/status")["handled"] == commit
    assert system.shares() == {"blue": 1000}
    system.headgate("sync", "--accept", rewritten)
    system.until("taken up", lambda: system.api("/status")["handled"] == rewritten)


def test_a_second_up_on_one_data_folder_refuses(system: System) -> None:
    system.serve_blue()
    done = system.headgate("up", "--repo", str(system.origin), "--data", str(system.data), check=False)
    assert done.returncode == 1
    assert "already-up" in done.stderr


def test_an_unreachable_repo_is_said_and_the_last_good_state_serves_on(system: System) -> None:
    system.serve_blue()
    caller = system.caller(30)
    system.origin.rename(system.folder / "away.git")
    system.until("the trouble is said", lambda: system.api("/status")["repo_error"])
    time.sleep(1)
    (system.folder / "away.git").rename(system.origin)
    system.until("it is back", lambda: not system.api("/status")["repo_error"])
    assert caller.end().bad == []


def _rejected(system: System, commit: str) -> dict[str, Any] | None:
    found = system.endpoint()
    return found if found["commit"] == commit and found["sync"] == "Rejected" else None


def _failed(system: System, commit: str) -> dict[str, Any] | None:
    for rollout in system.api("/endpoints/adder/rollouts"):
        if rollout["commit"] == commit and rollout["state"] == "failed":
            return dict(rollout)
    return None


def _events(system: System, kind: str) -> list[dict[str, Any]]:
    return [e for e in system.api("/events?endpoint=adder&limit=5000")["events"] if e["kind"] == kind]

"""`git revert`, twenty times on the whole system under load: branch updated to last answer of the left revision.

The model is light and its environment empty, so that this measures Headgate and not scikit-learn. Each round rolls
forward through a rollout without soak and reverts it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from bench.control.measure import Measured, quantile

from headgate.control import EndpointStatus
from headgate_console.demo.audit import last_answered_by
from headgate_console.demo.caller import Answered, Load
from headgate_console.demo.follow import Follower
from headgate_console.demo.say import Screen
from headgate_console.demo.system import Calling, System
from headgate_console.demo.workdir import WorkTree

ROUNDS = 20
RATE = 200.0
SEEN_S = 1.5  # the caller goes on this long after each revert, so that a late answer is not missed
NAME = "plain"
ENDPOINT = "name: plain\nauth_mode: key\ntraffic: {{{live}: 100}}\n"
DEPLOYMENT = """\
name: {name}
endpoint_name: plain
code_configuration: {{code: ../code/{name}, scoring_script: score.py}}
environment:
  image: mcr.microsoft.com/azureml/minimal-py311-inference:latest
  conda_file: ../conda.yml
instance_type: Standard_DS3_v2
instance_count: 1
request_settings: {{max_concurrent_requests_per_instance: 100, max_queue_wait_ms: 5000}}
"""
SCORE = 'def init():\n    pass\n\n\ndef run(raw_data):\n    return {{"predictions": [{value}]}}\n'
ROLLOUT = """\
mirror: {percent: 0}
steps: [50, 100]
soak: 0s
min_requests: 1
gates: {error-rate: {max_increase: 50%}}
keep_warm: 1h
"""
ANSWERS = {"first": 1.0, "second": 2.0}


def revert() -> list[Measured]:
    folder = Path(tempfile.mkdtemp(prefix="hg-bench-", dir="/tmp" if Path("/tmp").is_dir() else None))
    bench = _Bench(folder)
    try:
        took = bench.run()
    finally:
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    ms = [seconds * 1e3 for seconds in took]
    says = f"git revert to the left revision's last answer, {len(took)} reverts at {RATE:g} requests a second"
    return [
        Measured("revert_ms_p50", round(quantile(ms, 0.5), 1), f"{says}, median"),
        Measured("revert_ms_p99", round(quantile(ms, 0.99), 1), f"{says}, the longest", 1_000),
    ]


class _Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = System(folder)
        self.tree = WorkTree(folder / "endpoints")
        self.follow = Follower(self.system.control, NAME, Screen(quiet=True), self._glance)
        self.calling: Calling | None = None
        self.told: dict[str, str] = {}  # revision -> deployment
        self.lines: list[Answered] = []

    def run(self) -> list[float]:
        self.system.begin(self.tree)
        self._released(self._commit("first"))
        status = self.system.control.endpoint(NAME)
        key = self.system.control.keys(NAME)["primary"]
        self.calling = Calling(Load(status.url, key, RATE, str(self.folder / "caller.log"), ("{}",)))
        for revision in self.told:
            self._tell(revision)
        took = [self._round() for _ in range(ROUNDS)]
        wrong = sum(line.status != 200 or not line.right for line in self.lines)
        if wrong:
            raise SystemExit(f"{wrong} of {len(self.lines)} answers were not as they must be; logs: {self.folder}")
        return took

    def close(self) -> None:
        if self.calling is not None:
            self.calling.kill()
        self.system.down()

    def _round(self) -> float:
        commit = self._commit("second")
        self._released(commit)
        second = next(r for r, name in self.told.items() if name == "second")
        self.tree.revert(commit)
        pushed_at = self.tree.pushed_at()
        self.follow.until("the first revision", lambda seen: _whole(seen, "first"))
        until = time.monotonic() + SEEN_S
        self.follow.until("the caller", lambda seen: True if time.monotonic() > until else None)
        return last_answered_by(self.lines, second)[1] - pushed_at

    def _released(self, commit: str) -> None:
        rollout = self.follow.rollout(commit)
        if rollout.state != "succeeded":
            raise SystemExit(f"the rollout of {commit[:10]} {rollout.state}: {rollout.message}")

    def _commit(self, live: str) -> str:
        endpoint = self.tree.folder / "endpoints" / NAME
        endpoint.joinpath("deployments").mkdir(parents=True, exist_ok=True)
        for name, value in ANSWERS.items():
            code = endpoint / "code" / name
            code.mkdir(parents=True, exist_ok=True)
            code.joinpath("score.py").write_text(SCORE.format(value=value))
            endpoint.joinpath("deployments", f"{name}.yml").write_text(DEPLOYMENT.format(name=name))
        endpoint.joinpath("conda.yml").write_text("dependencies: []\n")
        endpoint.joinpath("rollout.yml").write_text(ROLLOUT)
        endpoint.joinpath("deployments", "sample-request.json").write_text("{}\n")
        endpoint.joinpath("endpoint.yml").write_text(ENDPOINT.format(live=live))
        self.tree.git("add", "-A")
        self.tree.git("commit", "-q", "-m", f"plain: {live}")
        return self.tree.push()

    def _glance(self, seen: EndpointStatus) -> None:
        for revision in seen.revisions:
            if revision.revision not in self.told:
                self.told[revision.revision] = revision.deployment
                self._tell(revision.revision)
        if self.calling is not None:
            self.lines += self.calling.new()

    def _tell(self, revision: str) -> None:
        if self.calling is not None:
            self.calling.tell(revision, [[ANSWERS[self.told[revision]]]])


def _whole(seen: EndpointStatus, deployment: str) -> bool | None:
    whole = any(r.deployment == deployment and r.per_mille == 1_000 for r in seen.revisions)
    return True if whole and seen.acked >= seen.generation else None

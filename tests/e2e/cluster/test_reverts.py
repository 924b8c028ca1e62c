"""`git revert` pushed → the last answer of the revision that is left: many endpoints, each with somebody who calls.

The way forward is a rollout with its gate, so one push leads all endpoints forward at once. Then they are taken back,
in the first rounds one push after the other, in the last one by one push for all. README.md turns it on; the figures
are kept in bench/results/cluster.json, `reverts`.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from bench.numbers import RESULTS, keep

from installation import POOL, SCORE, Installation, within
from world import PATIENCE_S

ENDPOINTS = tuple(f"greet-{number}" for number in range(int(os.environ.get("HEADGATE_E2E_REVERTS", "10"))))
GOAL_S = 5.0  # the promise, p99
FORWARD_S = 1.5 * PATIENCE_S  # for all of them, side by side
PAUSE_S = 0.1  # between two requests to one endpoint
FRESH = 10  # requests on one connection: the next one may be another router's
OTHERS = 2 * FRESH  # answers of others, one after the other, that show a revert: it is measured over all of them
ROUNDS = ("one by one", "one by one, again", "all at once")
# One step, no mirror, a gate that a shared small machine can pass.
ROLLOUT = """\
mirror: {percent: 0}
steps: [100]
soak: 1s
max_soak: 5m
gates: {error-rate: {max_rate: 20%}}
keep_warm: 30m
"""


@dataclass(frozen=True, slots=True)
class Answer:
    at: float  # monotonic, when it was read
    status: int  # 0: none
    revision: str


class Caller(threading.Thread):
    """Asks one endpoint, one request after the other. A connection that ends without an answer is a failure."""

    def __init__(self, host: str, port: int, endpoint: str, key: str) -> None:
        super().__init__(name=f"caller-{endpoint}", daemon=True)
        self.endpoint = endpoint
        self.answers: list[Answer] = []
        self._where = (host, port)
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._end = threading.Event()

    def end(self) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.is_set():
            connection = http.client.HTTPConnection(*self._where, timeout=10)
            for _ in range(FRESH):
                status, revision = self._ask(connection)
                self.answers.append(Answer(time.monotonic(), status, revision))
                if status == 0 or self._end.wait(PAUSE_S):
                    break
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[int, str]:
        try:
            connection.request("POST", f"/endpoints/{self.endpoint}/score", b'{"name": "ada"}', self._headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            print("FAILED", self.endpoint, repr(error))
            return 0, ""
        return answer.status, answer.headers.get("headgate-revision", "")

    def serves(self) -> str:
        """The revision of the last answers, when it is one; empty: they are mixed, or too few."""
        last = {answer.revision for answer in self.answers[-OTHERS:]}
        return last.pop() if len(last) == 1 and len(self.answers) >= OTHERS else ""

    def last_of(self, revision: str) -> float:
        return max(answer.at for answer in self.answers if answer.revision == revision)


@dataclass
class World:
    place: Installation
    callers: Sequence[Caller]

    def revisions(self) -> dict[str, str]:
        return {caller.endpoint: caller.serves() for caller in self.callers}

    def settled(self) -> bool:
        """Every endpoint is where git wants it, and nothing is under way."""
        found = (self.place.get("onlineendpoints") or {"items": ()})["items"]
        states = [(item.get("status", {}).get("state"), item.get("status", {}).get("sync")) for item in found]
        return states == [("Healthy", "Synced")] * len(ENDPOINTS)

    def has_left(self, before: dict[str, str]) -> dict[str, str]:
        """Endpoint → the revision that it went forward to; empty: not all of them have."""
        now = self.revisions()
        return now if all(now.values()) and not set(now.values()) & set(before.values()) and self.settled() else {}


def write(place: Installation, word: str) -> dict[str, str]:
    """Every endpoint says this word from now on: a commit each, none pushed. Endpoint → commit."""
    made = {}
    for name in ENDPOINTS:
        folder = place.work / "endpoints" / name
        folder.joinpath("deployments").mkdir(parents=True, exist_ok=True)
        folder.joinpath("rollout.yml").write_text(ROLLOUT)
        folder.joinpath("endpoint.yml").write_text(f"name: {name}\nauth_mode: key\ntraffic: {{blue: 100}}\n")
        folder.joinpath("deployments/sample-request.json").write_text('{"name": "ada"}\n')
        folder.joinpath("deployments/blue.yml").write_text(
            "name: blue\nmodel: {path: ../../../shared/model}\n"
            "code_configuration: {code: ../../../shared/code, scoring_script: score.py}\n"
            "environment: {conda_file: ../../../shared/code/conda.yml}\n"
            f"environment_variables: {{WORD: {word}}}\ninstance_type: small\ninstance_count: 1\n"
        )
        place.git("add", "-A")
        place.git("commit", "-q", "-m", f"{name} says {word}")
        made[name] = place.git("rev-parse", "HEAD")
    return made


def share(place: Installation) -> None:
    """What all endpoints use: it is built once."""
    pool = f", node_pool: {POOL}" if POOL else ""
    texts = {
        "shared/code/score.py": SCORE,
        "shared/code/conda.yml": "dependencies: [python]\n",
        "shared/model/weights.txt": "1\n",
        "headgate.yml": f"instance_types:\n  small: {{cpus: 0.1, memory_gb: 0.25{pool}}}\n",
    }
    for name, text in texts.items():
        (place.work / name).parent.mkdir(parents=True, exist_ok=True)
        (place.work / name).write_text(text)


def keys(place: Installation) -> dict[str, str]:
    """Endpoint → its key; empty: not every endpoint has one yet."""
    found = place.get("secrets", selector="headgate.dev/part=secrets")["items"]
    made = {
        item["metadata"]["labels"]["headgate.dev/endpoint"]: base64.b64decode(item["data"]["primary"]).decode()
        for item in found
    }
    return made if set(ENDPOINTS) <= set(made) else {}


@pytest.fixture(scope="module")
def world(installation: Installation) -> Iterator[World]:
    share(installation)
    write(installation, "hello")
    installation.git("push", "-q", "origin", "HEAD:main")
    installation.install()
    installation.kubectl("rollout", "status", "deployment/headgate-router", "--timeout=110s")
    known = within(FORWARD_S, lambda: keys(installation), "every endpoint has a key")
    door = urlsplit(installation.door("headgate-router", 80))
    assert door.hostname is not None
    assert door.port is not None
    made = World(installation, [Caller(door.hostname, door.port, name, known[name]) for name in ENDPOINTS])
    within(FORWARD_S, lambda: made.settled(), "all endpoints serve")
    for caller in made.callers:
        caller.start()
    yield made
    for caller in made.callers:
        caller.end()


@pytest.mark.parametrize("how", ROUNDS)
def test_what_a_revert_takes_back_answers_for_seconds_at_most(world: World, how: str) -> None:
    place = world.place
    stable = within(30, lambda: all_of(world.revisions()), "every endpoint answers by one revision")
    began = {caller.endpoint: len(caller.answers) for caller in world.callers}
    commits = write(place, "bye")
    place.git("push", "-q", "origin", "HEAD:main")
    left = within(FORWARD_S, lambda: world.has_left(stable), "all have gone forward")

    pushed = all_at_once(place, commits) if how == ROUNDS[-1] else one_by_one(world, commits, stable)
    within(60, lambda: world.revisions() == stable and world.settled(), "all are back")
    took = [round(c.last_of(left[c.endpoint]) - pushed[c.endpoint], 3) for c in world.callers]
    answers = Counter(answer.status for c in world.callers for answer in c.answers[began[c.endpoint] :])
    note(how, took, answers)
    assert set(answers) == {200}, answers
    if max(took) >= GOAL_S:  # what the controller did when, for whoever reads that it took long
        slowest = max(world.callers, key=lambda c: c.last_of(left[c.endpoint]) - pushed[c.endpoint])
        since = time.time() - (time.monotonic() - pushed[slowest.endpoint])
        told = place.headgate("events", slowest.endpoint, "-o", "json").stdout
        print(f"{slowest.endpoint} was pushed at {since:.3f}\n{told}")
    assert max(took) < GOAL_S, took


def all_of(found: dict[str, str]) -> dict[str, str]:
    return found if all(found.values()) else {}


def one_by_one(world: World, commits: dict[str, str], stable: dict[str, str]) -> dict[str, float]:
    """Endpoint → when the push of its revert had ended; each once the one before has been seen by its caller."""
    pushed = {}
    for caller in world.callers:
        world.place.git("revert", "--no-edit", commits[caller.endpoint])
        world.place.git("push", "-q", "origin", "HEAD:main")
        pushed[caller.endpoint] = time.monotonic()
        within(60, lambda c=caller: c.serves() == stable[c.endpoint], f"{caller.endpoint} is back")
    return pushed


def all_at_once(place: Installation, commits: dict[str, str]) -> dict[str, float]:
    for commit in commits.values():
        place.git("revert", "--no-edit", commit)
    place.git("push", "-q", "origin", "HEAD:main")
    return dict.fromkeys(commits, time.monotonic())


def note(how: str, took: Sequence[float], answers: Counter[int]) -> None:
    """Adds a round to what is kept; the first one begins anew."""
    file = RESULTS / "cluster.json"
    known: dict[str, Any] = json.loads(file.read_text()).get("reverts", {}) if file.exists() else {}
    name = f"at_once_{len(took)}" if how == ROUNDS[-1] else "one_by_one"
    before = known.get(name, {}) if how == ROUNDS[1] else {}
    every = sorted([*before.get("all_s", ()), *took])
    failed = sum(count for status, count in answers.items() if status != 200)
    figures = {
        "count": len(every),
        "median_s": round(statistics.median(every), 3),
        "p99_s": every[-1] if len(every) < 100 else every[int(0.99 * len(every))],  # of less than 100 the longest
        "max_s": every[-1],
        "all_s": every,
        "requests": before.get("requests", 0) + answers.total(),
        "failed": before.get("failed", 0) + failed,
    }
    print(f"\n{how}: {figures}")
    keep("cluster", {"reverts": {**known, name: figures}})

"""An installation on a cluster whose parts can be killed, with one endpoint that answers, and what is asked of it."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from installation import Installation, within
from machine import Machine

PATIENCE_S = float(os.environ.get("HEADGATE_E2E_PATIENCE_S", "240"))  # more where the machine has other work
# A rise this large is ruled out by few requests: a loaded machine makes few.
GATES = "gates: {error-rate: {max_increase: 5%}}"
ROLLOUT = f"mirror: {{percent: 50, soak: 3s}}\nsteps: [50, 100]\nsoak: 3s\nmax_soak: 20m\n{GATES}\n"
SAMPLE = '{"name": "smoke"}\n'
# Good enough for its sample request, and wrong for every caller.
SCORE = """
import json, os

def init():
    global word
    word = os.environ.get("WORD", "hello")

def run(data):
    name = json.loads(data)["name"]
    if word.startswith("bad") and name != "smoke":
        raise ValueError("a bad model")
    return {"said": word, "to": name}
"""


@dataclass
class World:
    """The installation, what is asked of it, and what was killed."""

    place: Installation
    machine: Machine
    door: str
    token: str
    rows: dict[str, Any] = field(default_factory=dict)

    def ask(self, path: str) -> Any:
        """What the control API says; None: nobody answers just now."""
        request = urllib.request.Request(self.door + path, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def endpoint(self) -> Any:
        return self.ask("/endpoints/greet")

    def rollout(self, commit: str) -> Any:
        found = (self.endpoint() or {}).get("rollout") or {}
        return found if found.get("commit") == commit else None

    def pods(self, part: str) -> list[Any]:
        found = self.place.get("pods", selector=f"headgate.dev/part={part}")
        return [pod for pod in (found or {}).get("items", ()) if not pod["metadata"].get("deletionTimestamp")]

    def write(self, word: str) -> None:
        self.place.write(word)
        folder = self.place.work / "endpoints/greet"
        (folder / "rollout.yml").write_text(ROLLOUT)
        (folder / "code/score.py").write_text(SCORE + f"# {word}\n")  # other code, so that there is something to build
        (folder / "deployments/sample-request.json").write_text(SAMPLE)

    def serves(self, commit: str) -> bool:
        found = self.endpoint()
        return bool(found and found["commit"] == commit and (found["state"], found["sync"]) == ("Healthy", "Synced"))

    def live(self) -> dict[str, int]:
        """Revision -> per mille."""
        found = self.endpoint() or {"revisions": ()}
        return {row["revision"]: row["per_mille"] for row in found["revisions"] if row["per_mille"]}


def start(installation: Installation, also: Callable[[World], None] = lambda world: None, **sets: str) -> World:
    """Installed, with a first commit that serves; `also` adds to it."""
    made = World(installation, Machine(), "", "")
    # Past the kubelets: what is forwarded breaks off with theirs.
    installation.git("remote", "set-url", "origin", f"git://{address(installation, 'git')}:9418/endpoints.git")
    made.write("hello")
    also(made)
    commit = installation.push("first")
    installation.install(**sets)
    made.token = within(120, installation.token, "the control API has a token")
    made.door = f"http://{address(installation, 'headgate-controller')}:7070"
    within(PATIENCE_S, lambda: made.serves(commit), "the first commit serves")
    return made


def address(installation: Installation, service: str) -> str:
    return str(installation.get("service", service)["spec"]["clusterIP"])


def ready(pod: Any) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))

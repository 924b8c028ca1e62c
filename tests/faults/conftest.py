"""The whole system as a user starts it, on models with an empty environment, and a caller who checks every answer."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

SCORE = """
import json
def init():
    pass
def run(raw):
    return {{"value": json.loads(raw)["x"] * {factor} + {offset}}}
"""
PROFILE = """
mirror: {percent: 50, soak: 500ms}
steps: [20, 100]
soak: 500ms
max_soak: 90s
min_requests: 20
keep_warm: 10m
gates:
  error-rate: {max_increase: 20%}
  latency-p99: {max_increase: 500%, slack_ms: 400, max_extra: 20%}
  mirror-diff: {rel: 0.5, max_share: 20%, min_pairs: 20}
"""
GIT = {
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
}  # fmt: skip


@dataclass
class Seen:
    """What a caller got: one entry an answer."""

    ok: int = 0
    bad: list[str] = field(default_factory=list)
    revisions: dict[str, int] = field(default_factory=dict)


class Caller(threading.Thread):
    """Keeps calling; every answer must be the one of some deployment's factor that was ever committed."""

    def __init__(self, system: System, rate: float) -> None:
        super().__init__(daemon=True)
        self._system = system
        self._pause = 1 / rate
        self._stop_asked = threading.Event()
        self.seen = Seen()

    def run(self) -> None:
        where = urlsplit(self._system.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=30)
        x = 0
        while not self._stop_asked.wait(self._pause):
            x += 1
            try:
                self._once(connection, x)
            except (OSError, http.client.HTTPException) as error:
                self.seen.bad.append(f"{type(error).__name__}: {error}")
                connection.close()
        connection.close()

    def _once(self, connection: http.client.HTTPConnection, x: int) -> None:
        headers = {"authorization": f"Bearer {self._system.key}", "content-type": "application/json"}
        connection.request("POST", "/endpoints/adder/score", json.dumps({"x": x}), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            self.seen.bad.append(f"{answer.status} {body[:100]!r}")
            return
        value = json.loads(body)["value"]
        expected = {x * factor + offset for factor, offset in self._system.models.values()}
        if value not in expected:
            self.seen.bad.append(f"{value} for {x}")
            return
        revision = answer.headers["headgate-revision"]
        self.seen.ok += 1
        self.seen.revisions[revision] = self.seen.revisions.get(revision, 0) + 1

    def end(self) -> Seen:
        self._stop_asked.set()
        self.join(40)
        return self.seen


class System:
    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder = folder
        self.work, self.origin, self.data = folder / "work", folder / "origin.git", folder / "data"
        self.workers = workers
        self.models: dict[str, tuple[int, int]] = {}
        self.key = ""
        self._git(folder, "init", "-q", "--bare", "-b", "main", str(self.origin))
        self._git(folder, "clone", "-q", str(self.origin), str(self.work))
        self._git(self.work, "checkout", "-q", "-b", "main")

    # --- git ------------------------------------------------------------------------------------------------------

    def _git(self, where: Path, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=where, env={**os.environ, **GIT}, capture_output=True, text=True, check=True
        )
        return done.stdout

    def write(self, path: str, text: str) -> None:
        file = self.work / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def deployment(self, name: str, factor: int = 2, offset: int = 0, *, count: int = 2, score: str = "") -> None:
        self.models[name] = (factor, offset)
        self.write(f"endpoints/adder/{name}/score.py", score or SCORE.format(factor=factor, offset=offset))
        self.write("endpoints/adder/deployments/sample-request.json", '{"x": 3}')
        self.write(
            f"endpoints/adder/deployments/{name}.yml",
            f"""\
            name: {name}
            endpoint_name: adder
            code_configuration: {{code: ../{name}, scoring_script: score.py}}
            environment: {{image: "python:3.11"}}
            instance_type: small
            instance_count: {count}
            request_settings: {{max_concurrent_requests_per_instance: 4, request_timeout_ms: 10000}}
            """,
        )

    def traffic(self, **percent: int) -> None:
        split = ", ".join(f"{name}: {share}" for name, share in percent.items())
        self.write("endpoints/adder/endpoint.yml", f"name: adder\nauth_mode: key\ntraffic: {{{split}}}\n")
        self.write("endpoints/adder/rollout.yml", PROFILE)

    def push(self, message: str) -> str:
        self._git(self.work, "add", "-A")
        self._git(self.work, "commit", "-q", "-m", message)
        self._git(self.work, "push", "-q", "origin", "main")
        return self._git(self.work, "rev-parse", "HEAD").strip()

    def pull(self) -> None:
        self._git(self.work, "pull", "-q", "--ff-only", "origin", "main")

    def revert(self, commit: str = "HEAD") -> str:
        self._git(self.work, "revert", "--no-edit", commit)
        self._git(self.work, "push", "-q", "origin", "main")
        return self._git(self.work, "rev-parse", "HEAD").strip()

    def log(self, pattern: str = "%s") -> list[str]:
        return self._git(self.origin, "log", f"--format={pattern}", "main").splitlines()

    # --- the system -----------------------------------------------------------------------------------------------

    def headgate(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "headgate_console", *arguments]
        environment = {**os.environ, **GIT, "HEADGATE_DATA": str(self.data)}
        done = subprocess.run(argv, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=180)
        if check and done.returncode:
            raise AssertionError(f"headgate {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self) -> None:
        self.headgate("up", "--repo", str(self.origin), "--branch", "main", "--data", str(self.data), "--port", "0",
                      "--workers", str(self.workers), "--detach")  # fmt: skip

    def serve_blue(self) -> str:
        """Up, with one deployment that serves everybody; its commit."""
        self.deployment("blue", 2)
        self.traffic(blue=100)
        commit = self.push("blue")
        self.up()
        self.settled(commit)
        self.ready()
        return commit

    def down(self) -> None:
        self.headgate("down", check=False)

    @property
    def url(self) -> str:
        return str(json.loads((self.data / "router.json").read_text())["url"])

    def api(self, path: str, method: str = "GET", body: Mapping[str, Any] | None = None) -> Any:
        where = urlsplit(json.loads((self.data / "control.json").read_text())["url"])
        connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=30)
        token = (self.data / "control.token").read_text().strip()
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            return json.loads(answer.read())
        finally:
            connection.close()

    def endpoint(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api("/endpoints/adder")
        return found

    def shares(self) -> dict[str, int]:
        rows = self.endpoint().get("revisions", [])
        return {row["deployment"]: row["per_mille"] for row in rows if row["per_mille"]}

    def until(self, what: str, holds: Callable[[], Any], seconds: float = 90) -> Any:
        """Waits for something to hold; the controller may be away meanwhile."""
        deadline = time.monotonic() + seconds
        last: object = None
        while time.monotonic() < deadline:
            try:
                found = holds()
                if found:
                    return found
                last = found
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {what}; last: {last}\n{self.report()}")

    def settled(self, commit: str, state: str = "Healthy", seconds: float = 120) -> dict[str, Any]:
        def holds() -> dict[str, Any] | None:
            found = self.endpoint()
            return found if found.get("commit") == commit and found["state"] == state else None

        found: dict[str, Any] = self.until(f"{commit[:10]} {state}", holds, seconds)
        return found

    def ready(self) -> None:
        self.key = self.until("keys", lambda: self.api("/endpoints/adder/keys").get("primary"))

    def caller(self, rate: float = 60) -> Caller:
        caller = Caller(self, rate)
        caller.start()
        return caller

    # --- killing --------------------------------------------------------------------------------------------------

    def pid(self, folder: Path) -> int | None:
        """Of the process in a shim's folder."""
        try:
            return int(json.loads((folder / "pid.json").read_text())["child"])
        except (OSError, ValueError, KeyError):
            return None

    def service(self, name: str) -> int | None:
        return self.pid(self.data / "services" / name)

    def supervisor(self) -> int | None:
        try:
            return int("".join(c for c in (self.data / "lock").read_text() if c.isdigit()))
        except (OSError, ValueError):
            return None

    def ops(self) -> list[int]:
        return [p for folder in (self.data / "ops").glob("*/*/*") if self._lives(p := self.pid(folder))]  # type: ignore[misc]

    def replicas(self, revision: str = "") -> list[int]:
        folders = (self.data / "replicas").glob(f"adder/{revision or '*'}*/serve-*")
        found = (self.pid(f) or self.pid(f / "shim") for f in folders)
        return [p for p in found if self._lives(p)]  # type: ignore[misc]

    def _lives(self, pid: int | None) -> bool:
        if pid is None:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self, pid: int | None) -> bool:
        if pid is None or not self._lives(pid):
            return False
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while self._lives(pid) and time.monotonic() < deadline:  # dying takes a moment; it counts as dead from here on
            time.sleep(0.002)
        return True

    def report(self) -> str:
        def tail(file: Path) -> str:
            return f"--- {file.relative_to(self.data)}\n" + "\n".join(file.read_text().splitlines()[-30:])

        return "\n".join(tail(file) for file in sorted(self.data.glob("services/*/std*")))


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with ended(System(tmp_path)) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system for all tests of a module, each of which leaves it healthy."""
    with ended(System(tmp_path_factory.mktemp("shared"))) as made:
        yield made


@contextmanager
def ended(made: System) -> Iterator[System]:
    """Nothing runs and nothing is left afterwards."""
    try:
        yield made
    finally:
        if made.data.exists():
            made.down()
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture
def seed() -> int:
    """Printed, so that a failing run can be repeated: HEADGATE_SEED=... make test."""
    found = int(os.environ.get("HEADGATE_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
    print(f"HEADGATE_SEED={found}")
    return found

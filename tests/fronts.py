"""Model servers as real processes, started as a platform starts them, with real small scoring scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from headgate import codec
from headgate.workload import REPLICA
from headgate_serving.settings import SERVE, ServeSettings

DEADLINE_S = 30.0
ECHO = "def init():\n    pass\ndef run(data):\n    return data\n"


class Replica:
    """One front, started as the platform starts it."""

    def __init__(
        self,
        folder: Path,
        script: str,
        variables: Mapping[str, str],
        body_limit: int = 1_000_000,
        told: Mapping[str, str] | None = None,
    ) -> None:
        """`variables` are the deployment's, `told` what a platform adds."""
        code = folder / "bundle/code/src"
        code.mkdir(parents=True)
        (code / "score.py").write_text(script)
        (folder / "bundle/models/m/1").mkdir(parents=True)
        (folder / "bundle/models/m/1/weights.txt").write_text("42")
        bundle = {"code": "code/src", "scoring_script": "score.py", "model": "models/m/1"}
        (folder / "bundle/bundle.json").write_text(json.dumps(bundle))
        settings = ServeSettings(
            str(folder / "bundle"), sys.executable, "", variables, body_limit=body_limit, drain_s=20
        )
        self.folder = folder
        with (folder / "inference-server").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "headgate_serving.front"],
                env={
                    "PATH": os.environ["PATH"],
                    SERVE: codec.canonical(settings).decode(),
                    REPLICA: str(folder),
                    **(told or {}),
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = httpx.Client(trust_env=False, timeout=DEADLINE_S)

    @property
    def log(self) -> str:
        return (self.folder / "inference-server").read_text()

    @property
    def url(self) -> str:
        until(lambda: (self.folder / "address").exists() or self.process.poll() is not None)
        return (self.folder / "address").read_text().strip()

    def ready(self) -> Replica:
        url = self.url
        until(lambda: self.client.get(url + "/ready").status_code == 200)
        return self

    def score(self, body: str | bytes = "{}", **headers: str) -> httpx.Response:
        return self.client.post(self.url + "/score", content=body, headers=headers)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)

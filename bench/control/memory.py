"""Resident memory of one router worker and of the controller, with 1 and with 1,000 endpoints in the table."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.control import repos
from bench.control.measure import Measured, memory_mb

from headgate import codec
from headgate.control import SystemStatus
from headgate.findings import FindingsError
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_console.connect import Control
from headgate_kit.layout import DataFolder

WITHIN_S = 300.0
SETTLES_S = 2.0  # after it is ready, before memory is read


def router() -> list[Measured]:
    """A worker that boots from its table on disk: two revisions an endpoint, as in a rollout."""
    return [
        Measured(f"router_mb_{label}", _router(count), f"one router worker, {count:,} endpoint(s) in the table, MiB")
        for label, count in (("1", 1), ("1k", 1_000))
    ]


def _router(endpoints: int) -> float:
    with tempfile.TemporaryDirectory(dir=_short()) as folder:
        data = DataFolder(Path(folder))
        data.tables.mkdir(parents=True)
        (data.tables / "router-0.json").write_bytes(codec.canonical(_table(endpoints)))
        argv = [sys.executable, "-m", "headgate_router", "--data", folder, "--worker", "router-0", "--port", "0"]
        with (data.root / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        return _measure(process, lambda: b"listening on" in (data.root / "log").read_bytes())


def _table(endpoints: int) -> RouteTable:
    routes = {}
    for number in range(endpoints):
        name = repos.endpoint_name(number)
        revisions = tuple(
            RouteRevision(f"{number:012x}{color}", color, share, ("http://127.0.0.1:9",))
            for color, share in (("blue", 950), ("green", 50))
        )
        routes[name] = EndpointRoute(name, 1, "0" * 40, revisions, keys=("0" * 64, "1" * 64))
    return seal(RouteTable(1, "0" * 40, routes))


def controller() -> list[Measured]:
    """A controller that has read the repo. Endpoints without deployments: 1,000 models would not fit a laptop."""
    return [
        Measured(
            f"controller_mb_{label}", _controller(count), f"the controller, {count:,} endpoint(s) in the repo, MiB"
        )
        for label, count in (("1", 1), ("1k", 1_000))
    ]


def _controller(endpoints: int) -> float:
    with tempfile.TemporaryDirectory(dir=_short()) as folder:
        origin = repos.make(Path(folder) / "origin.git", endpoints, deployments=())
        data = DataFolder(Path(folder) / "data")
        data.prepare()
        where: Sequence[str] = ("--data", str(data.root), "--repo", str(origin), "--branch", "main")
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "headgate_controllers", *where], stdout=log, stderr=log)

        def ready() -> bool:
            try:
                status: SystemStatus = Control(data).system()
            except FindingsError:
                return False
            return len(status.endpoints) == endpoints

        return _measure(process, ready)


def _measure(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> float:
    try:
        deadline = time.monotonic() + WITHIN_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{process.args!r} is not ready (exit code {process.poll()})")
            time.sleep(0.2)
        time.sleep(SETTLES_S)
        return memory_mb(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _short() -> str | None:
    """Unix sockets need a short path, and macOS' temporary folder has none."""
    return "/tmp" if Path("/tmp").is_dir() else None

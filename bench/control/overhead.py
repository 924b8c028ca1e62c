"""What the local engine adds to an op: a chain of ops through it, against the same argv run directly, in pairs."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.control.measure import Measured, quantile

from headgate_kit.layout import DataFolder
from headgate_pipelines.engines.local.run import LocalEngine

OPS = 10  # in one chain
PAIRS = 5
ARGV = ("-c", "pass")
WITHIN_S = 120.0


def engine() -> list[Measured]:
    added = []
    for number in range(PAIRS):
        began = time.perf_counter()
        for _ in range(OPS):
            subprocess.run((sys.executable, *ARGV), check=True)
        directly = time.perf_counter() - began
        added.append((_through(f"bench-{number}") - directly) / OPS * 1e3)
    says = f"local engine, per op, above the same argv run directly: median of {PAIRS} chains of {OPS}"
    return [Measured("step_overhead_ms", round(quantile(added, 0.5), 1), says, 100)]


def _through(name: str) -> float:
    """Seconds from submit to the end of one chain."""
    with tempfile.TemporaryDirectory(dir="/tmp" if Path("/tmp").is_dir() else None) as folder:
        data = DataFolder(Path(folder))
        data.prepare()
        told = threading.Event()
        engine = LocalEngine(data, env=lambda workflow: {}, on_change=lambda workflow: told.set())
        engine.start()
        try:
            began = time.perf_counter()
            engine.submit(chain(name))
            while (run := engine.status(name)) is None or run.phase in ("Pending", "Running"):
                if time.perf_counter() - began > WITHIN_S:
                    raise SystemExit(f"the engine did not end {name} within {WITHIN_S:g} s")
                told.wait(0.05)
                told.clear()
            took = time.perf_counter() - began
            if run.phase != "Succeeded":
                raise SystemExit(f"the engine ended {name} as {run.phase}: {run.message}")
            return took
        finally:
            engine.close()


def chain(name: str) -> Mapping[str, Any]:
    """A Hera workflow: ops one after the other, each the same container."""
    from hera.workflows import DAG, Container, Task, Workflow

    with Workflow(name=name, entrypoint="chain") as workflow:
        op = Container(name="op", image="python", command=["python3", *ARGV])
        with DAG(name="chain"):
            tasks = [Task(name=f"op-{index}", template=op) for index in range(OPS)]
            for before, after in itertools.pairwise(tasks):
                before >> after
    built: Mapping[str, Any] = workflow.to_dict()
    return built

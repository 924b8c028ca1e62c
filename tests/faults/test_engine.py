"""The engine is killed again and again, its ops too: every effect once by op-key, and the end is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate_kit import child
from headgate_kit.layout import DataFolder
from headgate_pipelines.engines.local.run import LocalEngine

KILLS = 30
OPS = 12
DEADLINE_S = 90.0

# An op as ours are: its effect is recorded once under its key, whatever ran before. `begun` counts the runs.
OP = """
import sqlite3, sys, time
key, ledger = sys.argv[1:3]
database = sqlite3.connect(ledger, timeout=30)
with database:
    database.execute("INSERT INTO begun VALUES (?)", (key,))
time.sleep(0.15)
with database:
    database.execute("INSERT OR IGNORE INTO effect VALUES (?, (SELECT count(*) FROM effect))", (key,))
"""

ENGINE = """
import sys, time
from pathlib import Path
from headgate_kit.layout import DataFolder
from headgate_pipelines.engines.local.run import LocalEngine
engine = LocalEngine(DataFolder(Path(sys.argv[1])))
engine.start()
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataFolder]:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    yield folder
    for pid in folder.ops.rglob("pid.json"):
        child.stop(pid.parent, grace_s=0.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    database = sqlite3.connect(path)
    database.executescript("CREATE TABLE effect (key TEXT PRIMARY KEY, place INTEGER); CREATE TABLE begun (key TEXT);")
    database.close()
    return path


def chain(name: str, ledger: Path, fails_at: int | None = None) -> dict[str, object]:
    """`OPS` ops in a row and an onExit; the one at `fails_at` says no after its effect."""

    def op(key: str, code: str) -> dict[str, object]:
        argv = ["python", "-S", "-c", code, f"{{{{workflow.name}}}}/{key}", str(ledger)]
        return {"name": key, "container": {"image": "python", "command": argv}}

    no = textwrap.dedent(OP) + "\nsys.exit(3)"
    templates = [op(f"op-{n}", no if n == fails_at else OP) for n in range(OPS)]
    tasks = [
        {"name": f"op-{n}", "template": f"op-{n}", **({"depends": f"op-{n - 1}"} if n else {})} for n in range(OPS)
    ]
    templates += [op("close", OP), {"name": "main", "dag": {"tasks": tasks}}]
    return {"metadata": {"name": name}, "spec": {"entrypoint": "main", "onExit": "close", "templates": templates}}


def engine_process(data: DataFolder) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", ENGINE, str(data.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def submit(data: DataFolder, *workflows: dict[str, object]) -> None:
    engine = LocalEngine(data)
    for workflow in workflows:
        engine.submit(workflow)
    engine.close()


def finish(data: DataFolder, name: str) -> tuple[str, dict[str, str]]:
    engine = LocalEngine(data)
    engine.start()
    deadline = time.monotonic() + DEADLINE_S
    run = engine.status(name)
    while time.monotonic() < deadline and (run is None or run.phase == "Running"):
        time.sleep(0.02)
        run = engine.status(name)
    engine.close()
    assert run is not None
    return run.phase, dict(run.nodes or {})


def table(ledger: Path, query: str) -> list[tuple[str, int]]:
    database = sqlite3.connect(ledger)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def harass(data: DataFolder, dice: random.Random, *, ops_too: bool) -> None:
    """Kills the engine `KILLS` times; with `ops_too` every third time whatever op runs, or only its shim."""
    for number in range(KILLS):
        process = engine_process(data)
        time.sleep(dice.uniform(0.0, 0.12))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if ops_too and number % 3 == 0:
            kill_an_op(data, dice)


def kill_an_op(data: DataFolder, dice: random.Random) -> None:
    running = [p.parent for p in data.ops.rglob("lock") if isinstance(child.state(p.parent), child.Running)]
    if not running:
        return
    folder = dice.choice(sorted(running))
    place = folder / "pid.json"
    if not place.exists():
        return
    known = json.loads(place.read_bytes())
    for who in dice.choice((("shim",), ("child", "shim"), ("shim", "child"))):
        try:
            os.kill(known[who], signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.faults
@pytest.mark.parametrize("fails_at", [None, OPS - 3], ids=["it succeeds", "an op says no"])
def test_an_engine_killed_at_random_ends_where_it_would_have(
    data: DataFolder, ledger: Path, fails_at: int | None
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    submit(data, chain("w", ledger, fails_at))
    harass(data, random.Random(seed), ops_too=False)
    phase, nodes = finish(data, "w")
    last = OPS if fails_at is None else fails_at + 1
    assert phase == ("Succeeded" if fails_at is None else "Failed")
    keys = [f"w/op-{n}" for n in range(last)] + ["w/close"]
    assert [key for key, _ in table(ledger, "SELECT key, place FROM effect ORDER BY place")] == keys
    assert [key for key, _ in table(ledger, "SELECT key, 0 FROM begun")] == keys, "no op was even begun twice"
    assert sum(p == "Omitted" for p in nodes.values()) == OPS - last


@pytest.mark.faults
def test_ops_that_are_killed_with_the_engine_have_each_effect_once(data: DataFolder, ledger: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    workflow = chain("w", ledger)
    for template in workflow["spec"]["templates"]:  # type: ignore[index]
        if "container" in template:
            template["retryStrategy"] = {"expression": "asInt(lastRetry.exitCode) == 137"}
    submit(data, workflow)
    harass(data, random.Random(seed), ops_too=True)
    phase, _ = finish(data, "w")
    assert phase == "Succeeded"
    keys = [f"w/op-{n}" for n in range(OPS)] + ["w/close"]
    assert [key for key, _ in table(ledger, "SELECT key, place FROM effect ORDER BY place")] == keys

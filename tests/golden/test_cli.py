"""What people see, byte for byte; and docs that say what the code says. `make golden` rewrites tests/golden/cli."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

from headgate.control import (
    EndpointStatus,
    OpStatus,
    RevisionStatus,
    RolloutStatus,
    RouteStatus,
    SystemStatus,
    TableStatus,
    WorkerStatus,
)
from headgate.evidence import Difference, Result, Verdict
from headgate.findings import Finding, Place
from headgate_console import print as out
from headgate_console import routes, views
from headgate_console.main import VERBS, cli
from headgate_console.reference import markdown
from scripts import script

HERE = Path(__file__).parent / "cli"
ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
WRITE = os.environ.get("HEADGATE_GOLDEN") == "write"


def golden(name: str, text: str) -> None:
    file = HERE / name
    if WRITE:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8"), f"{file.name} differs: `make golden`, then read the diff"


def plain(lines: list[str]) -> str:
    return "\n".join(click.unstyle(line) for line in lines) + "\n"


def verdict(gate: str, phase: str, result: Result, explanation: str, **more: object) -> Verdict:
    return Verdict(gate, "1", phase, {}, 0.001, result, explanation, **more)  # type: ignore[arg-type]


BLUE = RevisionStatus("1a2b3c4d5e6f7081", "blue", "stable", 950, 0, 0.948, 2, 2, True)
GREEN = RevisionStatus("9f8e7d6c5b4a3921", "green", "candidate", 50, 0, 0.052, 1, 1, False)
OLD = RevisionStatus("00ff00ff00ff00ff", "red", "warm", 0, 0, None, 1, 1, True)

STEPPING = RolloutStatus(
    id="ro-diabetes-4c1d9a0b7e-1",
    endpoint="diabetes",
    commit="4c1d9a0b7e55aa33bb77cc99dd11ee22ff008877",
    attempt=1,
    state="running",
    candidate=GREEN.revision,
    started_at=NOW - 240,
    ended_at=None,
    message="",
    ops=(
        OpStatus("build", "passed", 0, NOW - 240, NOW - 229),
        OpStatus("smoke", "passed", 0, NOW - 229, NOW - 226),
        OpStatus("deploy", "passed", 0, NOW - 226, NOW - 224),
        OpStatus(
            "mirror",
            "passed",
            20,
            NOW - 224,
            NOW - 100,
            "",
            (verdict("mirror-diff", "mirror", Result.PASS, "0 of 812 answers differ beyond the stable's own noise"),),
        ),
        OpStatus(
            "step-5",
            "running",
            5,
            NOW - 100,
            None,
            "step-5: error-rate: about 190 more candidate requests",
            (
                verdict(
                    "error-rate",
                    "step-5",
                    Result.INCONCLUSIVE,
                    "not enough to say",
                    missing="about 190 more candidate requests",
                    figures={"candidate": 0.004, "stable": 0.005},
                ),
                verdict("latency-p99", "step-5", Result.PASS, "candidate's slow share is 0.9 %, the stable's 1.0 %"),
            ),
        ),
        OpStatus("step-25", "waiting", 25),
        OpStatus("step-100", "waiting", 100),
        OpStatus("finalize", "waiting"),
    ),
    plan_hash="7d3c9a115566778899aabbccddeeff00",
)

STOPPED = RolloutStatus(
    id="ro-diabetes-aa55aa55aa-1",
    endpoint="diabetes",
    commit="aa55aa55aa00000000000000000000000000ffff",
    attempt=1,
    state="failed",
    candidate=GREEN.revision,
    started_at=NOW - 60,
    ended_at=NOW - 20,
    message="mirror-diff failed at mirror",
    ops=(
        OpStatus("build", "passed", 0, NOW - 60, NOW - 55),
        OpStatus(
            "mirror",
            "failed",
            50,
            NOW - 50,
            NOW - 20,
            "",
            (
                verdict(
                    "mirror-diff",
                    "mirror",
                    Result.FAIL,
                    "214 of 214 answers differ",
                    differences=(Difference("$.predictions[0]", "number", 1.0, "152.1", "0.93", "-99.4 % on average"),),
                ),
            ),
        ),
        OpStatus("step-5", "stopped", 5),
    ),
    reverted_by="0b1c2d3e4f",
)


def endpoint(**changes: object) -> EndpointStatus:
    values: dict[str, object] = {
        "name": "diabetes",
        "url": "http://127.0.0.1:8400/endpoints/diabetes/score",
        "state": "Progressing",
        "sync": "OutOfSync",
        "commit": STEPPING.commit,
        "generation": 12,
        "acked": 12,
        "message": "step-5: error-rate: about 190 more candidate requests",
        "revisions": (BLUE, GREEN, OLD),
        "rollout": STEPPING,
    }
    return EndpointStatus(**{**values, **changes})  # type: ignore[arg-type]


FIRST = endpoint(
    name="fraud", state="Pending", sync="Synced", message="", revisions=(), rollout=None, generation=0, acked=0
)
TRAFFIC_SUM = Finding(
    "traffic-sum",
    "traffic adds up to 95, expected 100",
    "5 % of live requests would have no deployment to go to",
    "raise `blue` to 95",
    Place("endpoints/fraud/endpoint.yml", 4, 3),
)


def system(**changes: object) -> SystemStatus:
    values: dict[str, object] = {
        "version": "0.1.0",
        "repo": "/srv/endpoints.git",
        "branch": "main",
        "commit": STEPPING.commit,
        "handled": STEPPING.commit,
        "repo_error": "",
        "endpoints": (endpoint(), FIRST),
        "workers": (WorkerStatus("router-0", "b", 12, 0.4, 3, False),),
    }
    return SystemStatus(**{**values, **changes})  # type: ignore[arg-type]


TROUBLED = system(
    endpoints=(endpoint(), endpoint(name="fraud", state="Healthy", sync="Rejected", findings=(TRAFFIC_SUM,))),
    commit="ffff0000ffff0000",
    repo_error="connection refused",
    workers=(WorkerStatus("router-1", "b", 11, 93.0, 0, True, False),),
    drift=("diabetes: the routers count 40 % for green, the table says 5 %",),
)


TABLE = TableStatus(
    generation=41,
    hash="9f2c4e81a7d0b3c5e6f7",
    commit="c0ffee00" * 5,
    acked=40,
    routes=(
        RouteStatus("fraud", "blue", "blue-7f3a9c01", 41, 900, 5412, 0.9017, "", "3", "key", "header:x-user"),
        RouteStatus(
            "fraud", "green", "green-02bd11e7", 41, 100, 590, 0.0983, "", "k8s:ml/green-02bd:8080", "key", "none"
        ),
        RouteStatus("fraud", "red", "red-5566aa00", 41, 0, 0, 0.0, "compare 20 %", "1", "key", "none"),
        RouteStatus("quiet", "blue", "blue-99aabb00", 12, 1000, 0, None, "", "1", "aml_token", "none"),
    ),
    workers=(
        WorkerStatus("router-0", "b0", 41, 0.2, 3, False),
        WorkerStatus("router-1", "b1", 40, 0.4, 1, False),
        WorkerStatus("router-2", "b2", 12, 60.0, 0, True, False),
    ),
)


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("status.txt", lambda: views.system(system(), NOW)),
        ("status-wide.txt", lambda: views.system(system(), NOW, wide=True)),
        ("status-nothing-yet.txt", lambda: views.system(system(endpoints=()), NOW)),
        ("status-trouble.txt", lambda: views.system(TROUBLED, NOW)),
        ("endpoint-stepping.txt", lambda: views.endpoint(endpoint(), NOW)),
        ("endpoint-first.txt", lambda: views.endpoint(FIRST, NOW)),
        ("routes.txt", lambda: routes.lines(TABLE)),
        ("routes-wide.txt", lambda: routes.lines(TABLE, wide=True)),
        ("routes-nothing-yet.txt", lambda: routes.lines(TableStatus(0, "", "", 0, (), ()))),
        ("rollout-stepping.txt", lambda: views.rollout(endpoint(), STEPPING, NOW)),
        (
            "rollout-stopped.txt",
            lambda: views.rollout(endpoint(state="RolledBack", rollout=STOPPED, revisions=(BLUE, GREEN)), STOPPED, NOW),
        ),
    ],
)
def test_a_view_reads_as_it_did(name: str, draw: Callable[[], list[str]]) -> None:
    golden(name, plain(draw()))


def test_the_json_of_a_status_is_what_it_was() -> None:
    golden("endpoint.json", json.dumps(out.document("EndpointStatus", endpoint()), indent=2, ensure_ascii=False) + "\n")


def generator() -> ModuleType:
    return script("docs/generate.py")


def test_generated_docs_and_schemas_are_what_the_code_says() -> None:
    stale = [path.name for path, text in generator().made().items() if path.read_text("utf-8") != text]
    assert stale == [], "run `make docs`"


def test_the_reference_lists_every_command_and_every_option() -> None:
    text = markdown()
    context = click.Context(cli)
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        leaves = command.commands.values() if isinstance(command, click.Group) else [command]
        for leaf in leaves:
            assert leaf.help, f"{verb} {leaf.name} says nothing about itself"
            for option in (p for p in leaf.params if isinstance(p, click.Option)):
                assert all(f"`{name}`" in text for name in option.opts), option.opts
                assert option.help, f"{verb} {option.opts} says nothing about itself"

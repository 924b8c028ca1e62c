"""A plan that asks a controller for room: over its real API, with so much room as a test says."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import git
import pytest
import uvicorn

from headgate.capacity import Inventory, Node
from headgate_console import main
from headgate_console.exits import Exit
from headgate_console.init import create
from headgate_controllers.adapters import Adapters
from headgate_controllers.api.app import application
from headgate_controllers.api.news import News
from headgate_controllers.capacity import Capacity
from headgate_controllers.main import assemble
from headgate_controllers.options import Options
from headgate_kit.layout import DataFolder

TOKEN = "operator-token"


@dataclass
class Machines:
    """A platform with one node; None: it does not know."""

    pods: float = 1.0
    free: float = 1.0
    known: bool = True

    def inventory(self) -> Inventory | None:
        rest = {"cpu": 64.0, "memory_mb": 64_000.0}
        return (
            Inventory((Node("a", "", {**rest, "pods": self.pods}, {**rest, "pods": self.free}),))
            if self.known
            else None
        )


@dataclass
class Desk:
    machines: Machines
    door: tuple[str, ...]
    capsys: pytest.CaptureFixture[str]

    def plan(self, *argv: str) -> tuple[str, str]:
        code = main.run(["plan", *argv])
        said = self.capsys.readouterr()
        assert code == Exit.OK
        return said.out, said.err

    def capacity(self) -> Any:
        (change,) = json.loads(self.plan("-o", "json", *self.door)[0])["items"]
        return change["capacity"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    root = tmp_path / "eps"
    create(root, bare_origin=True)
    monkeypatch.chdir(root)
    shutil.copytree(root / "examples" / "hello", root / "endpoints" / "hello")
    with git.Repo(root) as repo:
        repo.git.add("--all")
        repo.index.commit("hello: first deployment")
    data = DataFolder(tmp_path / "data")
    data.prepare()
    parts = assemble(Options(data, str(root), None), Adapters(), TOKEN, News())
    controller, machines = parts.controller, Machines()
    controller.capacity = Capacity(controller.heads, machines, lambda: controller.commits.settings)  # type: ignore[arg-type]
    (tmp_path / "token").write_text(TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(application(controller, News()), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield Desk(machines, ("--control", url, "--token-file", str(tmp_path / "token")), capsys)
        server.should_exit = True
        thread.join()
    for part in (parts.acts, parts.engine, parts.platform, parts.repo, parts.record):
        part.close()


def test_what_fits_is_said_to_people_and_to_programs(desk: Desk) -> None:
    assert desk.capacity()["answer"] == "start"
    assert "  capacity: fits now: 1 more start beside what runs" in desk.plan(*desk.door)[0].splitlines()
    assert "- capacity: fits now: 1 more start" in desk.plan("-o", "markdown", *desk.door)[0]


def test_what_others_use_is_waited_for(desk: Desk) -> None:
    desk.machines.free = 0.0
    assert (desk.capacity()["answer"], desk.capacity()["position"]) == ("wait", 1)
    assert "capacity: waits, number 1 in line: hello/blue asks for 1" in desk.plan(*desk.door)[0]


def test_what_never_fits_is_refused_with_the_arithmetic(desk: Desk) -> None:
    desk.machines.pods = desk.machines.free = 0.0
    assert desk.capacity()["answer"] == "refuse"
    assert "an empty pool would take 0" in desk.plan(*desk.door)[0]


def test_nothing_is_said_when_nobody_knows(desk: Desk) -> None:
    desk.machines.known = False
    assert desk.capacity() is None
    assert "capacity:" not in desk.plan(*desk.door)[0]


def test_elastic_nodes_are_not_asked_for(desk: Desk) -> None:
    desk.machines.pods = desk.machines.free = 0.0
    with Path("headgate.yml").open("a") as file:
        file.write("\ncapacity: elastic\n")
    assert desk.capacity() is None


def test_a_plan_needs_no_controller(desk: Desk) -> None:
    out, said = desk.plan()
    assert (out.startswith("hello: new"), "capacity" in out + said) == (True, False)
    out, said = desk.plan("--control", "http://127.0.0.1:1", "--token-file", desk.door[-1])
    assert (out.startswith("hello: new"), "capacity is not known" in said) == (True, True)

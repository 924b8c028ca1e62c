"""Which Envoy is run, and what does not go with it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from headgate.findings import FindingsError
from headgate_kit import listen
from headgate_router.dataplanes.envoy import process
from headgate_router.dataplanes.envoy.bootstrap import Door, Places, bootstrap
from headgate_router.dataplanes.envoy.process import RUNNING, Command, Envoy
from headgate_router.dataplanes.envoy.side import reserve, side_of, threads
from headgate_router.main import parse


def test_one_that_is_named_and_is_no_program_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(FindingsError) as caught:
        process.find(str(tmp_path / "nowhere"))
    assert caught.value.findings[0].code == "no-envoy"


def test_the_variable_names_it_and_the_option_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("ENVOY", str(tmp_path / "one"))
    assert process.find() == str(tmp_path / "one")
    assert process.find(str(tmp_path / "other")) == str(tmp_path / "other")


@pytest.mark.parametrize("argv", [["--fd", "3"], ["--access-log", "-"]], ids=lambda argv: argv[0])
def test_options_that_envoy_would_not_keep_are_findings(argv: list[str]) -> None:
    with reserve("127.0.0.1", 0) as sock, pytest.raises(FindingsError) as caught:
        side_of(parse(["--data", "/nowhere", "--dataplane", "envoy", *argv]), sock)
    assert caught.value.findings[0].code == "envoy-option"


def test_an_address_that_others_listen_on_is_not_shared_with_them() -> None:
    with listen.bind("127.0.0.1", 0) as theirs, pytest.raises(OSError):
        reserve("127.0.0.1", theirs.getsockname()[1])


def test_threads_are_as_asked_or_one_for_each_core() -> None:
    assert threads(3) == 3
    assert threads(0) >= 1


def test_no_table_is_in_what_envoy_is_started_with() -> None:
    door = Door("127.0.0.1", 1, "localhost", 1000, 10)
    config = bootstrap("router-0", door, Places("c", "a", "p", "m"))
    clusters = [one["name"] for one in config["static_resources"]["clusters"]]
    assert clusters == ["headgate", "headgate-copies"]
    assert [one["name"] for one in config["static_resources"]["listeners"]] == ["callers", "probe", "copies"]
    assert "@" not in config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"][
        "http_filters"
    ][0]["typed_config"]["default_source_code"]["inline_string"].replace("@type", "")


# In Envoy's place: its admin door. The first question of what runs gets no answer, then it is one request, then none.
BUSY = """#!{python}
import http.server, os, signal, socketserver, sys, threading
asked = []
class Admin(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.say(b"OK")
    def do_GET(self):
        asked.append(self.path)
        if len(asked) == 1:
            threading.Event().wait()
        self.say(b"{running}: %d" % (len(asked) < 3))
    def say(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
def end(*_):
    open({told!r}, "w").write(str(len(asked)))
    os._exit(0)
signal.signal(signal.SIGTERM, end)
Server({admin!r}, Admin).serve_forever()
"""


def test_a_drain_waits_for_callers_also_of_one_that_is_too_busy_to_say_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ADMIN_S", 1.0)
    monkeypatch.chdir(tmp_path)  # a short name for a socket
    binary, told = tmp_path / "envoy", tmp_path / "told"
    binary.write_text(BUSY.format(python=sys.executable, running=RUNNING, admin="admin", told=str(told)))
    binary.chmod(0o700)

    async def scenario() -> None:
        envoy = Envoy(
            Command(str(binary), 1, tmp_path, "admin"), {"node": {"id": "n"}}, lambda node: None, lambda line: None
        )
        running = asyncio.create_task(envoy.run())
        async with asyncio.timeout(60):
            while not Path("admin").exists():
                await asyncio.sleep(0.01)
            await envoy.end(60.0, 60.0)
            await running

    asyncio.run(scenario())
    assert told.read_text() == "3"

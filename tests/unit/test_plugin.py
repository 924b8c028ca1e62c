"""`kubectl headgate`: what is kubectl's and what is ours; a token that cannot be read is a finding, not a traceback."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.findings import FindingsError
from headgate_console import plugin
from headgate_console.exits import Exit


@pytest.mark.parametrize(
    ("argv", "kubectl", "command"),
    [
        pytest.param(["status"], [], ["status"], id="no namespace"),
        pytest.param(["-n", "ml", "status", "-w"], ["-n", "ml"], ["status", "-w"], id="a namespace first"),
        pytest.param(["--context=a", "-n", "b", "status"], ["--context=a", "-n", "b"], ["status"], id="written with ="),
        pytest.param(["rollout", "get", "-n", "x"], [], ["rollout", "get", "-n", "x"], id="after the verb it is ours"),
        pytest.param([], [], [], id="nothing"),
    ],
)
def test_what_comes_before_the_command_is_kubectls(argv: list[str], kubectl: list[str], command: list[str]) -> None:
    assert plugin.split(argv) == (kubectl, command)


def fake_kubectl(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_token_is_read_with_the_callers_own_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kubectl(tmp_path, 'test "$1 $2 $3 $4" = "-n ml get secret" && printf c2VjcmV0', monkeypatch)
    assert plugin.token(["-n", "ml"]) == "secret"


@pytest.mark.parametrize(
    "script", ["echo forbidden >&2; exit 1", "true", "printf '%%%'"], ids=["refused", "no key", "no base64"]
)
def test_a_token_that_cannot_be_read_is_a_finding(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kubectl(tmp_path, script, monkeypatch)
    with pytest.raises(FindingsError) as caught:
        plugin.token([])
    assert caught.value.findings[0].code == "no-cluster-access"


def test_without_kubectl_the_plugin_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert plugin.run(["status"]) == Exit.REFUSED
    assert "no-cluster-access" in capsys.readouterr().err


def test_a_forward_gives_its_port_and_ends_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = tmp_path / "ended"
    script = (
        f"trap 'touch {ended}; exit 0' TERM; echo 'Forwarding from 127.0.0.1:4711 -> 7070'; sleep 60 >/dev/null & wait"
    )
    fake_kubectl(tmp_path, script, monkeypatch)
    with plugin.forward([], "svc/headgate-controller", "7070") as url:
        assert url == "http://127.0.0.1:4711"
        assert not ended.exists()
    assert ended.exists()


def test_a_forward_that_ends_is_made_again_on_the_same_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "AGAIN_S", 0.01)
    asked = tmp_path / "asked"
    says = 'echo "Forwarding from 127.0.0.1:4711 -> 7070"'
    fake_kubectl(tmp_path, f'echo "$5" >> {asked}; {says}; test $(wc -l < {asked}) -lt 3 || exec sleep 60', monkeypatch)
    with plugin.forward([], "svc/headgate-controller", "7070"):
        until(lambda: asked.read_text().split() == [":7070", "4711:7070", "4711:7070"])


def test_a_forward_may_say_more_than_a_pipe_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "said"
    says = 'echo "Forwarding from 127.0.0.1:4711 -> 7070"; head -c 300000 /dev/zero'
    fake_kubectl(tmp_path, f"{says}; touch {said}; exec sleep 60", monkeypatch)
    with plugin.forward([], "svc/headgate-controller", "7070"):
        until(said.exists)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_a_forward_that_is_refused_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kubectl(tmp_path, "echo 'error: services \"headgate-controller\" not found'; exit 1", monkeypatch)
    with pytest.raises(FindingsError, match="not found"), plugin.forward([], "svc/headgate-controller", "7070"):
        raise AssertionError("there is no way to it")

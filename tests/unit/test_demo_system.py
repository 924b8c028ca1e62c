"""The caller as the story has it: a process of its own, whose end is seen."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from headgate_console.demo.caller import Answered, Load
from headgate_console.demo.system import Calling, CommandError

WITHIN_S = 30.0


def load(folder: Path, url: str = "http://127.0.0.1:9/score") -> Load:
    return Load(url, "k", 100.0, str(folder / "caller.log"), ("{}",))


def test_what_the_caller_logs_is_read_once_and_in_full(tmp_path: Path) -> None:
    calling = Calling(load(tmp_path))
    found: list[Answered] = []
    deadline = time.monotonic() + WITHIN_S
    while len(found) < 20 and time.monotonic() < deadline:
        found += calling.new()
        time.sleep(0.05)
    calling.end()
    found += calling.new()
    assert len(found) == len((tmp_path / "caller.log").read_bytes().splitlines()) >= 20
    assert calling.new() == []


def test_a_caller_that_broke_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    calling = Calling(load(tmp_path, url="http://127.0.0.1:not-a-port/score"))
    with pytest.raises(CommandError, match="not-a-port"):
        ask_until_it_fails(calling)
    calling.kill()


def ask_until_it_fails(calling: Calling) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        calling.new()
        time.sleep(0.05)

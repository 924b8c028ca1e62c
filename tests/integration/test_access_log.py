"""The access log on a real file: what is in a line, what never is, and what happens when it cannot be written."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from headgate_router import access_log
from headgate_router.access_log import AccessLog, Line

LINE = Line(
    method=b"POST",
    endpoint="fraud",
    path=b"score",
    status=200,
    outcome="ok",
    deployment="blue",
    revision="r1",
    generation=7,
    first_ms=1.23456,
    whole_ms=2.0,
    request_id=b"id-1",
    client_id=b"",
)
REFUSED = Line(b"POST", "no\nsuch", b"x" * 5000, 404, "", "", "", None, None, None, b"id-2", b"c")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.005)


def make(place: str, share: float = 1.0) -> AccessLog:
    log = AccessLog(place, "router-0", share, Random(7), clock=lambda: 1_700_000_000.25)
    log.start()
    return log


def test_a_line_says_who_answered_and_how_fast(tmp_path: Path) -> None:
    log = make(str(tmp_path / "access.jsonl"))
    log.add(LINE)
    log.add(REFUSED)
    log.close()
    answered, refused = lines(tmp_path / "access.jsonl")
    assert answered == {
        "time": "2023-11-14T22:13:20.250Z", "worker": "router-0", "method": "POST", "endpoint": "fraud",
        "path": "score", "status": 200, "outcome": "ok", "deployment": "blue", "revision": "r1", "generation": 7,
        "first_ms": 1.235, "ms": 2.0, "request_id": "id-1",
    }  # fmt: skip
    assert (refused["endpoint"], refused["status"], refused["client_request_id"]) == ("no\nsuch", 404, "c")
    assert len(refused["path"]) == 200
    assert not {"outcome", "revision", "ms"} & refused.keys()


def test_a_share_of_the_requests_is_written(tmp_path: Path) -> None:
    log = make(str(tmp_path / "log"), share=0.1)
    wanted = sum(log.wants() for _ in range(10_000))
    log.close()
    assert 900 < wanted < 1100
    none = make(str(tmp_path / "none"), share=0.0)
    assert not any(none.wants() for _ in range(100))
    none.close()


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    place = tmp_path / "log"
    log = make(str(place))
    log.add(LINE)
    until(lambda: place.exists() and len(lines(place)) == 1)
    place.rename(tmp_path / "log.1")
    log.add(REFUSED)
    until(lambda: place.exists() and len(lines(place)) == 1)
    log.close()
    assert [lines(tmp_path / name)[0]["status"] for name in ("log.1", "log")] == [200, 404]


def test_a_place_that_cannot_be_written_costs_lines_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "later" / "log"
    with caplog.at_level(logging.ERROR):
        log = make(str(place))
        log.add(LINE)
        until(lambda: log.dropped == 1)
        log.add(LINE)
        until(lambda: log.dropped == 2)
    assert caplog.text.count("the access log cannot be written") == 1
    place.parent.mkdir()
    log.add(LINE)
    log.close()
    assert len(lines(place)) == 1


def test_a_writer_that_cannot_keep_up_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MOST", 3)
    log = AccessLog(str(tmp_path / "log"), "router-0", 1.0, Random(7))  # its thread has not begun
    for _ in range(10):
        if log.wants():
            log.add(LINE)
    assert log.dropped == 7
    log.start()
    log.close()
    assert len(lines(tmp_path / "log")) == 3

"""One event, one line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from headgate_kit import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_record_is_one_line_with_its_time_in_utc(stream: io.StringIO) -> None:
    log.set_up("router-0", stream=stream)
    logging.getLogger("headgate.feed").info("two\nlines", extra={"generation": 7, "why": "a table"})
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line[10] == "T"
    assert line.split(" ", 1)[0].endswith("Z")
    assert line.split(" ", 1)[1] == 'info router-0 headgate.feed: two\\nlines generation=7 why="a table"\n'


def test_json_lines_are_json_and_hold_the_traceback(stream: io.StringIO) -> None:
    log.set_up("controller", as_json=True, stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("a").exception("failed", extra={"endpoint": "e"})
    line = json.loads(stream.getvalue())
    assert (line["service"], line["level"], line["message"], line["endpoint"]) == (
        "controller",
        "error",
        "failed",
        "e",
    )
    assert "ValueError: broken" in line["traceback"]


def test_libraries_that_log_every_request_are_quiet(stream: io.StringIO) -> None:
    log.set_up("controller", stream=stream)
    logging.getLogger("httpx").info("GET /")
    assert stream.getvalue() == ""

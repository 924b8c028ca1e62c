"""Logging of our own services: one line per record, RFC 3339 in UTC, to stderr. Never a second line, never a secret.

A traceback becomes one field of the line, so that whoever collects the lines sees one event as one event.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
NOISY = ("httpx", "httpcore", "git", "urllib3", "asyncio")  # a line per request or command says nothing new


def set_up(service: str, *, level: int = logging.INFO, as_json: bool = False, stream: IO[str] | None = None) -> None:
    """Replaces the root logger's handlers. `extra={...}` of a call becomes fields of its line.

    Args:
        service: which of our processes speaks, e.g. `router-0`.
        stream: None is stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(service) if as_json else TextLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class Lines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def time(self, record: logging.LogRecord) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        found = {k: v for k, v in vars(record).items() if k not in STANDARD}
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return found


class TextLines(Lines):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_one_line(value)}" for name, value in self.fields(record).items())
        message = record.getMessage().replace("\n", "\\n")
        return f"{self.time(record)} {record.levelname.lower()} {self.service} {record.name}: {message}{fields}"


class JsonLines(Lines):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.time(record),
            "level": record.levelname.lower(),
            "service": self.service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps({**self.fields(record), **line}, default=str, ensure_ascii=False)


def _one_line(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c in '"=' for c in text) else text

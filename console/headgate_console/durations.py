"""Durations on the command line: `30s`, `10m`, `1h30m`, or plain seconds."""

from __future__ import annotations

import re
from typing import Any

import click

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def seconds(text: str) -> float:
    """Raises ValueError when the text is no duration."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(f"({PART.pattern})+", text):
        raise ValueError(f"{text!r} is no duration: write 30s, 10m or 1h30m")
    return sum(float(number) * SECONDS[unit] for number, unit in PART.findall(text))


class Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)

"""How anything is written to a terminal: colours, tables, machine formats. Fetches nothing, decides nothing.

Text carries ANSI styles; `click.echo` strips them when the output is no terminal or colours are off (`wants_colour`),
so there is one way to write a line. rich is imported only to redraw a watched view.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from headgate import codec

API_VERSION = "headgate.dev/v1alpha1"
OUTPUTS = ("table", "wide", "json", "yaml", "name")
GAP = "  "
WIDEST_LINE = 1_000_000  # of YAML: never fold a text that a program compares

# Argo Rollouts' icons and colours: what its users' eyes already know.
LOOK: Mapping[str, tuple[str, str]] = {
    "Healthy": ("✔", "green"),
    "Progressing": ("◌", "bright_blue"),
    "Mirroring": ("◌", "bright_blue"),
    "Paused": ("॥", "yellow"),
    "Pending": ("◷", "yellow"),
    "Removing": ("◷", "yellow"),
    "Drained": ("•", "yellow"),
    "Degraded": ("✖", "red"),
    "RolledBack": ("⟲", "red"),
    "Synced": ("✔", "green"),
    "OutOfSync": ("◌", "yellow"),
    "Rejected": ("✖", "red"),
    "running": ("◌", "bright_blue"),
    "paused": ("॥", "yellow"),
    "waiting": ("◷", "yellow"),
    "passed": ("✔", "green"),
    "succeeded": ("✔", "green"),
    "failed": ("✖", "red"),
    "stopped": ("•", "yellow"),
    "aborted": ("✖", "red"),
    "superseded": ("•", "yellow"),
    "pass": ("✔", "green"),
    "fail": ("✖", "red"),
    "inconclusive": ("◷", "yellow"),
    "error": ("⚠", "red"),
}
UNKNOWN = ("?", "yellow")


def wants_colour(asked: bool, environ: Mapping[str, str] = os.environ) -> bool | None:
    """False: never. None: click decides, which is yes on a terminal only."""
    if not asked or environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    return None


def state(word: str) -> str:
    """A state with its icon and colour; an unknown one still reads."""
    icon, colour = LOOK.get(word, UNKNOWN)
    return click.style(f"{icon} {word}", fg=colour)


def dim(text: str) -> str:
    return click.style(text, dim=True) if text else ""


def bold(text: str) -> str:
    return click.style(text, bold=True)


def width(text: str) -> int:
    return len(click.unstyle(text))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Left-aligned columns, as kubectl prints them; styles do not count as width."""
    lines = [list(headers), *[list(row) for row in rows]]
    widths = [max(width(line[i]) for line in lines) for i in range(len(headers))]
    return [GAP.join(cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(line)).rstrip() for line in lines]


def labelled(label: str, value: str) -> str:
    """`Name:            value`: labels 17 columns wide, as `kubectl argo rollouts get`."""
    return f"{label + ':':<17}{value}".rstrip()


def age(seconds: float | None) -> str:
    """`45s`, `3m12s`, `2h5m`, `4d2h`: two units at most. None: `-`."""
    if seconds is None:
        return "-"
    left = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2]) or "0s"


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def percent(per_mille: float) -> str:
    """`25 %`, `2.5 %`; from per-mille."""
    return f"{per_mille / 10:g} %"


def short(commit: str) -> str:
    return commit[:8] or "-"


def document(kind: str, value: Any) -> dict[str, Any]:
    """A value as `-o json|yaml` prints it: apiVersion and kind first, times as RFC 3339."""
    data = timed(codec.to_data(value))
    if isinstance(data, list):
        return {"apiVersion": API_VERSION, "kind": f"{kind}List", "items": data}
    return {"apiVersion": API_VERSION, "kind": kind, **data}


def timed(data: Any) -> Any:
    """Every `at` or `..._at` that is a number of seconds, as text that sorts and that people can read."""
    if isinstance(data, Mapping):
        return {k: rfc3339(v) if is_time(k, v) else timed(v) for k, v in data.items()}
    return [timed(item) for item in data] if isinstance(data, list) else data


def is_time(key: str, value: Any) -> bool:
    return (key == "at" or key.endswith("_at")) and isinstance(value, int | float) and not isinstance(value, bool)


def machine(data: Mapping[str, Any], output: str) -> str:
    """A document as JSON or YAML text, keys in the order given."""
    if output == "json":
        return json.dumps(data, indent=2, ensure_ascii=False)
    # YAML 1.2, as we read it: a country `NO` or a flag `on` needs no quotes and gets none.
    from ruamel.yaml import YAML

    writer, text = YAML(), io.StringIO()
    writer.width = WIDEST_LINE
    writer.dump(json.loads(json.dumps(data)), text)
    return text.getvalue().rstrip("\n")

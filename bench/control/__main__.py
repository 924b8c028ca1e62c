"""`python -m bench.control [PART ...]`: measures, prints one table, writes bench/results/control.json.

A part that is run alone replaces its own numbers in the file and leaves the others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.control.measure import Measured

from headgate_console.print import table

RESULTS = Path(__file__).parents[1] / "results" / "control.json"
PARTS = {
    "revert": "revert:revert",
    "engine": "overhead:engine",
    "plan": "many:plan",
    "validate": "many:validate",
    "router": "memory:router",
    "controller": "memory:controller",
}


def main(argv: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a part started is stopped
    parser = argparse.ArgumentParser(prog="python -m bench.control", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    chosen = parser.parse_args(argv).parts or list(PARTS)
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    found: list[Measured] = []
    for part in chosen:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        module, _, function = PARTS[part].partition(":")
        found += getattr(importlib.import_module(f"bench.control.{module}"), function)()
    write(found)
    print("\n".join(table(("WHAT", "MEASURED", "GOAL", "", "HOW"), [row(one) for one in found])))
    return 0 if all(one.held for one in found) else 1


def row(one: Measured) -> tuple[str, ...]:
    goal = "" if one.goal is None else f"<= {one.goal:g}"
    return one.name, f"{one.value:g}", goal, "" if one.goal is None else "ok" if one.held else "MISSED", one.says


def write(found: Sequence[Measured]) -> None:
    """One flat file: a number per name, and the machine they were measured on."""
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known |= {one.name: one.value for one in found}
    known["machine"] = {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}
    RESULTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

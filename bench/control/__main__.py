"""`python -m bench.control [PART ...]`: measures, prints one table, writes bench/results/control.json.

A part that is run alone replaces its own numbers in the file and leaves the others.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence

from bench.control.measure import Measured
from bench.numbers import keep

from headgate_console.print import table

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
    keep("control", {one.name: one.value for one in found})
    print("\n".join(table(("WHAT", "MEASURED", "GOAL", "", "HOW"), [row(one) for one in found])))
    return 0 if all(one.held for one in found) else 1


def row(one: Measured) -> tuple[str, ...]:
    goal = "" if one.goal is None else f"<= {one.goal:g}"
    return one.name, f"{one.value:g}", goal, "" if one.goal is None else "ok" if one.held else "MISSED", one.says


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m bench.judgement [PART ...]`: simulates, prints one table, writes bench/results/judgement.json.

Seeded: every number but the CPU share is the same on every machine. A part that is run alone replaces its own numbers
in the file and leaves the others; `scale_PART` says with how many of its seeds it was run.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence

from bench.judgement.parts import NAMES, PARTS, Numbers
from bench.numbers import keep

from headgate_console.print import table

GOALS: dict[str, tuple[float, float]] = {  # name -> at least, at most
    "false_abort_max": (0.0, 0.01),
    "promoted_on_silence": (0.0, 0.0),
    "promoted_twice_tolerated": (0.0, 0.05),
    "wrong_answers_caught": (0.95, 1.0),
    "wrong_answers_failed": (0.95, 1.0),
    "noisy_equal_false_abort": (0.0, 0.01),
    "noisy_equal_passed": (0.95, 1.0),
    "cpu_share_100_rollouts": (0.0, 0.05),
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.judgement", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of seeds; below 1 for a quick look")
    given = parser.parse_args(argv)
    unknown = sorted(set(given.parts) - set(PARTS))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    rows: list[list[str]] = []
    numbers: Numbers = {}
    for part in given.parts or PARTS:
        print(f"simulating {part} ...", file=sys.stderr, flush=True)
        lines, found = PARTS[part](given.scale)
        rows += lines
        numbers |= found
    keep("judgement", numbers | {f"scale_{part}": given.scale for part in given.parts or PARTS})
    width = 1 + len(NAMES)
    print(
        "\n".join(
            table(("AT 20 / 600 / 20,000 A MINUTE", *NAMES), [[*row, *[""] * (width - len(row))] for row in rows])
        )
    )
    print()
    print("\n".join(table(("NUMBER", "VALUE", "GOAL", ""), list(goals(numbers)))))
    return 0 if all(low <= numbers[name] <= high for name, (low, high) in GOALS.items() if name in numbers) else 1


def goals(numbers: Numbers) -> Iterator[list[str]]:
    for name, value in numbers.items():
        low, high = GOALS.get(name, (-math.inf, math.inf))
        goal = "" if name not in GOALS else f">= {low:g}" if high == 1.0 else f"<= {high:g}"
        yield [name, f"{value:g}", goal, "" if not goal else "ok" if low <= value <= high else "MISSED"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

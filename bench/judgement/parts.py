"""The parts of the benchmark: each answers rows of the table and numbers of the file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from bench.judgement import answers, cost, detection, peers
from bench.judgement.jobs import NOTHING_WRONG, RATES, SILENT, answer, equal, every, regression
from bench.judgement.traffic import REGRESSIONS, WORLDS

SEEDS = {"equal": 200, "regressions": 40, "detection": 400, "answers": 60}
NAMES = ("ours", *peers.PEERS)

Numbers = dict[str, Any]
Part = Callable[[float], tuple[list[list[str]], Numbers]]


def run_equal(scale: float) -> tuple[list[list[str]], Numbers]:
    seeds = round(SEEDS["equal"] * scale)
    found = every(equal, [(w, r, s) for w in range(len(WORLDS)) for r in RATES for s in range(seeds)])
    rows, worst = [], dict.fromkeys(NAMES, 0.0)
    cells: dict[str, float] = {}
    for world in WORLDS:
        row = []
        for name in NAMES:
            each = [found[(world.name, str(rate), name)] / seeds for rate in RATES]
            row.append(f"{percent(sum(each) / len(each))} ({' / '.join(percent(cell) for cell in each)})")
            worst[name] = max(worst[name], sum(each) / len(each))
            cells[name] = max(cells.get(name, 0.0), *each)
        rows.append([f"equal models: {world.name}", *row])
    numbers: Numbers = {"false_abort_max": round(worst["ours"], 5), "false_abort_worst_cell": round(cells["ours"], 5)}
    numbers |= {f"false_abort_max_{key(name)}": round(worst[name], 5) for name in peers.PEERS}
    return rows, numbers | {"false_abort_runs": seeds * len(RATES)}


def run_regressions(scale: float) -> tuple[list[list[str]], Numbers]:
    seeds = max(1, round(SEEDS["regressions"] * scale))
    names = [*REGRESSIONS, SILENT, NOTHING_WRONG]
    found = every(regression, [(n, r, s) for n in names for r in RATES for s in range(seeds)])
    rows = [[name, *(outcome(found, name, peer, seeds) for peer in NAMES)] for name in names]

    def promoted(name: str, rates: Iterable[int]) -> float:
        each = [found[(name, str(rate), "ours", "promoted")] / seeds for rate in rates]
        return round(max(each), 5)

    twice = "errors 0.5 -> 1.5 % (twice the tolerated)"
    numbers: Numbers = {
        "promoted_on_silence": promoted(SILENT, RATES),
        "promoted_twice_tolerated": promoted(twice, RATES),
        "promoted_equal_20000": found[(NOTHING_WRONG, "20000", "ours", "promoted")] / seeds,
    }
    return rows, numbers


def outcome(found: Counter[Any], name: str, peer: str, seeds: int) -> str:
    """Promoted, in % at each rate; and the mean minute of those that were stopped by a failure, at the highest."""
    parts = [percent(found[(name, str(rate), peer, "promoted")] / seeds) for rate in RATES]
    failed = found[(name, str(RATES[-1]), peer, "failed")]
    when = f", min {found[(name, str(RATES[-1]), peer, 'minutes')] / failed:.0f}" if failed else ""
    return f"promoted {' / '.join(parts)}{when}"


def run_detection(scale: float) -> tuple[list[list[str]], Numbers]:
    found = detection.measure(max(20, round(SEEDS["detection"] * scale)))
    rows = []
    for setup in detection.SETUPS:
        mine = {one.test: one for one in found if one.setup == setup.name}
        cells = [f"{name} {one.looks_95:g} looks ({percent(one.false_alarms)} false)" for name, one in mine.items()]
        rows.append([f"0.5 -> 2 % in 95 %: {setup.name}", cells[0], "; ".join(cells[1:])])
    by = {(one.setup, one.test): one.looks_95 for one in found}
    first, default = (setup.name for setup in detection.SETUPS)
    numbers: Numbers = {
        "detect_looks": number(by[(first, "ours")]),
        "detect_looks_msprt": number(by[(first, "mSPRT")]),
        "detect_looks_bound": number(by[(first, "bound")]),
        "detect_looks_default": number(by[(default, "ours")]),
        "detect_looks_default_msprt": number(by[(default, "mSPRT")]),
        "detect_looks_default_bound": number(by[(default, "bound")]),
    }
    return rows, numbers


def run_answers(scale: float) -> tuple[list[list[str]], Numbers]:
    seeds = max(4, round(SEEDS["answers"] * scale))
    found = every(answer, [(c, s) for c in range(len(answers.CASES)) for s in range(seeds)])
    rows, caught = [], {}
    for case in answers.CASES:
        parts = [
            f"{percent(found[(case.name, result)] / seeds)} {result}" for result in ("fail", "inconclusive", "pass")
        ]
        rows.append([f"answers: {case.name}", ", ".join(parts), "not seen"])
        caught[case.name] = 1 - found[(case.name, "pass")] / seeds
    one_percent = [caught[case.name] for case in answers.CASES if case.share == 0.01]
    noisy = (answers.NOISY, answers.NOISY_MORE_ECHOES)
    numbers: Numbers = {
        "wrong_answers_caught": round(min(one_percent), 5),
        "wrong_answers_failed": round(found[(answers.FAILED_IN_TIME, "fail")] / seeds, 5),
        "noisy_equal_false_abort": round(max(found[(name, "fail")] for name in noisy) / seeds, 5),
        "noisy_equal_passed": round(found[(answers.NOISY_MORE_ECHOES, "pass")] / seeds, 5),
        "noisy_equal_passed_tenth": round(found[(answers.NOISY, "pass")] / seeds, 5),
    }
    return rows, numbers


def run_cost(scale: float) -> tuple[list[list[str]], Numbers]:
    share, receiving = cost.shares_of_a_core()
    cells = f"{percent(share)} of a core; {percent(receiving)} to receive what is judged"
    return [["100 rollouts, 5 gates: CPU", cells]], {
        "cpu_share_100_rollouts": round(share, 4),
        "cpu_share_100_receiving": round(receiving, 4),
    }


PARTS: dict[str, Part] = {
    "equal": run_equal,
    "regressions": run_regressions,
    "detection": run_detection,
    "answers": run_answers,
    "cost": run_cost,
}


def percent(share: float) -> str:
    return f"{share * 100:.3g}%"


def number(value: float) -> float | None:
    return None if math.isinf(value) else value


def key(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")

"""A gate that is not ours, judging in a process of its own: `python -m headgate_kit.foreign_gate NAME`.

One line of canonical JSON in, one out. What the gate prints goes to stderr; when whoever asked is gone, this ends, also
in the middle of a gate that never returns. It keeps the looks of a few hearings, so that each is sent once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import OrderedDict
from typing import Any

from headgate import codec, plugins
from headgate.evidence import Look, Verdict
from headgate.params import parse

HEARINGS = 64  # whose looks are kept; an older one is sent again when it is asked for
ORPHAN_S = 1.0  # between two looks at whether the parent lives


def main(name: str) -> int:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a gate prints must not be taken for an answer
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    gate = plugins.load("headgate.gate").adapters[name]
    heard: OrderedDict[str, list[Look]] = OrderedDict()
    answers.write(b'{"ready":true}\n')
    for line in sys.stdin.buffer:
        answers.write(_line(_answer(gate, json.loads(line), heard)))
    return 0


def _answer(gate: Any, asked: dict[str, Any], heard: OrderedDict[str, list[Look]]) -> dict[str, Any]:
    """What the gate says, or what it raised, or `from`: how many looks of this hearing are known here."""
    looks = heard.setdefault(asked["hearing"], [])
    heard.move_to_end(asked["hearing"])
    while len(heard) > HEARINGS:
        heard.popitem(last=False)
    if asked["from"] != len(looks):
        del looks[:]
        return {"from": 0}
    looks += codec.decode(list[Look], asked["looks"])
    try:
        params, faults = parse(gate.params, asked["params"])
        if params is None:
            return {"error": f"its own parameters cannot be read again: {faults}"}
        given = gate.judge(params, tuple(looks), asked["alpha"])
        return {"verdict": codec.to_data(given)} if isinstance(given, Verdict) else {"error": _no_verdict(given)}
    except Exception as error:  # noqa: BLE001  a gate may be anybody's: what it raises is its verdict
        return {"error": f"the gate broke: {type(error).__name__}: {error}"}


def _no_verdict(given: Any) -> str:
    return f"the gate returned {type(given).__name__}, not a verdict"


def _line(answer: dict[str, Any]) -> bytes:
    """NaN and infinity are no JSON: they come out as null, which is no figure."""
    return codec.canonical(answer) + b"\n"


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

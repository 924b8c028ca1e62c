"""The op `rollout`: waits until a commit's rollout has ended and says how. Standard library only.

The controller runs the rollout by itself as soon as it sees the commit; this asks for nothing and moves nothing. It is
for a team's pipeline that goes on, or stops, by how the rollout went.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from headgate_pipelines import contract

PAUSE_S = 2.0  # between two looks
RUNNING = ("running", "paused")

Read = Callable[[str], Any]  # path -> JSON; None: there is none


def rollout(
    read: Read, endpoint: str, commit: str, patience_s: float, *, pause_s: float = PAUSE_S
) -> tuple[int, str, dict[str, str]]:
    """Watches until the end.

    Args:
        commit: the id, or how it begins.
        patience_s: how long the controller may not know a rollout of it: it was pushed a moment ago.
    Returns:
        Exit code, the message for a person, output parameters.
    """
    path = f"/endpoints/{quote(endpoint, safe='')}/rollouts"
    deadline, said = time.monotonic() + patience_s, ""
    while True:
        found = next((r for r in read(path) or () if str(r["commit"]).startswith(commit)), None)
        if found is None and time.monotonic() >= deadline:
            return contract.AGAIN, f"{endpoint} has no rollout of {commit} after {patience_s:g} s", {}
        if found is not None and found["state"] not in RUNNING:
            return _ended(found)
        if found is not None and (line := _line(found)) != said:
            said = line
            print(line, flush=True)
        time.sleep(pause_s)


def _ended(found: Mapping[str, Any]) -> tuple[int, str, dict[str, str]]:
    state, message = str(found["state"]), str(found.get("message") or "")
    told = f"rollout {found['id']} {state}{': ' if message else ''}{message}"
    outputs = {"rollout": str(found["id"]), "state": state, "message": told}
    return (contract.DONE if state == "succeeded" else contract.NO), told, outputs


def _line(found: Mapping[str, Any]) -> str:
    ops = found.get("ops") or ()
    last = next((op for op in reversed(ops) if op.get("state") != "waiting"), None)
    if last is None:
        return f"rollout {found['id']} begins"
    return f"{last['name']} {last['state']}{': ' if last.get('message') else ''}{last.get('message', '')}"

"""The wish for short turns reaches the system, and nothing else of how the process is scheduled changes."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import subprocess
import sys

import pytest

from headgate_router import turns

GETATTR = {"x86_64": 315, "aarch64": 275}
KERNEL = tuple(int(part) for part in platform.release().split(".")[:2]) if sys.platform == "linux" else (0, 0)
ASK = "import json, sys; sys.path.insert(0, {here!r}); import test_turns as t; {first}; print(json.dumps(t.asked()))"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in GETATTR, reason="only Linux takes it: run it there"
)


def asked() -> tuple[bool, bool, int, int, int]:
    """In a process of its own: what `shorten` says twice, then policy, nice and turn as the system has them."""
    said = turns.shorten(), turns.shorten()
    attributes = struct.Struct("=IIQiIQQQ")
    room = ctypes.create_string_buffer(attributes.size)
    number = ctypes.c_long(GETATTR[platform.machine()])
    assert ctypes.CDLL(None).syscall(number, 0, room, ctypes.c_uint(attributes.size), 0) == 0
    _, policy, _, nice, _, turn, _, _ = attributes.unpack(room.raw)
    return *said, policy, nice, turn


def told(first: str) -> list[object]:
    code = ASK.format(here=os.path.dirname(__file__), first=first)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    answer: list[object] = json.loads(said)
    return answer


def test_turns_are_short_and_policy_and_nice_stay() -> None:
    once, again, policy, nice, turn = told("import os; os.nice(3)")
    assert (once, again, policy, nice) == (True, True, os.SCHED_OTHER, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3))
    if KERNEL >= (6, 12):
        assert turn == turns.TURN_NS


def test_who_was_given_another_policy_keeps_it() -> None:
    once, again, policy, *_ = told("import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))")
    assert (once, again, policy) == (False, False, os.SCHED_BATCH)

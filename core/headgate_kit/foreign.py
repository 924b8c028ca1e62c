"""Gates that are not ours, kept at arm's length: asked through a child process, within a time, or not at all.

A gate that hangs, crashes or answers garbage is an `error` verdict of that gate. Its process is ended and started again
for the next question; after a few failures in a row it is left alone for a while, so that it costs the loop that asks
next to nothing. What cannot be contained: importing it, which every plugin is, and `power`, which only a plan asks.
"""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, cast

from headgate import codec
from headgate.evidence import Detection, Look, Need, Result, Traffic, Verdict
from headgate.plugins import OURS, Loaded

log = logging.getLogger(__name__)

START_S = 10.0  # interpreter and import of the gate, on a busy machine
BUDGET_S = 1.0  # of one question: a look a second is judged once a second
STRIKES = 3  # failures in a row, then it rests
REST_S = 60.0
MAX_ANSWER = 1_000_000  # bytes
Failure = (OSError, ValueError, KeyError, TypeError, TimeoutError)


def contained(loaded: Loaded) -> dict[str, Any]:
    """The gates by name: ours as they are, others behind a process of their own."""
    return {
        name: gate if loaded.owners.get(name, OURS) == OURS else ForeignGate(name, gate)
        for name, gate in loaded.adapters.items()
    }


class ForeignGate:
    """`headgate.ports.Gate` over a child process, started when it is first asked."""

    def __init__(self, name: str, gate: Any, budget_s: float = BUDGET_S) -> None:
        self.name = name
        self.version: str = gate.version
        self.params: Any = gate.params
        self._gate = gate
        self._budget_s = budget_s
        self._child: _Child | None = None
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._failures = 0
        self._rests_until = 0.0

    def needs(self, params: Any) -> Sequence[Need]:
        return cast("Sequence[Need]", self._gate.needs(params))

    def power(self, params: Any, traffic: Traffic, alpha: float) -> Detection | None:
        return cast("Detection | None", self._gate.power(params, traffic, alpha))

    def judge(self, params: Any, looks: Sequence[Look], alpha: float) -> Verdict:
        sitting = self.sitting(params, alpha)
        sitting.hear(looks)
        return sitting.verdict()

    def sitting(self, params: Any, alpha: float) -> ForeignSitting:
        return ForeignSitting(self, f"{next(self._numbers)}", params, alpha)

    def ask(self, hearing: str, params: Any, looks: Sequence[Look], alpha: float) -> Verdict:
        """The verdict over all looks. An `error` verdict when it does not come."""
        with self._lock:
            if time.monotonic() < self._rests_until:
                return self._error(alpha, f"it failed {STRIKES} times in a row and is asked again in a while")
            try:
                given = self._asked(hearing, params, looks, alpha)
                self._failures = 0
                return given
            except Failure as error:
                return self._error(alpha, self._strike(error))

    def close(self) -> None:
        with self._lock:
            self._end()

    def _asked(self, hearing: str, params: Any, looks: Sequence[Look], alpha: float) -> Verdict:
        if self._child is None:
            self._child = _Child(self.name)
        child = self._child
        known = child.heard.get(hearing, 0)
        question = {"hearing": hearing, "from": known, "params": params, "alpha": alpha, "looks": looks[known:]}
        answer = child.ask(question, self._budget_s)
        if "from" in answer:  # it has forgotten this hearing
            answer = child.ask({**question, "from": 0, "looks": looks}, self._budget_s)
        child.heard[hearing] = len(looks)
        if "error" in answer:
            child.heard.pop(hearing)
            raise ValueError(str(answer["error"]))
        return codec.decode(Verdict, answer["verdict"])

    def _strike(self, error: BaseException) -> str:
        self._end()
        self._failures += 1
        if self._failures >= STRIKES:
            self._failures, self._rests_until = 0, time.monotonic() + REST_S
        why = f"no answer within {self._budget_s:g} s" if isinstance(error, TimeoutError) else str(error)
        log.warning("gate %s: %s", self.name, why)
        return why

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def _error(self, alpha: float, why: str) -> Verdict:
        return Verdict(self.name, self.version, "", {}, alpha, Result.ERROR, why)


class ForeignSitting:
    """One hearing of a foreign gate: keeps its looks, so that a child started again hears all of them."""

    def __init__(self, gate: ForeignGate, hearing: str, params: Any, alpha: float) -> None:
        self._gate, self._hearing, self._params, self._alpha = gate, hearing, params, alpha
        self._looks: list[Look] = []

    def hear(self, looks: Iterable[Look]) -> ForeignSitting:
        self._looks += looks
        return self

    def verdict(self) -> Verdict:
        return self._gate.ask(self._hearing, self._params, self._looks, self._alpha)


class _Child:
    def __init__(self, name: str) -> None:
        """Raises: TimeoutError, OSError, ValueError: it does not start."""
        self.heard: dict[str, int] = {}  # hearing -> looks it was told
        command = [sys.executable, "-m", "headgate_kit.foreign_gate", name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            self._within(START_S, self._read)
        except BaseException:
            self.end()
            raise

    def ask(self, question: Mapping[str, Any], budget_s: float) -> Mapping[str, Any]:
        line = codec.canonical(question) + b"\n"
        return self._within(budget_s, lambda: self._exchange(line))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _exchange(self, line: bytes) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        view = memoryview(line)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]
        return self._read()

    def _read(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        found = b""
        while not found.endswith(b"\n"):
            chunk = self._process.stdout.read(65_536)
            if not chunk:
                raise ValueError(f"its process ended ({self._process.poll()})")
            found += chunk
            if len(found) > MAX_ANSWER:
                raise ValueError(f"an answer of more than {MAX_ANSWER:,} bytes")
        answer = codec.decode(dict, found)
        return cast("Mapping[str, Any]", answer)

    def _within(self, seconds: float, call: Any) -> Mapping[str, Any]:
        """On a thread of its own: a pipe that nobody reads must not hold whoever asks. Raises TimeoutError."""
        done: Future[Mapping[str, Any]] = Future()

        def run() -> None:
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001  handed to whoever waits
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return done.result(timeout=seconds)

"""Waiting for Headgate, and saying what it does while it does it. A slower machine waits longer, never for less."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from headgate.control import EndpointStatus, OpStatus, RolloutStatus
from headgate.evidence import Result
from headgate.findings import FindingsError, HeadgateError
from headgate_console.connect import Control
from headgate_console.demo.say import Screen
from headgate_console.demo.table import took
from headgate_console.print import state

T = TypeVar("T")
LOOK_EVERY_S = 0.2
WITHIN_S = 600.0  # for any one thing: a download of packages, a build on a slow machine; stuck is longer than that
ENDED = ("succeeded", "failed", "aborted", "superseded")


class StuckError(HeadgateError):
    """What should have come has not, in a time that fits every machine."""


class Follower:
    """Looks at one endpoint again and again. `glance` is called with what was seen, at every look."""

    def __init__(
        self, control: Control, endpoint: str, screen: Screen, glance: Callable[[EndpointStatus], None]
    ) -> None:
        self._control = control
        self._endpoint = endpoint
        self._screen = screen
        self._glance = glance

    def until(self, what: str, found: Callable[[EndpointStatus], T | None]) -> T:
        """Looks until `found` answers something. Raises: StuckError."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            seen = self._look()
            if seen is not None:
                self._glance(seen)
                answer = found(seen)
                if answer is not None:
                    return answer
            time.sleep(LOOK_EVERY_S)
        raise StuckError(f"waited {WITHIN_S:g} s for {what}")

    def rollout(self, commit: str) -> RolloutStatus:
        """The rollout of a commit, once it has ended; its phases are said as they come and go."""
        told: dict[str, str] = {}

        def ended(seen: EndpointStatus) -> RolloutStatus | None:
            if seen.sync == "Rejected" and seen.commit == commit:
                raise FindingsError(*seen.findings)
            if seen.rollout is None or seen.rollout.commit != commit:
                return None
            self._tell(seen.rollout, told)
            return seen.rollout if seen.rollout.state in ENDED else None

        return self.until(f"the rollout of {commit[:10]}", ended)

    def _look(self) -> EndpointStatus | None:
        try:
            return self._control.endpoint(self._endpoint)
        except FindingsError as error:
            if all(finding.code == "not-found" for finding in error.findings):
                return None  # the commit has not been read yet
            raise

    def _tell(self, rollout: RolloutStatus, told: dict[str, str]) -> None:
        for op in rollout.ops:
            if op.state != told.get(op.name, "waiting") and op.state != "running":
                self._screen.line(said(op))
            told[op.name] = op.state


def said(op: OpStatus) -> str:
    """One phase that has ended, in one line."""
    gates = [f"{verdict.gate} {state(str(verdict.result))}" for verdict in op.verdicts]
    return f"{op.name:<9} {state(op.state)} in {took(op)}  {'  '.join(gates)}".rstrip()


def failing(rollout: RolloutStatus) -> tuple[str, tuple[str, ...]]:
    """The phase that a failed rollout ended in, and the gates that said no; empty when none did."""
    for op in rollout.ops:
        if op.state == "failed":
            return op.name, tuple(v.gate for v in op.verdicts if v.result is Result.FAIL)
    return "", ()

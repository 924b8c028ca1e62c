"""Waiting for an endpoint: redraws on a terminal, says changes line by line elsewhere, ends with an exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import click

from headgate.control import EndpointStatus, RolloutStatus
from headgate.findings import FindingsError
from headgate_console import views
from headgate_console.exits import NOT_FOUND_CODES, Exit

ASK_EVERY_S = 0.5
REDRAWS_PER_S = 5  # what people can follow; Argo Rollouts' own limit
SETTLED = {"Healthy": Exit.OK, "Drained": Exit.OK, "Degraded": Exit.DEGRADED, "RolledBack": Exit.DEGRADED}
FELL = ("failed", "aborted")


def outcome(status: EndpointStatus, mine: RolloutStatus | None = None) -> Exit | None:
    """How a wait for this endpoint ends; None: it goes on.

    A refused commit ends it too: `Rejected` does not become anything else by itself.

    Args:
        mine: the rollout that is waited for. When it fell the wait failed, also where the revert in git has made the
            endpoint `Healthy` since. None: whatever the endpoint settles at.
    """
    if mine is not None and mine.state in FELL:
        return Exit.DEGRADED
    if status.rollout is not None and status.rollout.ended_at is None:
        return None
    if status.sync == "Rejected":
        return Exit.REFUSED
    return SETTLED.get(status.state)


def fallen(ended: RolloutStatus | None) -> list[str]:
    """Why a wait for this rollout failed, and what became of its commit; nothing when it did not fail."""
    return views.fall(ended) if ended is not None and ended.state in FELL else []


class Screen(Protocol):
    def show(self, lines: list[str], status: EndpointStatus, ended: RolloutStatus | None = None) -> None: ...
    def close(self) -> None: ...


class Redrawn:
    """The whole view, redrawn in place."""

    def __init__(self, colour: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self.live = Live(console=Console(no_color=not colour), refresh_per_second=REDRAWS_PER_S, auto_refresh=False)
        self.live.start()

    def show(self, lines: list[str], status: EndpointStatus, ended: RolloutStatus | None = None) -> None:
        from rich.text import Text

        lines = [*lines, *fallen(ended)]
        self.live.update(Text.from_ansi("\n".join(lines)), refresh=True)

    def close(self) -> None:
        self.live.stop()


class Printed:
    """One line for each change: logs of a CI job stay readable."""

    def __init__(self) -> None:
        self.last = ""

    def show(self, lines: list[str], status: EndpointStatus, ended: RolloutStatus | None = None) -> None:
        line = views.summary(status)
        if line != self.last:
            click.echo(line)
            for finding in views.finding_lines(status.findings):
                click.echo(finding)
            self.last = line
        for said in fallen(ended):
            click.echo(said)

    def close(self) -> None: ...


def screen(colour: bool | None) -> Screen:
    return Redrawn(colour is not False) if sys.stdout.isatty() else Printed()


@dataclass
class Watch:
    """What to ask, how to show it, when to stop."""

    ask: Callable[[], EndpointStatus]
    draw: Callable[[EndpointStatus, float], list[str]]
    arrived: Callable[[], bool] = lambda: True  # whether the commit waited for is acted on
    # That commit's rollout, given the endpoint as it is; None: it has none, or there is no commit.
    own: Callable[[EndpointStatus], RolloutStatus | None] = lambda status: None
    timeout_s: float | None = None  # None: as long as it takes
    every_s: float = ASK_EVERY_S
    seen: str = ""  # id of the rollout that was running when looked at last

    def run(self, shown: Screen) -> Exit:
        """Until the endpoint settles. A controller that restarts meanwhile is waited for."""
        ends = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        try:
            while True:
                code = self.look(shown)
                if code is not None:
                    return code
                if ends is not None and time.monotonic() >= ends:
                    return Exit.TIMEOUT
                time.sleep(self.every_s)
        finally:
            shown.close()

    def look(self, shown: Screen) -> Exit | None:
        waits_for: frozenset[str] = frozenset({"not-running", "try-again"})
        try:
            there = self.arrived()
            if not there:  # an endpoint may not exist before its first commit is acted on
                waits_for |= NOT_FOUND_CODES
            status = self.ask()
            own = self.own(status)
        except FindingsError as error:
            if any(finding.code not in waits_for for finding in error.findings):
                raise
            return None
        mine = own or self.followed(status)
        code = outcome(status, mine) if there or own else None
        shown.show(self.draw(status, time.time()), status, mine if code is not None else None)
        return code

    def followed(self, status: EndpointStatus) -> RolloutStatus | None:
        """The rollout this wait saw running: how it ends is the answer, whatever git says by then."""
        rollout = status.rollout
        if rollout is not None and rollout.ended_at is None:
            self.seen = rollout.id
        return rollout if rollout is not None and rollout.id == self.seen else None


class Silent:
    """Shows nothing: for `-o json`, whose one document comes at the end."""

    def show(self, lines: list[str], status: EndpointStatus, ended: RolloutStatus | None = None) -> None: ...
    def close(self) -> None: ...

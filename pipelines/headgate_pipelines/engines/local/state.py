"""What is journaled of a running workflow: enough for another engine to carry on after this one was killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """Argo's words. A node that has not begun has none."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"  # it ran and said no
    ERROR = "Error"  # it could not be run
    OMITTED = "Omitted"  # never begun, and never will

    @property
    def bad(self) -> bool:
        return self in (Phase.FAILED, Phase.ERROR)


@dataclass(frozen=True, slots=True)
class NodeState:
    """One leaf. Running with `retry_at` is a pause between two attempts."""

    phase: Phase
    started_at: float = 0.0  # of the first attempt; 0: omitted
    attempt: int = 0
    attempt_at: float = 0.0
    retry_at: float | None = None  # when the next attempt begins; None: an attempt runs
    stopping: str = ""  # why its attempt is being ended; empty: it is not
    ended_at: float | None = None
    exit_code: int | None = None
    message: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """An attempt runs, or should."""
        return self.phase is Phase.RUNNING and self.retry_at is None


@dataclass(frozen=True, slots=True)
class RunState:
    started_at: float
    nodes: Mapping[str, NodeState] = field(default_factory=dict)  # by path
    stop: str = ""  # why nothing new begins; empty: it goes on
    status: Phase | None = None  # how the DAG ended; onExit reads it. None: it has not
    phase: Phase = Phase.RUNNING  # of the whole, onExit included
    message: str = ""
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    exit_code: int | None  # minus the signal when one ended it; None: it could not be run, or was ended unseen
    message: str = ""  # its own last words
    outputs: Mapping[str, str] = field(default_factory=dict)
    error: str = ""  # why it counts as not run, e.g. an output is missing; empty: it ran

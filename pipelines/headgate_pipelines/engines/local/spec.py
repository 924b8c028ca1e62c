"""A workflow as the local engine runs it: every reference resolved but to what only exists while it runs.

Made by `compile.py`, advanced by `operate.py`. Frozen and complete: nothing here is looked up again in the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headgate_pipelines.engines.local.boolean import ALWAYS, Expression


class Source(StrEnum):
    OUTPUT = "output"  # an output parameter of a node
    STATUS = "status"  # {{workflow.status}}, in onExit
    FAILURES = "failures"  # {{workflow.failures}}, in onExit: JSON


@dataclass(frozen=True, slots=True)
class Ref:
    """A value that exists only once something has run."""

    source: Source
    node: str = ""  # path of the node
    name: str = ""  # of its output parameter


Text = tuple[str | Ref, ...]


@dataclass(frozen=True, slots=True)
class Backoff:
    duration_s: float = 0.0
    factor: float = 1.0
    cap_s: float | None = None  # longest pause; None: no longest
    max_s: float | None = None  # no retry begins later than this after the node's start; None: no such limit

    def pause_s(self, attempt: int) -> float:
        """Before the attempt after `attempt` (from 0)."""
        pause = self.duration_s * min(self.factor ** min(attempt, 64), 1e9)
        return min(pause, self.cap_s) if self.cap_s is not None else pause


@dataclass(frozen=True, slots=True)
class Retry:
    limit: int | None = None  # retries after the first attempt; None: no limit
    on_failure: bool = True  # after an exit code other than 0
    on_error: bool = False  # after an attempt that could not be run
    when: Expression = ALWAYS  # atoms `status`, `exitCode`, `asInt(exitCode)`
    backoff: Backoff = Backoff()


@dataclass(frozen=True, slots=True)
class Output:
    name: str
    path: str  # as the template says; the engine maps the folder
    default: str | None = None  # None: a missing file is an error


@dataclass(frozen=True, slots=True)
class Leaf:
    """A command that runs."""

    path: str
    template: str
    argv: tuple[Text, ...]
    env: Mapping[str, Text]
    script: Text | None = None  # its file's path is appended to argv
    outputs: tuple[Output, ...] = ()
    retry: Retry | None = None
    timeout_s: float | None = None  # of the node, over all its attempts
    attempt_s: float | None = None  # of one attempt
    image: str = ""  # read where containers run
    pod: Mapping[str, Any] = field(default_factory=dict)  # resources, nodeSelector, tolerations, env: likewise


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    node: Node
    after: tuple[str, ...] = ()  # siblings that must have ended
    when: Expression = ALWAYS  # over how they ended


@dataclass(frozen=True, slots=True)
class Group:
    """A DAG, or steps, which are a DAG in a row."""

    path: str
    template: str
    children: tuple[Child, ...]
    fail_fast: bool = True


Node = Leaf | Group


@dataclass(frozen=True, slots=True)
class Spec:
    name: str
    root: Node
    on_exit: Node | None = None
    deadline_s: float | None = None  # of the whole, without onExit
    labels: Mapping[str, str] = field(default_factory=dict)  # of the workflow

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf, onExit's last."""
        yield from leaves(self.root)
        if self.on_exit is not None:
            yield from leaves(self.on_exit)


def leaves(node: Node) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        yield node
    else:
        for child in node.children:
            yield from leaves(child.node)

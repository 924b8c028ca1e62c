"""One attempt of one op as the engine sees it: the seam between the engine and what runs ops.

`processes.py` runs them under the shim of this machine, `engines/pods.py` as pods. The engine asks only this, so the
journal, the order of tasks, retries and limits are the same in both places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from headgate_pipelines.engines.local.compile import Images
from headgate_pipelines.engines.local.operate import Start
from headgate_pipelines.engines.local.spec import Leaf, Spec
from headgate_pipelines.engines.local.state import Outcome


@dataclass(frozen=True, slots=True)
class Gone:
    """Never started, or lost before anybody saw how it ended: it is started (again) under the same op-key."""


@dataclass(frozen=True, slots=True)
class Runs:
    """It runs, is about to, or nobody can tell just now."""


State = Gone | Runs | Outcome


class Attempt(Protocol):
    @property
    def key(self) -> str:
        """One of its kind: no two attempts share it."""
        ...

    def look(self) -> State: ...
    def start(self, start: Start, env: Mapping[str, str]) -> None:
        """Has it running; one that runs or has ended is left as it is. Raises TransientError: nothing was started."""
        ...

    def stop(self) -> None:
        """Ends it, or begins to. Repeated calls change nothing."""
        ...

    def forget_secrets(self) -> None:
        """Its end is journaled."""
        ...


class Attempts(Protocol):
    """Every attempt of one engine."""

    @property
    def images(self) -> Images | None:
        """What images mean here (`compile_workflow`); None: containers run as they are."""
        ...

    @property
    def kept(self) -> int:
        """How many finished workflows of one endpoint keep what their attempts left."""
        ...

    @property
    def polled(self) -> bool:
        """Whether the end of an attempt is only seen by looking; otherwise `wake` is called."""
        ...

    def of(self, spec: Spec, leaf: Leaf, number: int) -> Attempt: ...
    def start(self, wake: Callable[[], None]) -> None: ...
    def close(self) -> None: ...
    def over(self, workflow: str, *, good: bool) -> None:
        """Nothing of it runs any more; called before that is journaled, so possibly again."""
        ...

    def collect(self, workflow: str) -> None:
        """Nobody will look at what its attempts left."""
        ...

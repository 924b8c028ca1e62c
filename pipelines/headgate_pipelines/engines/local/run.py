"""The local engine: Argo Workflows (a subset) without Argo.

One thread looks at what runs, asks `operate` what happens next, journals the answer, and only then acts. Ops (processes
under the shim, or pods) outlive it: an engine that is killed loses nothing, the next one reads the journal, looks at
the attempts and carries on. Refuses what it cannot run when it is submitted, by name.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from headgate.findings import HeadgateError, SpecError
from headgate.ports import Run
from headgate_kit.layout import DataFolder
from headgate_pipelines.engines.local.attempt import Attempt, Attempts, Gone
from headgate_pipelines.engines.local.compile import Images, compile_workflow, label
from headgate_pipelines.engines.local.journal import Journal
from headgate_pipelines.engines.local.operate import operate
from headgate_pipelines.engines.local.processes import Processes
from headgate_pipelines.engines.local.spec import Spec
from headgate_pipelines.engines.local.state import NodeState, Outcome, Phase, RunState

log = logging.getLogger(__name__)

LABEL_ENDPOINT = "headgate.dev/endpoint"
POLL_S = (0.01, 1.0)  # how often running ops are looked at: young ones often, for an op may take milliseconds
POLL_SHARE = 0.05  # of an op's age: its end is seen at most this much late
SOON_S = 0.5  # an op that has been told its answer is looked at often for so long: it ends now
RETRY_S = 1.0  # after something here failed, e.g. a full disk
THREADS = 8  # starts (30 ms each) and stops (seconds) beside the loop
CLOSE_S = 10.0  # to wait for them at the end

Env = Callable[[str], Mapping[str, str]] | Mapping[str, str]


@dataclass
class _Live:
    """A workflow that runs."""

    spec: Spec
    state: RunState
    stop: bool
    due_at: float | None = 0.0  # when it is looked at again; None: when the bell rings for it
    rung: bool = True  # something of it changed
    ends_soon: float = 0.0  # until then one of its ops is expected to end
    not_before: float = 0.0  # after a failure of ours
    busy: set[str] = field(default_factory=set)  # attempts being started or stopped just now


class LocalEngine:
    """An `Engine`. Entry point `local` of group `headgate.engine`.

    Args:
        data: `data.engine` is the journal, `data.ops` the attempts.
        images: what each image's commands mean here; None: `default_images()`.
        attempts: where ops run; None: as processes of this machine.
        env: added to every op's environment; a function of the workflow's name for what differs, e.g. its token.
        on_change: told a workflow's name after it was journaled anew; called on the engine's thread.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        data: DataFolder,
        *,
        images: Images | None = None,
        attempts: Attempts | None = None,
        env: Env | None = None,
        on_change: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._attempts: Attempts = attempts or Processes(data, images)
        self._env: Env = env or {}
        self._on_change = on_change
        self._clock = clock
        data.prepare()
        self._journal = Journal(data.engine)
        self._live: dict[str, _Live] = {}
        self._new = threading.Event()  # something was submitted or is to stop: look at the journal
        self._bell = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._beside = ThreadPoolExecutor(THREADS, thread_name_prefix="engine-op")

    # --- the port -------------------------------------------------------------------------------------------------

    def submit(self, workflow: Mapping[str, Any]) -> None:
        """Starts it; one of that name already known is left as it is. Raises SpecError: it cannot run here."""
        spec = compile_workflow(workflow, self._attempts.images)
        if self._journal.add(spec.name, label(workflow, LABEL_ENDPOINT), workflow, self._clock()):
            self._wake(news=True)

    def status(self, name: str) -> Run | None:
        live = self._live.get(name)
        state = live.state if live is not None else self._journal.state(name)
        if state is None:
            return None
        nodes = {path: str(node.phase) for path, node in state.nodes.items()}
        return Run(name, str(state.phase), state.message, nodes, state.started_at, state.finished_at)

    def stop(self, name: str) -> None:
        """Returns at once. Running ops are ended, nothing new begins, onExit runs. Unknown or ended: nothing."""
        if self._journal.ask_stop(name):
            self._wake(news=True)

    def soon(self, name: str) -> None:
        """One of its ops was told how it ends: its end is looked for at once. Harmless when it is wrong."""
        live = self._live.get(name)
        if live is not None and self._attempts.polled:
            live.ends_soon = self._clock() + SOON_S
            self._ring(live)

    # --- its life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Carries on with every workflow that has not ended."""
        self._new.set()
        self._attempts.start(self._ring_all)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ops run on; the next engine adopts them."""
        self._closing = True
        self._bell.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        self._beside.shutdown(wait=True, cancel_futures=True)
        self._attempts.close()
        self._journal.close()

    def _wake(self, *, news: bool = False) -> None:
        if news:
            self._new.set()
        self._bell.set()

    def _ring(self, live: _Live) -> None:
        live.rung = True
        self._bell.set()

    def _ring_all(self) -> None:
        for live in list(self._live.values()):
            live.rung = True
        self._bell.set()

    def _run(self) -> None:
        self._guarded(self._collect)
        while not self._closing:
            self._bell.clear()
            if self._new.is_set():
                self._new.clear()
                if not self._guarded(self._read_news):
                    self._new.set()
            for name, live in list(self._live.items()):
                if self._is_due(live) and not self._guarded(lambda n=name, w=live: self._pass(n, w)):  # type: ignore[misc]
                    live.not_before, live.rung = self._clock() + RETRY_S, True
            self._bell.wait(self._pause())

    def _guarded(self, work: Callable[[], None]) -> bool:
        """False: it failed and was logged. One workflow's trouble never stops the others."""
        try:
            work()
        except (HeadgateError, OSError, sqlite3.Error) as error:
            log.warning("engine: %s: %s; tried again", type(error).__name__, error)
            return False
        except Exception:  # a bug of ours in one workflow
            log.exception("engine: tried again")
            return False
        return True

    def _pause(self) -> float | None:
        """Until something may have changed by itself; None: only the bell can tell."""
        now = self._clock()
        found = [RETRY_S] if self._new.is_set() else []
        waiting = [live for live in self._live.values() if live.rung or live.due_at is not None]
        found += [max(0.0 if live.rung else live.due_at or 0.0, live.not_before) - now for live in waiting]
        return max(0.0, min(found)) if found else None

    def _is_due(self, live: _Live) -> bool:
        now = self._clock()
        return now >= live.not_before and (live.rung or (live.due_at is not None and now >= live.due_at))

    def _next_look(self, live: _Live, wake_at: float | None) -> float | None:
        """`wake_at`: when its own state wants it; beside that, its running ops are looked at."""
        now = self._clock()
        ages = [now - node.attempt_at for node in live.state.nodes.values() if node.running]
        if not ages:
            return wake_at
        pause_s = RETRY_S  # for what only time tells, such as an image that cannot be pulled
        if self._attempts.polled:
            soon = now < live.ends_soon
            pause_s = POLL_S[0] if soon else min(max(min(ages) * POLL_SHARE, POLL_S[0]), POLL_S[1])
        return now + pause_s if wake_at is None else min(wake_at, now + pause_s)

    # --- one workflow ---------------------------------------------------------------------------------------------

    def _read_news(self) -> None:
        for row in self._journal.running():
            known = self._live.get(row.name)
            if known is not None:
                known.rung = known.rung or known.stop != row.stop
                known.stop = row.stop
                continue
            try:
                spec = compile_workflow(row.document, self._attempts.images)
            except SpecError as error:
                # It was accepted by an engine that knew its images: say so, rather than hold it for ever.
                ended = RunState(row.state.started_at, row.state.nodes, phase=Phase.ERROR, message=str(error))
                self._journal.write(row.name, ended)
                self._tell(row.name)
                continue
            self._live[row.name] = _Live(spec, row.state, row.stop)

    def _pass(self, name: str, live: _Live) -> None:
        live.rung = False  # first: what rings from here on is looked at again
        running = self._running(live)
        outcomes = self._outcomes(live, running)
        decision = operate(live.spec, live.state, outcomes, self._clock(), stop=live.stop)
        changed = decision.state != live.state
        if decision.state.phase is not Phase.RUNNING:
            self._attempts.over(name, good=decision.state.phase is Phase.SUCCEEDED)
        if changed:
            self._journal.write(name, decision.state)  # first; what follows is safe to repeat
            live.state = decision.state
        live.due_at = self._next_look(live, decision.wake_at)
        for path in outcomes:
            running[path].forget_secrets()
        for start in decision.start:
            attempt = self._attempts.of(live.spec, start.leaf, start.attempt)
            known = running.get(start.leaf.path)
            if known is None or known.key != attempt.key or isinstance(attempt.look(), Gone):
                self._do(live, attempt, lambda a=attempt, s=start: a.start(s, self._environment(name)))  # type: ignore[misc]
        for stop in decision.stop:
            attempt = self._attempts.of(live.spec, stop.leaf, stop.attempt)
            self._do(live, attempt, attempt.stop)
        if live.state.phase is not Phase.RUNNING:
            del self._live[name]
            self._collect()
        if changed:
            self._tell(name)

    def _running(self, live: _Live) -> dict[str, Attempt]:
        leaves = {leaf.path: leaf for leaf in live.spec.leaves()}
        nodes = {path: node for path, node in live.state.nodes.items() if node.running}
        return {path: self._attempts.of(live.spec, leaves[path], node.attempt) for path, node in nodes.items()}

    def _outcomes(self, live: _Live, running: Mapping[str, Attempt]) -> dict[str, Outcome]:
        found = {}
        for path, attempt in running.items():
            if attempt.key not in live.busy:
                outcome = _outcome(attempt, live.state.nodes[path])
                if outcome is not None:
                    found[path] = outcome
        return found

    def _do(self, live: _Live, attempt: Attempt, work: Callable[[], None]) -> None:
        """Beside the loop, one at a time for each attempt."""
        if attempt.key in live.busy:
            return
        live.busy.add(attempt.key)

        def run() -> None:
            try:
                if not self._guarded(work):
                    live.not_before = self._clock() + RETRY_S
            finally:
                live.busy.discard(attempt.key)
                self._ring(live)

        self._beside.submit(run)

    def _environment(self, name: str) -> Mapping[str, str]:
        return self._env(name) if callable(self._env) else self._env

    # --- afterwards -----------------------------------------------------------------------------------------------

    def _tell(self, name: str) -> None:
        if self._on_change is not None:
            self._on_change(name)

    def _collect(self) -> None:
        for name in self._journal.outlived(self._attempts.kept):
            self._attempts.collect(name)
            self._journal.collect(name)


def _outcome(attempt: Attempt, node: NodeState) -> Outcome | None:
    """How it ended; None: it runs, or has to be started (again): what was lost is run under the same op-key."""
    found = attempt.look()
    if node.stopping and (isinstance(found, Gone) or (isinstance(found, Outcome) and found.exit_code is None)):
        return Outcome(None, node.stopping)
    return found if isinstance(found, Outcome) else None

"""Argo Workflows as the engine: a rollout's workflow is a Workflow object of our namespace.

Speaks to the Kubernetes API alone; no Argo Server is needed. What runs is read from one watch. The object has the
rollout's name, so a second submit is refused by the cluster and taken for the first. Argo deletes it by its TTL: how a
rollout ended is in the record.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headgate.draft import ENDED
from headgate.findings import ConflictError, HeadgateError, TerminalError
from headgate.ports import Run
from headgate_kit.layout import DataFolder
from headgate_pipelines import contract
from headgate_pipelines.engines import placing
from headgate_pipelines.engines.argo.document import argo_document
from headgate_pipelines.engines.argo.mode import Mode, argo_mode
from headgate_pipelines.engines.argo.status import ended, run_of
from headgate_pipelines.engines.local.run import Env
from headgate_pipelines.engines.settings import CONTAINER, PLUGIN, OpSettings, from_environment
from headgate_pipelines.plugin.execute import Ask

if TYPE_CHECKING:
    from headgate_kit.kube import Cluster
    from headgate_pipelines.plugin.agent import TaskSetAgent

log = logging.getLogger(__name__)

SELECTOR = ",".join(f"{name}={value}" for name, value in placing.MANAGED_BY.items())
CONTROLLERS_OWN = (contract.ENV_TOKEN, contract.ENV_DATA, contract.ENV_CONTROL_FILE)  # mean nothing in a pod
STOP = "Stop"  # running steps are ended and onExit runs; `Terminate` would leave it out
RECENT_S = 86_400.0  # a workflow that ended longer ago has lost its Secret long since
READY_S = 2.0  # until the first list is there; afterwards it comes by itself
RUNNING, ERROR = "Running", "Error"


class ArgoEngine:
    """An `Engine`. Entry point `argo` of group `headgate.engine`.

    Args:
        data: not used: everything is in the cluster.
        env: for every op, as `LocalEngine`'s; the token in it goes into a Secret of its workflow.
        on_change: told a workflow's name when its phase changed.
        cluster, settings: None: by $KUBECONFIG or from inside a pod; from the environment (`settings.py`).
    Raises:
        TerminalError: there is no cluster to talk to. FindingsError: a setting is wrong.
    """

    remote = True  # ops find the controller by URL

    def __init__(
        self,
        data: DataFolder,
        *,
        env: Env | None = None,
        on_change: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
        cluster: Cluster | None = None,
        settings: OpSettings | None = None,
    ) -> None:
        try:
            from headgate_kit.kube import Cache
            from headgate_kit.kube import Cluster as Kube
            from headgate_kit.kube.kinds import SECRET, WORKFLOW
        except ImportError as error:
            raise TerminalError(f"engine argo needs `pip install headgate[cluster]`: {error}") from error
        self._workflows, self._secret = WORKFLOW, SECRET
        self._settings = settings or from_environment(os.environ)
        self._cluster = cluster or Kube.connect()
        self._env: Env = env or {}
        self._on_change = on_change
        self._clock = clock
        self._cache = Cache(self._cluster, WORKFLOW, selector=SELECTOR, on_change=self._changed)
        self._made: dict[str, dict[str, Any]] = {}  # by us, and not yet in the cache
        self._known: dict[str, Run] = {}  # of every workflow that was there, as it was last
        self._refused: dict[str, str] = {}  # what the cluster will never take -> its words
        self._mode: Mode | None = None  # None: not asked yet
        self._agent: TaskSetAgent | None = None
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="argo-secrets")

    # --- the port -------------------------------------------------------------------------------------------------

    def submit(self, workflow: Mapping[str, Any]) -> None:
        """Raises TransientError: nobody can tell whether it was made; making it again is safe."""
        name = str(workflow["metadata"]["name"])
        if name in self._known or name in self._made:
            return
        env = self._env(name) if callable(self._env) else self._env
        given = {k: v for k, v in env.items() if k not in CONTROLLERS_OWN}
        document = argo_document(workflow, self._settings, given, plugin=self.mode.steps == PLUGIN)
        self._cluster.apply(self._secret, placing.secret(name, env.get(contract.ENV_TOKEN, "")))
        try:
            self._made[name] = self._create(name, document)
            self._refused.pop(name, None)
        except TerminalError as error:
            self._refused[name] = str(error)
            self._tell(name)
        if self._cache.get(name) is not None:
            self._made.pop(name, None)

    def status(self, name: str) -> Run | None:
        found = self._cache.get(name) or self._made.get(name)
        if found is not None:
            return run_of(found)
        if name in self._refused:
            return Run(name, ERROR, self._refused[name])
        if name in self._known:
            return self._known[name]
        if not self._cache.ready:
            return Run(name, RUNNING, "the API server does not answer")  # it may be there: nothing is made of a guess
        return None

    def stop(self, name: str) -> None:
        found = self._cache.get(name) or self._made.get(name)
        if found is None or ended(found) or (found.get("spec") or {}).get("shutdown"):
            return
        self._cluster.patch(self._workflows, name, {"spec": {"shutdown": STOP}})

    # --- its life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Carries on with whatever there is."""
        if not self._cache.start(READY_S):
            log.warning("argo: the API server does not answer yet; tried again")
        if self._agent is not None:
            self._agent.start()
        log.info("argo: light ops run as %s steps: %s", self.mode.steps, self.mode.reason)

    def close(self) -> None:
        """Workflows run on."""
        if self._agent is not None:
            self._agent.close()
        self._cache.close()
        self._beside.shutdown(wait=True, cancel_futures=True)
        self._cluster.close()

    @property
    def mode(self) -> Mode:
        """How light ops run; asked of the cluster once."""
        if self._mode is None:
            self._mode = argo_mode(self._cluster, self._settings.argo_steps)
        return self._mode

    def attend(self, ask: Ask, allowed: Callable[[str, str], bool]) -> Callable[[str], None]:
        """Answers plugin steps here; before `start`.

        Args:
            ask: the controller's own.
            allowed: whether a token is one of a rollout's.
        Returns:
            What to call with an endpoint when its record changed.
        """
        from headgate_pipelines.plugin.agent import TaskSetAgent

        if self._settings.argo_steps == CONTAINER:
            return lambda endpoint: None
        # Also when containers are chosen by what was found: a workflow of an earlier start may have plugin steps.
        self._agent = TaskSetAgent(self._cluster, ask, allowed)
        return self._agent.wake

    # --- in the cluster -------------------------------------------------------------------------------------------

    def _create(self, name: str, document: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._cluster.create(self._workflows, document)
        except ConflictError:
            found = self._cluster.get(self._workflows, name)
            if found is None:
                raise
            if not placing.MANAGED_BY.items() <= (found["metadata"].get("labels") or {}).items():
                raise TerminalError(f"Workflow {name} is there already, and was not made by Headgate") from None
            return found

    def _changed(self, found: dict[str, Any], gone: bool) -> None:
        name = found["metadata"]["name"]
        self._made.pop(name, None)
        before, now = self._known.get(name), replace(run_of(found), nodes=None)
        if gone and now.phase not in ENDED:
            now = replace(now, phase=ERROR, message="its Workflow object was deleted")
        self._known[name] = now
        if before is not None and before.phase == now.phase:
            return
        if now.phase in ENDED:
            self._over(name, now)
        self._tell(name)

    def _over(self, name: str, run: Run) -> None:
        if run.finished_at is None or self._clock() - run.finished_at < RECENT_S:
            self._beside.submit(self._forget_token, name)

    def _forget_token(self, name: str) -> None:
        try:
            self._cluster.delete(self._secret, placing.secret_name(name))
        except HeadgateError as error:  # good for a rollout that is over, and for nothing else
            log.warning("argo: the token of %s is not deleted: %s", name, error)

    def _tell(self, name: str) -> None:
        if self._on_change is not None:
            self._on_change(name)

"""Attempts as pods: made, watched and deleted through the API server. What they look like: `render.py`.

Whether an attempt runs, has ended or was lost is read from one watch of the cluster, never asked for one by one. A
pod has its attempt's name, so an engine that comes back finds it, and making it again is refused by the cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from headgate.findings import ConflictError, HeadgateError, TerminalError
from headgate_kit.kube import Cache, Cluster
from headgate_kit.kube.client import Object
from headgate_kit.kube.kinds import POD, SECRET
from headgate_pipelines import contract
from headgate_pipelines.engines import placing
from headgate_pipelines.engines.local.attempt import Gone, Runs, State
from headgate_pipelines.engines.local.operate import Start
from headgate_pipelines.engines.local.spec import Leaf, Spec
from headgate_pipelines.engines.local.state import Outcome
from headgate_pipelines.engines.pods import render
from headgate_pipelines.engines.settings import OpSettings

log = logging.getLogger(__name__)

SAY_AFTER_S = 30.0  # a pod usually runs after two
LOST = "its pod is gone: deleted, or its node was"
CONTROLLERS_OWN = (contract.ENV_TOKEN, contract.ENV_DATA, contract.ENV_CONTROL_FILE)  # mean nothing in a pod


class Pods:
    """`Attempts` of one namespace.

    Args:
        clock: seconds since the epoch.
    """

    images = None  # containers run as they are
    kept = 3  # finished workflows of one endpoint that keep their pods: a cluster holds 12,500 of them by default
    polled = False

    def __init__(self, cluster: Cluster, settings: OpSettings, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._clock = clock
        self._wake: Callable[[], None] = lambda: None
        self._cache = Cache(cluster, POD, selector=render.SELECTOR, on_change=self._changed)
        self._made: dict[str, Object] = {}  # by us, and not yet in the cache
        self._seen: dict[str, str] = {}  # pods there were -> their workflow
        self._refused: dict[str, str] = {}  # what the cluster will never run -> its words
        self._said: dict[str, str] = {}  # why a pod waits, as it was logged
        self._asked: set[str] = set()  # pods whose end was asked for
        self._secrets: set[str] = set()  # workflows whose token is there
        self._over: set[str] = set()  # workflows whose pods are of no interest any more
        self._sweeper = ThreadPoolExecutor(1, thread_name_prefix="engine-sweep")

    # --- Attempts -------------------------------------------------------------------------------------------------

    def of(self, spec: Spec, leaf: Leaf, number: int) -> PodAttempt:
        return PodAttempt(
            self, spec, leaf, render.pod_name(spec.name, leaf.path, number, spec.labels.get(render.RUN, ""))
        )

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._cache.start()

    def close(self) -> None:
        """Pods run on."""
        self._cache.close()
        self._sweeper.shutdown(wait=True, cancel_futures=True)
        self._cluster.close()

    def over(self, workflow: str, *, good: bool) -> None:
        """Its token goes at once; its pods go when all went well, else they stay to be looked at."""
        self._cluster.delete(SECRET, placing.secret_name(workflow))
        self._secrets.discard(workflow)
        self._over.add(workflow)
        for name in [name for name, of in list(self._seen.items()) if of == workflow]:
            for known in (self._made, self._seen, self._refused, self._said):
                known.pop(name, None)
            self._asked.discard(name)
        if good:
            self.collect(workflow)

    def collect(self, workflow: str) -> None:
        self._sweeper.submit(self._sweep, workflow)

    def _sweep(self, workflow: str) -> None:
        names = [p["metadata"]["name"] for p in self._cache.objects() if _workflow(p) == workflow]
        try:
            for name in names:
                self._cluster.delete(POD, name)
        except HeadgateError as error:
            log.warning("the pods of %s are not deleted: %s", workflow, error)

    # --- one attempt ----------------------------------------------------------------------------------------------

    def look(self, name: str, leaf: Leaf) -> State:
        if name in self._refused:
            return Outcome(None, error=self._refused[name])
        if not self._cache.ready:
            return Runs()  # or not: nobody can tell yet
        found = self._cache.get(name) or self._made.get(name)
        if found is None:
            return Outcome(None, error=LOST) if name in self._seen else Gone()
        age_s = self._clock() - _made_at(found)
        self._say(name, found, age_s)
        return render.outcome(found, leaf, age_s=age_s) or Runs()

    def _say(self, name: str, found: Object, age_s: float) -> None:
        """A pod that waits for a node or an image does so in silence otherwise, up to its op's time limit."""
        why = render.trouble(found) if age_s > SAY_AFTER_S else ""
        if why and self._said.get(name) != why:
            log.warning("pod %s waits: %s", name, why)
            self._said[name] = why

    def make(self, name: str, spec: Spec, leaf: Leaf, start: Start, env: Mapping[str, str]) -> None:
        self._token(spec.name, env.get(contract.ENV_TOKEN, ""))
        given = {k: v for k, v in env.items() if k not in CONTROLLERS_OWN}
        body = render.pod(spec, leaf, start, given, self._settings, name=name)
        try:
            made = self._create(name, spec.name, body)
        except TerminalError as error:
            self._refused[name] = str(error)
            self._seen[name] = spec.name
            self._wake()
            return
        self._made[name] = made
        self._seen[name] = spec.name
        if self._cache.get(name) is not None:
            self._made.pop(name, None)

    def _create(self, name: str, workflow: str, body: Mapping[str, object]) -> Object:
        """Made now, or before by a request whose answer was lost. Raises TerminalError: another's has its name."""
        try:
            return self._cluster.create(POD, body)
        except ConflictError:
            # Our watch may be behind; to list is its right anyway, to get would be one more.
            ours, _ = self._cluster.list(POD, selector=f"{render.WORKFLOW}={workflow}")
        found = next((pod for pod in ours if pod["metadata"]["name"] == name), None)
        try:
            return found or self._cluster.create(POD, body)  # gone again
        except ConflictError:
            raise TerminalError(f"pod {name} is there already, and is not of {workflow}") from None

    def _token(self, workflow: str, token: str) -> None:
        if workflow not in self._secrets:
            self._cluster.apply(SECRET, placing.secret(workflow, token))
            self._secrets.add(workflow)

    def end(self, name: str) -> None:
        if name in self._asked and (name in self._made or self._cache.get(name) is not None):
            return
        if not self._cluster.delete(POD, name, grace_s=render.GRACE_S):
            self._made.pop(name, None)  # gone before the watch showed it
            self._wake()
        self._asked.add(name)

    def _changed(self, found: Object, gone: bool) -> None:
        name = found["metadata"]["name"]
        self._made.pop(name, None)
        if not gone and _workflow(found) not in self._over:
            self._seen[name] = _workflow(found)
        self._wake()


class PodAttempt:
    def __init__(self, pods: Pods, spec: Spec, leaf: Leaf, name: str) -> None:
        self._pods = pods
        self._spec = spec
        self._leaf = leaf
        self.key = name

    def look(self) -> State:
        return self._pods.look(self.key, self._leaf)

    def start(self, start: Start, env: Mapping[str, str]) -> None:
        """Has it running. Raises TransientError: nobody can tell whether it was made; making it again is safe."""
        self._pods.make(self.key, self._spec, self._leaf, start, env)

    def stop(self) -> None:
        self._pods.end(self.key)

    def forget_secrets(self) -> None:
        """There is one token for the whole workflow: it goes with its end."""


def _workflow(found: Object) -> str:
    return str((found["metadata"].get("labels") or {}).get(render.WORKFLOW, ""))


def _made_at(found: Object) -> float:
    return datetime.fromisoformat(found["metadata"]["creationTimestamp"]).timestamp()

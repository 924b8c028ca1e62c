"""Plugin nodes answered inside the controller: no pod at all.

With `disableAgentPodCreation` (Argo 4.1) the workflow controller only writes what is to be done into a
`WorkflowTaskSet` and waits for somebody to fill in `status.nodes`. This watches those of our namespace and does so for
tasks whose plugin is `headgate`. What is to be answered follows from the task set and the record alone, so a restart,
an event that comes twice and a second controller change nothing; a node that is over is not written again.

Whoever may make Workflows in the namespace could name one after a rollout, as whoever may make pods there could mount
its token: the namespace is the border. A workflow of another name needs the rollout's token in its plugin body.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from headgate.findings import HeadgateError
from headgate_kit.kube import Cache, Cluster
from headgate_kit.kube.client import Object
from headgate_kit.kube.kinds import WORKFLOW_TASK_SET
from headgate_pipelines.plugin.execute import Ask, NodeResult, body_of, execute, rollout_of

log = logging.getLogger(__name__)

COMPLETED = "workflows.argoproj.io/completed"
OVER = ("Succeeded", "Failed", "Error", "Skipped", "Omitted")
CLOSE_S = 5.0
RETRY_S = 1.0
Allowed = Callable[[str, str], bool]  # rollout, token


class TaskSetAgent:
    """One thread; every look goes through all open tasks.

    Args:
        ask: the controller's own; answers at once.
        allowed: whether a token is one of a rollout's.
    """

    def __init__(self, cluster: Cluster, ask: Ask, allowed: Allowed) -> None:
        self._cluster = cluster
        self._ask = ask
        self._allowed = allowed
        self._bell = threading.Event()
        self._closing = False
        self._due: dict[tuple[str, str], float] = {}  # (task set, node) -> when it is asked again, monotonic
        self._changed_endpoints: set[str] = set()
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], dict[str, Any]] = {}  # -> what was written last
        self._cache = Cache(cluster, WORKFLOW_TASK_SET, on_change=self._changed)
        self._thread = threading.Thread(target=self._run, name="task-sets", daemon=True)

    def start(self) -> None:
        self._cache.start()
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._bell.set()
        self._cache.close()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def wake(self, endpoint: str) -> None:
        """Its record changed: what waits for it is asked again now."""
        with self._lock:
            self._changed_endpoints.add(endpoint)
        self._bell.set()

    def _changed(self, found: Object, gone: bool) -> None:
        self._bell.set()

    def _run(self) -> None:
        while not self._closing:
            self._bell.clear()
            try:
                pause = self.look()
            except Exception:  # a bug of ours in one task must not end the answers to all others
                log.exception("task sets: tried again")
                pause = RETRY_S
            self._bell.wait(pause)

    def look(self) -> float | None:
        """Answers what is due; seconds until the next is, None: nothing waits."""
        open_tasks = list(_open_tasks(self._cache.objects()))
        self._forget({(name, node) for name, node, _, _ in open_tasks})
        with self._lock:
            changed, self._changed_endpoints = self._changed_endpoints, set()
        for name, node, template, known in open_tasks:
            due = self._due.get((name, node), 0.0) <= time.monotonic()
            if due or (body_of(template) or {}).get("endpoint") in changed:
                self._answer(name, node, template, known)
        if not self._due:
            return None
        return max(0.01, min(self._due.values()) - time.monotonic())

    def _answer(self, name: str, node: str, template: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        result = self._result(name, template)
        if result is None:
            return
        key, document = (name, node), result.document()
        self._due[key] = time.monotonic() + (result.requeue_s if result.requeue_s is not None else 60.0)
        if document == self._told.get(key) or document == _same_keys(known, document):
            return
        try:
            self._cluster.patch(WORKFLOW_TASK_SET, name, {"status": {"nodes": {node: document}}}, subresource="status")
            self._told[key] = document
        except HeadgateError as error:
            log.warning("task set %s: node %s is not answered: %s; tried again", name, node, error)
            self._due[key] = time.monotonic() + RETRY_S

    def _result(self, name: str, template: Mapping[str, Any]) -> NodeResult | None:
        body = body_of(template) or {}
        rollout = rollout_of(body)
        if rollout not in ("", name) and not self._allowed(rollout, str(body.get("token") or "")):
            return NodeResult("Error", f"opKey names {rollout}, and this token is not of that rollout")
        return execute(template, self._ask)

    def _forget(self, open_now: set[tuple[str, str]]) -> None:
        for known in (self._due, self._told):
            for key in [key for key in list(known) if key not in open_now]:
                known.pop(key, None)


def _open_tasks(found: list[Object]) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """Task set, node id, template, what its status says so far; of every node of ours that is not over."""
    for item in found:
        if (item["metadata"].get("labels") or {}).get(COMPLETED) == "true":
            continue
        nodes = (item.get("status") or {}).get("nodes") or {}
        for node, template in ((item.get("spec") or {}).get("tasks") or {}).items():
            known = nodes.get(node) or {}
            if body_of(template) is not None and known.get("phase") not in OVER:
                yield item["metadata"]["name"], node, template, known


def _same_keys(known: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: known[name] for name in document if name in known}

"""The local engine with its ops as pods: same journal, same `operate`, no Argo.

Imports the cluster's client only when an engine is made, so that it may be installed without it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from headgate.findings import TerminalError
from headgate_kit.layout import DataFolder
from headgate_pipelines.engines.local.run import Env, LocalEngine
from headgate_pipelines.engines.placing import placed
from headgate_pipelines.engines.pods.render import RUN
from headgate_pipelines.engines.settings import OpSettings, from_environment

if TYPE_CHECKING:
    from headgate_kit.kube import Cluster


class PodsEngine(LocalEngine):
    """An `Engine`. Entry point `pods` of group `headgate.engine`.

    Args:
        data: `data.engine` is the journal.
        env: added to every op's environment; the token in it goes into a Secret, never into a pod's specification.
        cluster, settings: None: by $KUBECONFIG or from inside a pod; from the environment (`settings.py`).
    Raises:
        TerminalError: there is no cluster to talk to. FindingsError: a setting is wrong.
    """

    remote = True  # ops find the controller by URL: its data folder is not in their pods

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
            from headgate_kit.kube import Cluster as Kube
            from headgate_pipelines.engines.pods.attempts import Pods
        except ImportError as error:
            raise TerminalError(f"engine pods needs `pip install headgate[cluster]`: {error}") from error
        self._settings = settings or from_environment(os.environ)
        attempts = Pods(cluster or Kube.connect(), self._settings, clock)
        super().__init__(data, attempts=attempts, env=env, on_change=on_change, clock=clock)

    def submit(self, workflow: Mapping[str, Any]) -> None:
        found = placed(workflow, self._settings)
        found["metadata"]["labels"].setdefault(RUN, uuid.uuid4().hex[:8])
        super().submit(found)

"""Which way light ops run on this cluster's Argo, and why: found out from its workflow controller's settings.

Reads two objects, once. What cannot be read is no reason to fail: a container step runs on every Argo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.findings import HeadgateError
from headgate_pipelines.engines.settings import CONTAINER, PLUGIN

if TYPE_CHECKING:
    from headgate_kit.kube import Cluster

CONTROLLER, CONFIG = "workflow-controller", "workflow-controller-configmap"
SIDECAR = "headgate-executor-plugin"  # our ConfigMap; Argo wants that ending
NO_AGENT = "disableAgentPodCreation"
USUAL = "argo"  # the namespace Argo's own manifests use


@dataclass(frozen=True, slots=True)
class Mode:
    steps: str  # plugin | container
    reason: str  # for a person
    found: bool = True  # a workflow controller was seen

    def __str__(self) -> str:
        return self.steps


def argo_mode(cluster: Cluster, wanted: str = "") -> Mode:
    """How light ops run.

    Args:
        wanted: HEADGATE_ARGO_STEPS; empty: as the cluster allows.
    """
    from headgate_kit.kube.kinds import CONFIG_MAP, DEPLOYMENT

    if wanted:
        return Mode(wanted, "HEADGATE_ARGO_STEPS says so")
    trouble = ""
    for namespace in dict.fromkeys((cluster.namespace, USUAL)):
        try:
            deployment = cluster.get(DEPLOYMENT, CONTROLLER, namespace=namespace)
            if deployment is None:
                continue
            config = cluster.get(CONFIG_MAP, CONFIG, namespace=namespace) or {}
            sidecar = any(cluster.get(CONFIG_MAP, SIDECAR, namespace=n) for n in {cluster.namespace, namespace})
            return _read(deployment, config, sidecar=sidecar)
        except HeadgateError as error:
            trouble = str(error)
    if trouble:
        return Mode(
            CONTAINER, f"the workflow controller's settings cannot be read ({trouble}); set HEADGATE_ARGO_STEPS"
        )
    return Mode(CONTAINER, f"no Deployment {CONTROLLER} in {cluster.namespace} or {USUAL}", found=False)


def _read(deployment: Mapping[str, Any], config: Mapping[str, Any], *, sidecar: bool) -> Mode:
    if not _plugins_on(deployment):
        return Mode(CONTAINER, "the workflow controller runs without --executor-plugins")
    if _agentless(config.get("data") or {}):
        return Mode(PLUGIN, f"{NO_AGENT}: this controller answers the task sets, no pod at all")
    if sidecar:
        return Mode(PLUGIN, f"plugins are on and {SIDECAR} is registered: Argo's agent pod asks our sidecar")
    return Mode(CONTAINER, f"plugins are on, but neither {NO_AGENT} nor the ConfigMap {SIDECAR} is there")


def _plugins_on(deployment: Mapping[str, Any]) -> bool:
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        if any(word in ("--executor-plugins", "--executor-plugins=true") for word in words):
            return True
        if any(
            v.get("name") == "ARGO_EXECUTOR_PLUGINS" and v.get("value") == "true" for v in container.get("env") or ()
        ):
            return True
    return False


def _agentless(data: Mapping[str, str]) -> bool:
    """As a key of the ConfigMap, or a line of its old one-text form."""
    if str(data.get(NO_AGENT, "")).strip().strip('"').lower() == "true":
        return True
    lines = (line.partition(":") for line in str(data.get("config", "")).splitlines())
    return any(name.strip() == NO_AGENT and value.strip().strip("\"'").lower() == "true" for name, _, value in lines)

"""How ops run on a cluster: image, accounts, what a build may use. From environment variables of the controller.

The workflow itself names none of this, so the same plan is the same document on every cluster. Refuses values the
cluster would refuse later, when nobody looks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from headgate.findings import Finding, FindingsError, Place
from headgate_pipelines import contract

QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTP]i?)?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?|")
WHOLE = re.compile(r"-?\d{1,9}|")
URL = re.compile(r"https?://[^\s\"'<>()\[\]]+|")
PLUGIN, CONTAINER = "plugin", "container"
PULL_POLICIES = "Always|IfNotPresent|Never"


def _setting(variable: str, default: str, pattern: str | re.Pattern[str], says: str) -> Any:
    return field(default=default, metadata={"variable": variable, "pattern": re.compile(pattern), "says": says})


@dataclass(frozen=True, slots=True)
class OpSettings:
    """Text as the cluster reads it; empty: left out."""

    image: str = _setting("HEADGATE_OP_IMAGE", contract.IMAGE, r"\S+", "image of the ops, best by digest")
    pull_policy: str = _setting("HEADGATE_OP_PULL_POLICY", "IfNotPresent", PULL_POLICIES, "when it is pulled")
    pull_secret: str = _setting("HEADGATE_OP_PULL_SECRET", "", NAME, "Secret to pull it with")
    account: str = _setting("HEADGATE_OP_SERVICE_ACCOUNT", "headgate-op", NAME, "engine pods: account without rights")
    build_pool: str = _setting("HEADGATE_BUILD_POOL", "", NAME, "value of headgate.dev/pool of the nodes that build")
    build_cpus: str = _setting("HEADGATE_BUILD_CPUS", "1", QUANTITY, "requested by a build")
    build_memory: str = _setting("HEADGATE_BUILD_MEMORY", "4Gi", QUANTITY, "requested by a build, and its limit")
    build_disk: str = _setting("HEADGATE_BUILD_DISK", "20Gi", QUANTITY, "largest scratch folder of a build")
    registry_secret: str = _setting("HEADGATE_REGISTRY_SECRET", "", NAME, "Secret kubernetes.io/dockerconfigjson")
    catalogue_secret: str = _setting(
        "HEADGATE_CATALOGUE_SECRET", "", NAME, "Secret with credentials of catalogues, HOST.KEY each"
    )
    catalogue_claim: str = _setting("HEADGATE_CATALOGUE_CLAIM", "", NAME, "claim of the volume that holds models")
    argo_account: str = _setting(
        "HEADGATE_ARGO_SERVICE_ACCOUNT", "headgate-workflow", NAME, "engine argo: may create and patch task results"
    )
    argo_steps: str = _setting(
        "HEADGATE_ARGO_STEPS", "", f"{PLUGIN}|{CONTAINER}|", "light ops: plugin or container; default: by the cluster"
    )
    argo_priority: str = _setting("HEADGATE_ARGO_PRIORITY", "", WHOLE, "spec.priority of every rollout")
    argo_semaphore: str = _setting(
        "HEADGATE_ARGO_BUILD_SEMAPHORE", "", r"[-a-z0-9.]+/[-._a-zA-Z0-9]+|", "CONFIGMAP/KEY: builds at once"
    )
    argo_kept_s: str = _setting("HEADGATE_ARGO_KEPT_S", "", r"\d{1,9}|", "a finished workflow is deleted after this")
    commit_url: str = _setting("HEADGATE_COMMIT_URL", "", URL, "link to a commit, with {commit}: shown in Argo's UI")
    endpoint_url: str = _setting("HEADGATE_ENDPOINT_URL", "", URL, "link to an endpoint, with {endpoint}: likewise")


def from_environment(environment: Mapping[str, str]) -> OpSettings:
    """Raises FindingsError `op-settings`: one finding for each value that cannot be."""
    given: dict[str, str] = {}
    findings = []
    for setting in fields(OpSettings):
        variable, value = setting.metadata["variable"], environment.get(setting.metadata["variable"])
        if not value:  # an empty variable is one that a chart leaves open
            continue
        if not setting.metadata["pattern"].fullmatch(value):
            findings.append(_refused(variable, value, setting.metadata["says"]))
        given[setting.name] = value
    if findings:
        raise FindingsError(*findings)
    return OpSettings(**given)


def _refused(variable: str, value: str, says: str) -> Finding:
    return Finding(
        code="op-settings",
        message=f"{variable} is `{value[:60]}`",
        why=f"it is: {says}",
        fix="correct it in the controller's environment (the chart's values)",
        place=Place("controller environment"),
    )

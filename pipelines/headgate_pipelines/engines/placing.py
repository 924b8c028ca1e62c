"""A rollout's workflow, as this cluster runs it: image, resources, node pool, put into the document.

Pure, and the same for Argo and for the local engine with pods. Touches only templates that run our ops: what else a
team's workflow holds stays as it is written.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from headgate.phases import BUILD
from headgate.workload import MODELS_FOLDER
from headgate_kit.catalogue import ENV_CREDENTIALS
from headgate_pipelines import contract
from headgate_pipelines.engines.settings import OpSettings

POOL = "headgate.dev/pool"
MANAGED_BY = {"app.kubernetes.io/managed-by": "headgate"}
PART = "headgate.dev/part"  # network policies let pods with part `op` reach the control API
USER = 10001

# An op that only asks: 20 MB of Python that sleeps in a long poll.
LIGHT = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}
POD_SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
DATA = "/var/lib/headgate"
TOKEN_FOLDER, TOKEN_KEY = "/var/run/headgate/token", "token"
REGISTRY_FOLDER = "/var/run/headgate/registry"
CATALOGUE_FOLDER = "/var/run/headgate/catalogues"


def placed(document: Mapping[str, Any], settings: OpSettings) -> dict[str, Any]:
    """A copy of the document with image, resources and node pool of every op of ours."""
    found = copy.deepcopy(dict(document))
    metadata = found.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **MANAGED_BY}
    for template in our_templates(found):
        container = template["container"]
        if container.get("image") == contract.IMAGE:
            container["image"] = settings.image
        container.setdefault("imagePullPolicy", settings.pull_policy)
        builds = verb(template) == BUILD
        container.setdefault("resources", _build_resources(settings) if builds else copy.deepcopy(LIGHT))
        if builds and settings.build_pool:
            template.setdefault("nodeSelector", {POOL: settings.build_pool})
    return found


def our_templates(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Templates whose container is one of our ops."""
    for template in (document.get("spec") or {}).get("templates") or ():
        if (template.get("container") or {}).get("command") == list(contract.COMMAND):
            yield template


def verb(template: Mapping[str, Any]) -> str:
    return str((template["container"].get("args") or [""])[0])


def volumes(settings: OpSettings, secret: str, *, builds: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A pod's volumes and its container's mounts: somewhere to write, the op's token, the build's credentials, models.

    Args:
        secret: that holds the token; empty: the op has one of its own.
    """
    found: list[tuple[str, str, dict[str, Any]]] = [("tmp", "/tmp", {"emptyDir": {}})]
    data = {"sizeLimit": settings.build_disk} if builds else {}
    found.append(("data", DATA, {"emptyDir": data}))
    if secret:
        found.append(("op-token", TOKEN_FOLDER, {"secret": {"secretName": secret, "defaultMode": 0o440}}))
    if builds and settings.registry_secret:
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        source = {"secretName": settings.registry_secret, "items": items, "defaultMode": 0o440}
        found.append(("registry", REGISTRY_FOLDER, {"secret": source}))
    if builds and settings.catalogue_secret:
        source = {"secretName": settings.catalogue_secret, "defaultMode": 0o440}
        found.append(("catalogues", CATALOGUE_FOLDER, {"secret": source}))
    if builds and settings.catalogue_claim:
        claim = {"claimName": settings.catalogue_claim, "readOnly": True}
        found.append(("models", MODELS_FOLDER, {"persistentVolumeClaim": claim}))
    mounts = [
        {"name": name, "mountPath": path, **({} if "emptyDir" in source else {"readOnly": True})}
        for name, path, source in found
    ]
    return [{"name": name, **source} for name, _, source in found], mounts


def environment(
    settings: OpSettings, given: Mapping[str, str], *, builds: bool, own_token: bool
) -> list[dict[str, Any]]:
    """Variables of one op of ours.

    Args:
        given: by the controller, the token not among them.
        own_token: the template brings a token of its own, which the mounted one must not hide.
    """
    found = {**given, contract.ENV_DATA: DATA, "PYTHONUNBUFFERED": "1", "HOME": "/tmp"}
    if not own_token:
        found[contract.ENV_TOKEN_FILE] = f"{TOKEN_FOLDER}/{TOKEN_KEY}"
    if builds and settings.registry_secret:
        found["DOCKER_CONFIG"] = REGISTRY_FOLDER
    if builds and settings.catalogue_secret:
        found[ENV_CREDENTIALS] = CATALOGUE_FOLDER
    return [{"name": name, "value": value} for name, value in found.items()]


def secret_name(workflow: str) -> str:
    return f"{workflow}-op"


def secret(workflow: str, token: str) -> dict[str, Any]:
    """The token of one workflow's ops. Nothing owns it: the engine deletes it when the workflow has ended."""
    labels = {**MANAGED_BY, PART: "op", "headgate.dev/workflow": workflow}
    return {
        "metadata": {"name": secret_name(workflow), "labels": labels},
        "type": "Opaque",
        "stringData": {TOKEN_KEY: token},
    }


def _build_resources(settings: OpSettings) -> dict[str, Any]:
    return {
        "requests": {"cpu": settings.build_cpus, "memory": settings.build_memory},
        "limits": {"memory": settings.build_memory},
    }

"""A rollout's workflow as this cluster's Argo runs it: accounts, security, the op's token, plugin steps. Pure.

Put in after Hera's `to_dict()`, which drops plugin bodies. The token is a mounted Secret's file, in containers of ours
only; a plugin step needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headgate.phases import BUILD
from headgate_pipelines import contract
from headgate_pipelines.engines import placing
from headgate_pipelines.engines.settings import OpSettings
from headgate_pipelines.plugin.execute import KEY, LIGHT

TITLE, DESCRIPTION = "workflows.argoproj.io/title", "workflows.argoproj.io/description"
ENDPOINT, COMMIT = "headgate.dev/endpoint", "headgate.dev/commit"
FLAGS = {"--endpoint": "endpoint", "--op-key": "opKey", "--percent": "percent", "--status": "status"}


def argo_document(
    document: Mapping[str, Any], settings: OpSettings, given: Mapping[str, str], *, plugin: bool
) -> dict[str, Any]:
    """What is submitted.

    Args:
        given: variables of the controller for every op, the token not among them.
        plugin: light ops are plugin templates; otherwise containers.
    """
    found = placing.placed(document, settings)
    _describe(found["metadata"], settings)
    if plugin:
        with_plugins(found)
    for template in placing.our_templates(found):
        _contained(template, settings, given, secret=placing.secret_name(found["metadata"]["name"]))
    _whole(found["spec"], settings)
    return found


def with_plugins(document: dict[str, Any]) -> None:
    """Turns every light op of ours into a plugin template, in place."""
    for template in placing.our_templates(document):
        if placing.verb(template) in LIGHT:
            _plugged(template)


def _plugged(template: dict[str, Any]) -> None:
    container = template.pop("container")
    args = container["args"]
    body = {"verb": args[0]}
    for flag, value in zip(args[1::2], args[2::2], strict=True):
        body[FLAGS[flag]] = value
    token = next((v["value"] for v in container.get("env") or () if v["name"] == contract.ENV_TOKEN), "")
    if token:
        body["token"] = token
    template["plugin"] = {KEY: body}
    for pointless in ("retryStrategy", "nodeSelector"):  # the agent asks again by itself; nothing is scheduled
        template.pop(pointless, None)


def _contained(template: dict[str, Any], settings: OpSettings, given: Mapping[str, str], *, secret: str) -> None:
    container = template["container"]
    builds = placing.verb(template) == BUILD
    own = container.get("env") or []
    token = any(variable["name"] == contract.ENV_TOKEN for variable in own)
    volumes, mounts = placing.volumes(settings, secret, builds=builds)
    container["env"] = [*placing.environment(settings, given, builds=builds, own_token=token), *own]
    container["volumeMounts"] = [*mounts, *(container.get("volumeMounts") or [])]
    container.setdefault("securityContext", dict(placing.CONTAINER_SECURITY))
    labels = {**placing.MANAGED_BY, placing.PART: "op"}
    template["metadata"] = {"labels": {**((template.get("metadata") or {}).get("labels") or {}), **labels}}
    template["volumes"] = [*volumes, *(template.get("volumes") or [])]
    if builds and settings.argo_semaphore:
        name, _, key = settings.argo_semaphore.partition("/")
        template["synchronization"] = {"semaphores": [{"configMapKeyRef": {"name": name, "key": key}}]}


def _whole(spec: dict[str, Any], settings: OpSettings) -> None:
    spec.setdefault("serviceAccountName", settings.argo_account)
    spec.setdefault("securityContext", dict(placing.POD_SECURITY))
    if settings.pull_secret:
        spec.setdefault("imagePullSecrets", [{"name": settings.pull_secret}])
    if settings.argo_priority:
        spec["priority"] = int(settings.argo_priority)
    if settings.argo_kept_s:
        spec["ttlStrategy"] = {"secondsAfterCompletion": int(settings.argo_kept_s)}


def _describe(metadata: dict[str, Any], settings: OpSettings) -> None:
    """What Argo's UI shows beside the name: Markdown, with links where it is known to what."""
    labels, annotations = metadata.get("labels") or {}, metadata.setdefault("annotations", {})
    endpoint, commit = str(labels.get(ENDPOINT, "")), str(labels.get(COMMIT, ""))
    if not endpoint:
        return
    # Replaced one by one: a URL may hold other braces.
    at = settings.endpoint_url.replace("{endpoint}", endpoint)
    of = settings.commit_url.replace("{commit}", commit)
    words = [f"endpoint {_link(endpoint, at)}", f"commit {_link(commit[:10], of)}" if commit else ""]
    annotations.setdefault(TITLE, f"{endpoint} at {commit[:10]}" if commit else endpoint)
    annotations.setdefault(DESCRIPTION, " · ".join(word for word in words if word))


def _link(text: str, url: str) -> str:
    return f"[{text}]({url})" if url else f"`{text}`"

"""An attempt as a pod, and a pod as how the attempt ended. Pure.

Output parameters come back in the container's termination message: a JSON object the op writes to the path in
$HEADGATE_TERMINATION, 4 kB at most. It arrives with the very event that says the container has ended; the op needs no
right to the API for it, nobody has to read a log, and nothing is left to be cleaned up. What does not fit belongs in
the record, where the op's effect is anyway.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from headgate.phases import BUILD
from headgate_pipelines import contract
from headgate_pipelines.engines import placing
from headgate_pipelines.engines.local.operate import Start
from headgate_pipelines.engines.local.spec import Leaf, Spec
from headgate_pipelines.engines.local.state import Outcome
from headgate_pipelines.engines.settings import OpSettings

WORKFLOW, ENDPOINT = "headgate.dev/workflow", "headgate.dev/endpoint"
RUN = "headgate.dev/run"  # label of a workflow: another each time one is submitted
OP_ANNOTATION = "headgate.dev/op"
SELECTOR = f"{placing.PART}=op"
NAME_LENGTH = 63
GRACE_S = 10
LATE_S = 60  # after the engine's own limit the cluster ends a pod whose engine is gone
TERMINATION = "/dev/termination-log"  # made by the kubelet, writable on a read-only root
PULL_PATIENCE_S = 120.0  # an image that cannot be pulled for this long is an error of the attempt
NEVER_STARTS = {"InvalidImageName", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", *NEVER_STARTS}


def pod_name(workflow: str, path: str, number: int, run: str = "") -> str:
    """The same attempt has the same name for ever, so that it cannot run twice. A DNS label.

    Args:
        run: the workflow's label RUN: one that is submitted anew does not take its namesake's pods for its own.
    """
    whole = ".".join([workflow, path, str(number), *([run] if run else [])])
    shown = re.sub(r"[^a-z0-9]+", "-", whole.lower()).strip("-")
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{shown[: NAME_LENGTH - len(digest) - 1].rstrip('-')}-{digest}"


def pod(
    spec: Spec, leaf: Leaf, start: Start, given: Mapping[str, str], settings: OpSettings, *, name: str
) -> dict[str, Any]:
    """The pod of one attempt.

    Args:
        given: variables of the controller for every op, the token not among them.
    """
    command = list(contract.COMMAND)
    ours = list(start.argv[: len(command)]) == command
    builds = ours and start.argv[len(command) : len(command) + 1] == (BUILD,)
    volumes, mounts = placing.volumes(settings, placing.secret_name(spec.name), builds=builds)
    variables = placing.environment(settings, given, builds=builds, own_token=contract.ENV_TOKEN in start.env)
    variables += [{"name": contract.ENV_TERMINATION, "value": TERMINATION}]
    variables += [{"name": name, "value": value} for name, value in start.env.items()]
    variables += leaf.pod.get("env") or []
    container = {
        "name": "main",
        "image": leaf.image,
        "imagePullPolicy": settings.pull_policy,
        "command": list(start.argv),
        "env": variables,
        "resources": dict(leaf.pod.get("resources") or {}),
        "securityContext": dict(placing.CONTAINER_SECURITY),
        "terminationMessagePath": TERMINATION,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    return {"metadata": _metadata(spec, leaf, name), "spec": _pod_spec(leaf, container, volumes, settings)}


def _metadata(spec: Spec, leaf: Leaf, name: str) -> dict[str, Any]:
    labels = {**placing.MANAGED_BY, placing.PART: "op", WORKFLOW: spec.name}
    if spec.labels.get(ENDPOINT):
        labels[ENDPOINT] = spec.labels[ENDPOINT]
    return {"name": name, "labels": labels, "annotations": {OP_ANNOTATION: leaf.path}}


def _pod_spec(leaf: Leaf, container: Mapping[str, Any], volumes: list[Any], settings: OpSettings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "restartPolicy": "Never",  # what is tried again is the engine's to say
        "serviceAccountName": settings.account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": dict(placing.POD_SECURITY),
        "containers": [dict(container)],
        "volumes": volumes,
    }
    if settings.pull_secret:
        found["imagePullSecrets"] = [{"name": settings.pull_secret}]
    for where in ("nodeSelector", "tolerations"):
        if leaf.pod.get(where):
            found[where] = leaf.pod[where]
    limits = [limit for limit in (leaf.timeout_s, leaf.attempt_s) if limit is not None]
    if limits:
        found["activeDeadlineSeconds"] = math.ceil(min(limits)) + LATE_S
    return found


def outcome(found: Mapping[str, Any], leaf: Leaf, *, age_s: float) -> Outcome | None:
    """How the attempt ended; None: it has not.

    Args:
        found: the pod.
        age_s: since it was made.
    """
    status = found.get("status") or {}
    container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
    ended = (container.get("state") or {}).get("terminated")
    if status.get("phase") in ("Succeeded", "Failed") or (ended and ended.get("exitCode") == 0):
        return _ended(found, status, ended, leaf)
    waiting = (container.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") in NO_IMAGE and age_s > PULL_PATIENCE_S:
        return Outcome(None, error=trouble(found))
    return None


def trouble(found: Mapping[str, Any]) -> str:
    """Why a pod does not run yet, when it is more than a matter of seconds; empty: it is not."""
    status = found.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason', 'not scheduled')}: {condition.get('message', '')}".strip(": ")
    container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
    waiting = (container.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") in NO_IMAGE:
        return f"{waiting['reason']}: {waiting.get('message', '')}".strip(": ")
    return ""


def _ended(found: Mapping[str, Any], status: Mapping[str, Any], ended: Mapping[str, Any] | None, leaf: Leaf) -> Outcome:
    code = int(ended.get("exitCode", 1)) if ended else None
    said = _said(str((ended or {}).get("message") or ""))
    if code == 0:
        return _outputs(leaf, said)
    if code is None or status.get("reason"):  # Evicted, DeadlineExceeded, NodeLost, ...: not the op's own end
        return Outcome(None, error=f"{status.get('reason', 'its pod failed')}: {status.get('message', '')}".strip(": "))
    if (found.get("metadata") or {}).get("deletionTimestamp"):
        return Outcome(None, error="its pod was deleted")
    if ended and ended.get("reason") == "OOMKilled":
        limit = ((leaf.pod.get("resources") or {}).get("limits") or {}).get("memory", "its node's memory")
        return Outcome(code, f"out of memory: it needed more than {limit}")
    return Outcome(code, said["message"])


def _outputs(leaf: Leaf, said: Mapping[str, Any]) -> Outcome:
    found: dict[str, str] = {}
    for output in leaf.outputs:
        value = said["outputs"].get(output.path.removeprefix(f"{contract.OUTPUTS}/"), output.default)
        if value is None:
            return Outcome(0, error=f"output {output.name}: it left none in its termination message")
        found[output.name] = str(value)
    return Outcome(0, outputs=found)


def _said(text: str) -> dict[str, Any]:
    """An op's last words: `{"message": ..., "outputs": {...}}`, or the end of its log."""
    try:
        found = json.loads(text)
        outputs, message = found["outputs"], str(found["message"])
        if isinstance(outputs, dict):
            return {"message": message, "outputs": outputs}
    except (ValueError, KeyError, TypeError):
        pass
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {"message": lines[-1] if lines else "", "outputs": {}}

"""The fields of an Argo Workflow that the local engine reads, those it may ignore, and how their values are written.

Ignored is only what says where and beside what a pod runs. All else is refused by name: a field that is dropped in
silence is a workflow that does something else here than on the cluster.
"""

from __future__ import annotations

import re
from typing import Any

WORKFLOW = {"apiVersion", "kind", "metadata", "spec"}
SPEC = {"entrypoint", "templates", "onExit", "arguments", "activeDeadlineSeconds"}
TEMPLATE = {"name", "inputs", "outputs"}
LEAF = {*TEMPLATE, "container", "script", "retryStrategy", "timeout", "activeDeadlineSeconds"}
GROUP = {*TEMPLATE, "dag", "steps"}
CONTAINER = {"image", "command", "args", "env", "source"}
DAG = {"tasks", "failFast"}
TASK = {"name", "template", "arguments", "depends", "dependencies"}
STEP = {"name", "template", "arguments"}
PARAMETER = {"name", "value", "default", "description"}
OUTPUT = {"name", "valueFrom", "description"}
RETRY = {"limit", "retryPolicy", "expression", "backoff"}
BACKOFF = {"duration", "factor", "cap", "maxDuration"}
ENV = {"name", "value"}

IGNORED = {
    "spec": {
        "podGC", "ttlStrategy", "serviceAccountName", "nodeSelector", "tolerations", "affinity", "podMetadata",
        "priority", "podPriorityClassName", "archiveLogs", "workflowMetadata", "imagePullSecrets", "podSpecPatch",
        "podDisruptionBudget", "securityContext", "schedulerName", "automountServiceAccountToken",
    },
    "template": {
        "metadata", "nodeSelector", "tolerations", "affinity", "serviceAccountName", "priorityClassName",
        "podSpecPatch", "securityContext", "schedulerName", "automountServiceAccountToken", "archiveLocation",
    },
    "container": {"name", "resources", "imagePullPolicy", "securityContext"},
    "retryStrategy": {"affinity"},
}  # fmt: skip

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def duration_s(value: Any) -> float | None:
    """Seconds of `90`, `90s`, `1h30m`; None: it is not a duration."""
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not DURATION.fullmatch(text):
        return None
    return sum(float(number) * UNITS_S[unit] for number, unit in PART.findall(text))


def text_of(value: Any) -> str:
    """A parameter's value as the cluster passes it on: always text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

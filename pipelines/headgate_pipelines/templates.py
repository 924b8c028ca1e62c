"""Headgate's ops, and the whole rollout, as Argo `WorkflowTemplate` documents for a team's own pipelines.

    templateRef: {name: headgate-ops, template: step}        open, build, smoke, deploy, mirror, step, finalize
    templateRef: {name: headgate-rollout, template: rollout}   waits for the rollout of a commit, fails with it

Pure. Everything a pod needs is in the template itself: a `templateRef` takes nothing from the spec it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hera.workflows import Container, Parameter, WorkflowTemplate

from headgate import phases
from headgate.plan import JUDGED_TIMEOUT_S
from headgate_pipelines import contract, ops
from headgate_pipelines.engines import placing
from headgate_pipelines.engines.settings import OpSettings

OPS, ROLLOUT = "headgate-ops", "headgate-rollout"
CONTROL_SECRET = "headgate-control"  # the operator token: `open` and `rollout` are asked with it
TIMEOUTS_S = {phases.BUILD: 2_700.0, phases.SMOKE: 1_800.0, phases.DEPLOY: 1_800.0, phases.FINALIZE: 600.0}
JOINED = (phases.BUILD, phases.SMOKE, phases.DEPLOY, phases.MIRROR, phases.STEP, phases.FINALIZE)
VERSION_LABEL = "app.kubernetes.io/name"


def documents(settings: OpSettings, given: Mapping[str, str], *, namespace: str = "") -> list[dict[str, Any]]:
    """Both documents.

    Args:
        given: variables of every op: where the control API is, what a build needs. No token.
        namespace: empty: none is named.
    """
    endpoint, commit = "{{inputs.parameters.endpoint}}", "{{inputs.parameters.commit}}"
    opened = ops.open_rollout(endpoint, commit)
    opened.inputs = [Parameter(name="endpoint"), Parameter(name="commit", default="")]
    whole = ops.launched(endpoint, commit)
    whole.inputs = [Parameter(name="endpoint"), Parameter(name="commit")]
    joined = [ops.joined(verb, timeout_s=TIMEOUTS_S.get(verb, JUDGED_TIMEOUT_S)) for verb in JOINED]
    return [
        _document(OPS, "open", [opened, *joined], settings, given, namespace),
        _document(ROLLOUT, "rollout", [whole], settings, given, namespace),
    ]


def _document(
    name: str,
    entrypoint: str,
    templates: list[Container],
    settings: OpSettings,
    given: Mapping[str, str],
    namespace: str,
) -> dict[str, Any]:
    with WorkflowTemplate(name=name, namespace=namespace or None, entrypoint=entrypoint) as made:
        made.templates = list(templates)
    document = placing.placed(made.to_dict(), settings)
    document["metadata"]["labels"][VERSION_LABEL] = name
    for template in placing.our_templates(document):
        _whole_in_itself(template, settings, given)
    return document


def _whole_in_itself(template: dict[str, Any], settings: OpSettings, given: Mapping[str, str]) -> None:
    container = template["container"]
    builds = placing.verb(template) == phases.BUILD
    own = container.get("env") or []
    token = any(variable["name"] == contract.ENV_TOKEN for variable in own)
    volumes, mounts = placing.volumes(settings, "" if token else CONTROL_SECRET, builds=builds)
    container["env"] = [*placing.environment(settings, given, builds=builds, own_token=token), *own]
    container["volumeMounts"] = mounts
    container["securityContext"] = dict(placing.CONTAINER_SECURITY)
    template["metadata"] = {"labels": {**placing.MANAGED_BY, placing.PART: "op"}}
    template["volumes"] = volumes
    template["serviceAccountName"] = settings.argo_account
    template["securityContext"] = dict(placing.POD_SECURITY)

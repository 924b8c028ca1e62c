"""A plan as a Hera Workflow: one flat DAG, an op per phase, unrolled here because a plan is known when it starts.

The same object goes to the local engine and to Argo Workflows. It decides nothing: a workflow that is stopped, lost or
repeated changes no outcome, because every op is a question the record answers. Refuses to use `when`, Suspend,
recursion, items, expressions and mutexes: each was found to end a rollout without its abort.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hera.workflows import DAG, Container, Task, Workflow, models

from headgate import phases
from headgate.plan import Op, Plan
from headgate_pipelines import ops

LABEL_ENDPOINT = "headgate.dev/endpoint"
LABEL_COMMIT = "headgate.dev/commit"
ANNOTATION_PLAN = "headgate.dev/plan"
ENTRY = "rollout"
PLAIN = {
    phases.BUILD: ops.build,
    phases.SMOKE: ops.smoke,
    phases.DEPLOY: ops.deploy,
    phases.FINALIZE: ops.finalize,
}
WITH_PERCENT = {phases.MIRROR: ops.mirror, phases.STEP: ops.step}
KEPT_S = 7 * 86_400  # a finished workflow is deleted from the cluster after this; history is in the record


def workflow(plan: Plan, name: str, *, image: str = ops.IMAGE) -> Mapping[str, Any]:
    """The plan as an Argo Workflow document. Entry point `rollout` of group `headgate.pipeline`.

    Args:
        plan: sealed.
        name: `headgate.plan.workflow_name(...)`: the rollout's id and the first half of every op-key.
    """
    document: Mapping[str, Any] = hera(plan, name, image=image).to_dict()
    return document


def hera(plan: Plan, name: str, *, image: str = ops.IMAGE) -> Workflow:
    """The plan as a Hera Workflow, for who wants to add to it."""
    with Workflow(
        name=name,
        entrypoint=ENTRY,
        on_exit=phases.CLOSE,
        labels={LABEL_ENDPOINT: plan.endpoint, LABEL_COMMIT: plan.commit},
        annotations={ANNOTATION_PLAN: plan.hash},
        pod_gc=models.PodGC(strategy="OnWorkflowSuccess"),
        ttl_strategy=models.TTLStrategy(seconds_after_completion=KEPT_S),
    ) as found:
        templates = [template(plan.endpoint, op, image=image) for op in plan.ops]
        ops.close(plan.endpoint, image=image)
        with DAG(name=ENTRY):
            chain(templates)
    return found


def template(endpoint: str, op: Op, *, image: str = ops.IMAGE) -> Container:
    """The template of one op of a plan."""
    if op.verb in WITH_PERCENT:
        return WITH_PERCENT[op.verb](endpoint, op.percent, image=image, timeout_s=op.timeout_s)
    return PLAIN[op.verb](endpoint, image=image, timeout_s=op.timeout_s)


def chain(templates: list[Container]) -> None:
    """One task after the other, each named after its template."""
    last: Task | None = None
    for one in templates:
        task = Task(name=str(one.name), template=one)
        if last is not None:
            last >> task
        last = task

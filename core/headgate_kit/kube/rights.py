"""What each part of Headgate may do in its namespace: one list, behind Roles, docs and `headgate doctor`.

Nothing is `*`, nothing reaches beyond the namespace but reading nodes, and that is optional.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

READ = ("get", "list", "watch")
FOLLOW = ("list", "watch")
CONTROLLER, ROUTER, WORKFLOW = "controller", "router", "workflow"


@dataclass(frozen=True, slots=True)
class Right:
    part: str  # controller | router | workflow
    group: str  # API group; empty: core
    resource: str  # plural, with its subresource: `pods/log`
    verbs: tuple[str, ...]
    why: str
    when: str = ""  # a value of the chart that has to be so, `engine=argo`; empty: always
    cluster: bool = False  # asked for in a ClusterRole

    @property
    def plural(self) -> str:
        return self.resource.partition("/")[0]

    @property
    def subresource(self) -> str:
        return self.resource.partition("/")[2]


def _controller(
    group: str, resource: str, verbs: tuple[str, ...], why: str, when: str = "", *, cluster: bool = False
) -> Right:
    return Right(CONTROLLER, group, resource, verbs, why, when, cluster)


ARGO, HEADGATE = "argoproj.io", "headgate.dev"
RESOURCES = "resources.enabled=true"
RIGHTS: tuple[Right, ...] = (
    _controller("", "pods", (*FOLLOW, "patch"), "see replicas become ready and die; say which go first"),
    _controller("", "pods", ("create", "delete"), "run ops", "engine=pods"),
    _controller("", "pods/log", ("get",), "show a replica's log, and why it died"),
    _controller("", "services", ("create", "patch"), "give a revision's replicas a name"),
    _controller("discovery.k8s.io", "endpointslices", FOLLOW, "know whom routers find"),
    _controller("", "serviceaccounts", ("create", "patch", "delete"), "an identity per endpoint"),
    _controller("", "secrets", (*READ, "create", "patch", "delete"), "endpoint keys, the control token, tokens of ops"),
    _controller("", "resourcequotas", ("list",), "know whether a rollout fits"),
    _controller("", "events", ("create",), "say what was put back", RESOURCES),
    _controller("apps", "deployments", (*READ, "create", "patch", "delete"), "run a revision"),
    _controller("policy", "poddisruptionbudgets", ("create", "patch", "delete"), "keep a replica in a drain"),
    _controller("autoscaling", "horizontalpodautoscalers", ("create", "patch", "delete"), "scale a revision"),
    _controller("keda.sh", "scaledobjects", ("create", "patch", "delete"), "scale it by requests", "keda.enabled=true"),
    _controller("networking.k8s.io", "networkpolicies", ("create", "patch"), "shield models"),
    _controller("coordination.k8s.io", "leases", ("get", "create", "patch"), "one controller at a time"),
    _controller(HEADGATE, "onlineendpoints", (*FOLLOW, "create", "patch", "delete"), "show endpoints", RESOURCES),
    _controller(HEADGATE, "onlineendpoints/status", ("patch",), "show their state", RESOURCES),
    _controller(HEADGATE, "endpointrollouts", (*FOLLOW, "create", "patch", "delete"), "show rollouts", RESOURCES),
    _controller(HEADGATE, "endpointrollouts/status", ("patch",), "show their state", RESOURCES),
    _controller(ARGO, "workflows", (*READ, "create", "patch"), "run rollouts", "engine=argo"),
    _controller(ARGO, "workflowtasksets", FOLLOW, "answer steps without a pod", "engine=argo"),
    _controller(ARGO, "workflowtasksets/status", ("patch",), "answer steps without a pod", "engine=argo"),
    _controller("", "configmaps", ("get",), "find out how Argo runs light steps", "engine=argo"),
    _controller("", "nodes", ("list",), "know what a pool can hold", "nodes.read=true", cluster=True),
    Right(ROUTER, "discovery.k8s.io", "endpointslices", FOLLOW, "find replicas, also without a controller"),
    Right(WORKFLOW, ARGO, "workflowtaskresults", ("create", "patch"), "report what a step gave", "engine=argo"),
)  # fmt: skip


def rights(part: str, settings: dict[str, str] | None = None) -> Iterator[Right]:
    """Those of one part; with settings, those that hold under them."""
    for right in RIGHTS:
        name, _, value = right.when.partition("=")
        if right.part == part and (settings is None or not name or settings.get(name) == value):
            yield right

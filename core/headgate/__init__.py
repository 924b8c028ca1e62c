"""The kernel's public names: what a plugin is written against. Everything else may change without notice.

A name is imported from its module on first use, so that `import headgate` costs next to nothing and a router loads only
what a router needs. What a gate's parameters are made of is `headgate.params`; the suites an adapter can be held
against are `headgate.testing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from headgate.version import __version__

if TYPE_CHECKING:
    from headgate.evidence import (
        Answer,
        Approval,
        Batch,
        Counts,
        Detection,
        Difference,
        Look,
        Need,
        Outcome,
        Pair,
        PairKind,
        Result,
        Sample,
        Traffic,
        Verdict,
    )
    from headgate.findings import (
        ConflictError,
        Finding,
        FindingsError,
        HeadgateError,
        Place,
        PolicyDenied,
        Severity,
        SpecError,
        TerminalError,
        TransientError,
    )
    from headgate.plan import Op, Plan
    from headgate.ports import (
        Builder,
        Catalogue,
        Engine,
        EvidenceSource,
        Gate,
        Platform,
        Record,
        Run,
        Secrets,
        Server,
        Tree,
        Window,
    )
    from headgate.process import InstanceType, MetricSource, MirrorPhase, Process, Settings
    from headgate.rollout import Event, Head, Rollout
    from headgate.table import EndpointRoute, Mirror, RouteRevision, RouteTable
    from headgate.target import (
        DeploymentTarget,
        EnvironmentPin,
        ModelPin,
        RouterSettings,
        RunSettings,
        Source,
        SourcePath,
        Target,
    )
    from headgate.workload import Artifact, Launch, Probe, Purpose, Replica, ReplicaState, Workload

__all__ = [
    "Answer",
    "Approval",
    "Artifact",
    "Batch",
    "Builder",
    "Catalogue",
    "ConflictError",
    "Counts",
    "DeploymentTarget",
    "Detection",
    "Difference",
    "EndpointRoute",
    "Engine",
    "EnvironmentPin",
    "Event",
    "EvidenceSource",
    "Finding",
    "FindingsError",
    "Gate",
    "Head",
    "HeadgateError",
    "InstanceType",
    "Launch",
    "Look",
    "MetricSource",
    "Mirror",
    "MirrorPhase",
    "ModelPin",
    "Need",
    "Op",
    "Outcome",
    "Pair",
    "PairKind",
    "Place",
    "Plan",
    "Platform",
    "PolicyDenied",
    "Probe",
    "Process",
    "Purpose",
    "Record",
    "Replica",
    "ReplicaState",
    "Result",
    "Rollout",
    "RouteRevision",
    "RouteTable",
    "RouterSettings",
    "Run",
    "RunSettings",
    "Sample",
    "Secrets",
    "Server",
    "Settings",
    "Severity",
    "Source",
    "SourcePath",
    "SpecError",
    "Target",
    "TerminalError",
    "Traffic",
    "TransientError",
    "Tree",
    "Verdict",
    "Window",
    "Workload",
    "__version__",
]

_HOMES = {
    "evidence": "Answer Approval Batch Counts Detection Difference Look Need Outcome Pair PairKind Result Sample"
    " Traffic Verdict",
    "findings": "ConflictError Finding FindingsError HeadgateError Place PolicyDenied Severity SpecError TerminalError"
    " TransientError",
    "plan": "Op Plan",
    "ports": "Builder Catalogue Engine EvidenceSource Gate Platform Record Run Secrets Server Tree Window",
    "process": "InstanceType MetricSource MirrorPhase Process Settings",
    "rollout": "Event Head Rollout",
    "table": "EndpointRoute Mirror RouteRevision RouteTable",
    "target": "DeploymentTarget EnvironmentPin ModelPin RouterSettings RunSettings Source SourcePath Target",
    "workload": "Artifact Launch Probe Purpose Replica ReplicaState Workload",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker reads the imports above

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = found  # the next look goes past this function
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

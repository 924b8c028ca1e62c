"""rollout.yml and headgate.yml as values: the process that leads to a state, and the ground it runs on.

Defaults live here and nowhere else. Durations are seconds, shares are fractions of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class MirrorPhase:
    percent: float = 20.0  # of live requests copied to the candidate; 0: no mirror phase
    soak_s: float = 600.0
    echo: float = 0.1  # share of copied requests also sent to the stable again, to learn its noise


@dataclass(frozen=True, slots=True)
class Process:
    """rollout.yml. Every field has a default, so the file is optional."""

    mirror: MirrorPhase = MirrorPhase()
    steps: tuple[float, ...] = (5, 25, 50, 100)  # percent of the way from live to asked; the last is the bake
    soak_s: float = 300.0  # least time a step holds; evidence may hold it longer
    max_soak_s: float = 7_200.0  # a step without a pass by then fails closed
    false_abort: float = 0.01  # of a whole rollout, shared among its gates
    gates: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"error-rate": {}, "latency-p99": {}, "mirror-diff": {}}
    )  # name -> parameters; empty parameters: the gate's defaults
    on_failure: str = "revert"  # what is done to git: revert | revert-pr | hold
    capacity: str = "parallel"  # how far it may go for lack of room: parallel | partial | swap (`surge.py`)
    keep_warm_s: float = 3_600.0  # how long replaced revisions keep running after finalize
    repeatable: bool = True
    sticky: str = "none"
    redact: tuple[str, ...] = ()
    websocket: tuple[str, ...] = ()  # deployments whose WebSocket requests are tunnelled
    smoke_request: str = "sample-request.json"  # beside the deployment's file
    min_requests: int = 50  # candidate requests every gate needs at least before it may pass


@dataclass(frozen=True, slots=True)
class InstanceType:
    cpus: float = 1.0
    memory_gb: float = 2.0
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"  # what a cluster calls one: a MIG or shared profile has a name of its own
    node_pool: str = ""  # value of the nodes' label headgate.dev/pool; empty: any node
    price_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose OIDC tokens `auth_mode: aad_token` takes, and which of them."""

    issuer: str  # the claim `iss`
    audience: tuple[str, ...]  # the claim `aud` holds one of them
    jwks: str = ""  # where its public keys are; empty: the issuer's openid-configuration says it
    claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # each claim holds one of its values


@dataclass(frozen=True, slots=True)
class MetricSource:
    """Where samples come from. Its token is no part of it: it lies with the controller, by host."""

    kind: str  # prometheus | webhook, or a plugin's
    url: str
    timeout_s: float = 5.0  # below the shortest sensible interval between two questions


@dataclass(frozen=True, slots=True)
class CatalogueSource:
    """Where registered models are, outside the repo. Its credentials lie with the controller, by host."""

    kind: str  # folder | s3 | mlflow | oci, or a plugin's
    url: str
    region: str = ""  # s3 only; empty: us-east-1, which stores of one's own do not look at
    endpoint: str = ""  # s3 only: a store of one's own; empty: Amazon's


@dataclass(frozen=True, slots=True)
class Settings:
    """headgate.yml."""

    instance_types: Mapping[str, InstanceType] = field(
        default_factory=dict
    )  # by lower-case name; empty: any is accepted
    environments: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # alias of a curated environment -> requirement lines
    interpreters: Mapping[str, str] = field(default_factory=dict)  # "3.10" -> path of that interpreter
    catalogue: str = ""  # folder that azureml:NAME:VERSION models are looked up in; relative to the repo root
    catalogues: Mapping[str, CatalogueSource] = field(default_factory=dict)  # by name, asked in this order
    models: str = "image"  # image | init: on a cluster, what brings the models of `catalogues` into a replica
    capacity: str = "fixed"  # fixed | elastic: nodes come as needed, so nothing waits or is refused for lack of them
    metrics: Mapping[str, MetricSource] = field(default_factory=dict)  # by the name gates use
    keda: str = ""  # of `metrics`: the Prometheus by which KEDA scales; empty: HorizontalPodAutoscalers do, by cores
    dataplane: str = "builtin"  # of the routers: builtin | asgi | envoy; only to warn of what it lacks
    removal_grace_s: float = 600.0  # an endpoint's folder removed with traffic keeps serving this long
    oidc: Issuer | None = None  # None: `auth_mode: aad_token` is refused
    process: Process = Process()  # default rollout

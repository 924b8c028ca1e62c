"""What a platform runs: one revision of one deployment, as many replicas as asked, and what it saw of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from headgate import codec
from headgate.fault import Fault

# What a platform adds to a launch's environment; servers read it.
REPLICA = "HEADGATE_REPLICA"  # the replica's folder: logs, and the file `address`, which the server writes
ADDRESS = "HEADGATE_ADDRESS"  # HOST:PORT to listen on; port 0 is any free one
TLS = "HEADGATE_TLS"  # folder with tls.crt, tls.key and ca.crt: ADDRESS is for clients of that authority alone
HEALTH = "HEADGATE_HEALTH"  # with TLS, HOST:PORT: `/` and READY_PATH in plain HTTP, and nothing else, for probes
CPUS = "HEADGATE_CPUS"  # cores this replica may use; absent: all
CPU_SET = "HEADGATE_CPU_SET"  # numbers of the cores to stay on, with commas; absent: any
# Where things are in an image of ours; builders put them there, servers start them.
IMAGE_BUNDLE = "/opt/headgate/bundle"
IMAGE_ENVIRONMENT = "/opt/headgate/environment"
IMAGE_PYTHON = "/opt/headgate/venv/bin/python"  # runs the front, and models that ask for no packages
FETCH = "HEADGATE_FETCH"  # JSON of a `target.Order`, for the container that fetches a model
MODELS_FOLDER = "/mnt/headgate/models"  # where a volume of models is mounted, in every pod that reads it
NOT_SET_UP = 78  # exit code of a process of ours that lacks what the installation should give it, as EX_CONFIG is
READY_PATH = "/ready"  # answers 200 when a replica can serve; `/` answers 200 as long as its server lives


@dataclass(frozen=True, slots=True)
class Probe:
    """Azure's probe fields. Readiness is asked all the time; these decide when *failure* counts."""

    initial_delay_s: int = 10
    period_s: int = 10
    timeout_s: int = 2
    success_threshold: int = 1
    failure_threshold: int = 30


@dataclass(frozen=True, slots=True)
class Scaling:
    """Azure's `target_utilization`: a cluster decides how many replicas run. One machine does not."""

    least: int = 1
    most: int = 1
    utilization_percent: int = 70  # of the cores that a replica asks for, on average
    interval_s: int = 1  # Azure's polling_interval


@dataclass(frozen=True, slots=True)
class Load:
    """Who knows how many requests a revision has: what KEDA scales by."""

    url: str  # of Prometheus
    slots: int  # requests that one replica runs at once


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a build made."""

    digest: str  # of the bundle's content
    location: str  # the bundle's folder, as the replica sees it
    environment: str = ""  # the model environment's folder, likewise; empty: the interpreter of Headgate itself
    image: str = ""  # what both are in, REGISTRY/NAME@sha256:...; empty: folders of this machine
    apart: bool = False  # the model is not in it: whoever starts a replica fetches it


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one replica. Pure data; the platform adds address, index and log folder."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One value of a Secret of the cluster."""

    secret: str
    key: str


class Purpose(StrEnum):
    SERVE = "serve"
    SMOKE = "smoke"  # alone, never in a route table


@dataclass(frozen=True, slots=True)
class Workload:
    endpoint: str
    deployment: str
    revision: str
    replicas: int  # asked for; 0: stop all
    launch: Launch
    purpose: Purpose = Purpose.SERVE
    liveness: Probe = Probe()
    readiness: Probe = Probe()
    memory_mb: int = 0  # sampled per process group, restarted above it; 0: no limit
    cpus: float = 0.0  # thread counts and affinity; 0: no limit
    scoring_path: str = "/score"
    image: str = ""  # of the artifact; empty: the platform runs folders of this machine
    instance_type: str = ""  # as the deployment names it, lower case; empty: none
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"  # or a MIG or shared profile, as headgate.yml names it
    secrets: Mapping[str, SecretKey] = field(default_factory=dict)  # environment variable -> where its value is
    node_pool: str = ""  # value of the label headgate.dev/pool; empty: any node
    scaling: Scaling | None = None  # None: `replicas` run, always; else that many at first
    load: Load | None = None  # with `scaling`: KEDA does it, by requests; None: an autoscaler, by cores
    fetch: str = ""  # JSON of a `target.Order`: the model to fetch when a replica starts; empty: none
    only_up: bool = False  # with `scaling`: no replica is taken away for now


NAME_LENGTH = 63  # of a DNS label
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def object_name(endpoint: str, revision: str, purpose: Purpose = Purpose.SERVE) -> str:
    """What everything of one revision is called on a cluster: `<endpoint>-<revision>`, with `-smoke` when it is alone.

    Returns: a DNS label that starts with a letter. Endpoints that differ in case only share one (`name-case` forbids
    them); what does not fit into a label as it is gets a digest of it instead.
    """
    ending = f"-{revision}" + (f"-{purpose}" if purpose is not Purpose.SERVE else "")
    whole = f"{endpoint.lower()}{ending}"
    if len(whole) <= NAME_LENGTH and _LABEL.fullmatch(whole):
        return whole
    kept = re.sub(r"[^a-z0-9]+", "-", endpoint.lower()).strip("-0123456789")[:32].rstrip("-")
    return f"{kept or 'endpoint'}-{codec.digest([endpoint, revision, purpose])[:16]}"


class ReplicaState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"  # was ready, does not answer its readiness probe now
    FAILED = "failed"  # gave up: reason in `message`; a new apply tries again
    RESTARTING = "restarting"  # waits for its back-off


@dataclass(frozen=True, slots=True)
class Replica:
    endpoint: str
    deployment: str
    revision: str
    index: int
    purpose: Purpose
    state: ReplicaState
    address: str = ""  # http://127.0.0.1:PORT once it listens
    restarts: int = 0
    message: str = ""  # why it is not ready, with the log's last lines when it died
    logs: Mapping[str, str] = field(default_factory=dict)  # inference-server, storage-initializer -> file
    fault: Fault | None = None  # gave up, and it is no fault of the deployment

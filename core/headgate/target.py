"""What one commit asks of one endpoint, resolved to data that can be compared, hashed and restored.

Three digests, because a revert restores three things: traffic (a vector over revisions), router settings and run
settings. Reading a commit into a `Target` is `reading.py`; this module is the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headgate import codec
from headgate.process import CatalogueSource, Issuer, Process
from headgate.workload import Probe, Scaling


@dataclass(frozen=True, slots=True)
class SourcePath:
    """A file or folder of the endpoints repo at one commit, by content."""

    path: str  # from the repository root
    object_id: str  # git id of the blob or tree: equal content, equal id


@dataclass(frozen=True, slots=True)
class ModelPin:
    """A model, resolved: never a label."""

    name: str  # AZUREML_MODEL_DIR ends with <name>/<version>
    version: str
    source: SourcePath | None  # None: not in the endpoints repo, then `catalogue` says where
    # A registered model: its folder in the catalogue, which holds what was registered. Of a catalogue outside the repo
    # it is `external(...)`: where a build fetches it to, beside the files of the commit.
    catalogue: str = ""
    digest: str = ""  # catalogue only: content digest


EXTERNAL = ".catalogue"


def external(catalogue: str, name: str, version: str) -> str:
    """What a pin of a catalogue outside the repo says of its place."""
    return f"{EXTERNAL}/{catalogue}/{name}/{version}"


def catalogue_of(pin: ModelPin) -> str:
    """The catalogue outside the repo that a model is fetched from; empty: the commit has it."""
    parts = pin.catalogue.split("/")
    return parts[1] if pin.source is None and parts[0] == EXTERNAL and len(parts) > 3 else ""


@dataclass(frozen=True, slots=True)
class Order:
    """A model that is fetched when a replica starts."""

    pin: ModelPin
    source: CatalogueSource | None  # None: headgate.yml does not have that catalogue any more
    into: str  # the model's folder, as the replica sees it


@dataclass(frozen=True, slots=True)
class EnvironmentPin:
    """A model's Python environment, resolved to requirement lines."""

    python: str  # major.minor asked for; empty: the interpreter Headgate runs on
    requirements: tuple[str, ...]  # as the installer reads them, order kept
    image: str = ""  # base image as written; used on a cluster only

    @property
    def digest(self) -> str:
        return codec.digest(self)


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that can change one deployment's answers. Its digest, with the name, is the revision."""

    server: str  # score: init()/run() of a scoring script
    model: ModelPin | None
    code: SourcePath | None
    scoring_script: str
    environment: EnvironmentPin
    variables: Mapping[str, str]
    scoring_path: str
    instance_type: str


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Applied in place: no new revision, no rollout."""

    instance_count: int = 1
    liveness: Probe = Probe()
    readiness: Probe = Probe()
    max_concurrent_per_instance: int = 1
    request_timeout_ms: int = 5_000
    max_queue_wait_ms: int = 500
    scaling: Scaling | None = None  # within its limits `instance_count` is how many start


@dataclass(frozen=True, slots=True)
class DeploymentTarget:
    name: str
    revision: str  # `revision.revision_id(endpoint, name, source)`
    source: Source
    run: RunSettings
    smoke_request: SourcePath | None = None  # None: no sample request; the plan warns


@dataclass(frozen=True, slots=True)
class RouterSettings:
    auth_mode: str = "key"
    issuer: Issuer | None = None  # of headgate.yml, when auth_mode is aad_token
    mirror: Mapping[str, int] = field(default_factory=dict)  # mirror_traffic: revision -> per-mille
    repeatable: bool = True
    sticky: str = "none"
    redact: tuple[str, ...] = ()
    websocket: tuple[str, ...] = ()  # deployments, by name


@dataclass(frozen=True, slots=True)
class Target:
    endpoint: str
    commit: str  # that asked for it; not part of any digest
    deployments: Mapping[str, DeploymentTarget]  # by name
    traffic: Mapping[str, int]  # revision -> per-mille; adds up to 1,000, or empty: drained
    router: RouterSettings
    process: Process
    files: Mapping[str, str]  # every path read -> git object id: what a revert restores

    @property
    def traffic_digest(self) -> str:
        return codec.digest(self.traffic)

    @property
    def router_digest(self) -> str:
        return codec.digest(self.router)

    @property
    def run_digest(self) -> str:
        return codec.digest({d.revision: d.run for d in self.deployments.values()})

    @property
    def digest(self) -> str:
        """Equal when two commits ask the same of this endpoint."""
        return codec.digest([self.traffic_digest, self.router_digest, self.run_digest, sorted(self.revisions)])

    @property
    def revisions(self) -> Mapping[str, DeploymentTarget]:
        return {d.revision: d for d in self.deployments.values()}

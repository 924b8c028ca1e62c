"""Every port: the smallest honest form of each thing that can be replaced. Adapters are loaded by entry point.

A port is a Protocol; an adapter needs no import of ours to satisfy it. `headgate.testing` has a conformance suite
for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from headgate.evidence import Detection, Look, Need, Sample, Traffic, Verdict
from headgate.table import RouteRevision
from headgate.target import DeploymentTarget, ModelPin, Source
from headgate.workload import Artifact, Launch, Replica, Workload

if TYPE_CHECKING:
    from headgate.rollout import Event, Head

P = TypeVar("P")


class Tree(Protocol):
    """One commit's files (or a folder's), read-only. Paths are relative to the root, with `/`, never with `..`."""

    commit: str  # 40 hex digits; empty for a work folder

    def files(self, under: str = "") -> Mapping[str, int]:
        """Every regular file below a folder: path -> size in bytes. Links are not followed and not listed."""
        ...

    def read(self, path: str, limit: int) -> bytes:
        """A file's bytes. Raises FileNotFoundError; raises ValueError when it is longer than `limit` bytes."""
        ...

    def object_id(self, path: str) -> str | None:
        """The content id of a file or folder (git's blob or tree id); None: there is none."""
        ...

    def links(self, under: str = "") -> Mapping[str, str]:
        """Symbolic links below a folder: path -> what it points to, as written."""
        ...


class Gate(Protocol[P]):
    """Pure: evidence in, verdict out. No clock, no I/O, no random numbers.

    `looks` come in the order of time, all of one phase. `alpha` is this gate's share of the rollout's false_abort.
    """

    version: str

    @property
    def params(self) -> type[P]:
        """A frozen dataclass: the gate's block in rollout.yml. Every field has a default."""
        ...

    def needs(self, params: P) -> Sequence[Need]: ...
    def judge(self, params: P, looks: Sequence[Look], alpha: float) -> Verdict: ...
    def power(self, params: P, traffic: Traffic, alpha: float) -> Detection | None: ...


@dataclass(frozen=True, slots=True)
class Window:
    """Whom a sample is of, and when it is asked for."""

    endpoint: str
    deployment: str
    revision: str
    arm: str  # candidate | stable
    now: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Run:
    """What an engine knows of one workflow."""

    name: str
    phase: str  # Pending | Running | Succeeded | Failed | Error
    message: str = ""
    nodes: Mapping[str, str] | None = None  # op name -> phase
    started_at: float | None = None
    finished_at: float | None = None


class Engine(Protocol):
    def submit(self, workflow: Mapping[str, Any]) -> None:
        """Starts it; one of that name already known is left as it is."""
        ...

    def status(self, name: str) -> Run | None: ...
    def stop(self, name: str) -> None:
        """Stops it, its running ops too; onExit runs. Unknown or ended: nothing."""
        ...


class Platform(Protocol):
    """Optional, beside these four:

    `inventory() -> headgate.capacity.Inventory | None`: what there is; None: it may not know.
    `runs`: "folder" (when it is absent) or "image": which artifacts it can start.
    `findings() -> Sequence[Finding]`: what of headgate.yml it cannot do; `headgate status` shows it.
    `service(endpoint, revision) -> str`: where routers find replicas themselves, see `RouteRevision.service`.
    """

    def apply(self, workload: Workload) -> None:
        """Makes it so, eventually: returns at once, repeated calls change nothing, instance count in place."""
        ...

    def observe(self, endpoint: str) -> Sequence[Replica]: ...
    def remove(self, endpoint: str, revision: str) -> None:
        """Ends its replicas (drained first, smoke ones too). Unknown: nothing."""
        ...

    def logs(self, replica: Replica, *, follow: bool, kind: str = "inference-server") -> Iterator[bytes]:
        """Azure's two logs: inference-server, storage-initializer."""
        ...


class Builder(Protocol):
    # Optional: `makes`, "folder" (the default) or "image", as a platform's `runs`; a pair that differs is a finding.
    # `apart`, False; set to True where replicas fetch the models of catalogues: then they are not among the files, and
    # an artifact without its model says so (`Artifact.apart`).
    def find(self, source: Source) -> Artifact | None:
        """The finished artifact of this source, if it was built before."""
        ...

    def build(self, source: Source, files: Path, log: Path) -> Artifact:
        """Builds from the source's files (paths as in the repo, below `files`).

        Raises: SpecError with the installer's own words; TransientError when trying again may help.
        """
        ...


class Server(Protocol):
    """What answers inside a replica (score, mlflow, ...)."""

    def claims(self, deployment: DeploymentTarget) -> bool: ...
    def launch(self, deployment: DeploymentTarget, artifact: Artifact) -> Launch: ...


class Resolver(Protocol):
    """Where the replicas of a revision answer, as the router itself finds out. One event loop; nothing blocks.

    The entry point's name is the scheme of `RouteRevision.service` (`k8s` of `k8s:NAMESPACE/SERVICE:PORT`); a row
    without a service is for the adapter `table`.
    """

    def follow(self, revision: RouteRevision, heard: Callable[[tuple[str, ...]], None]) -> Callable[[], None]:
        """Tells `heard` the ready replicas, sorted, once they are known and at each change; answers what ends it.

        `http://HOST:PORT` each; none: (). What was known is not taken back because its source cannot be reached.
        Raises ValueError: the row's service is not of this adapter's form.
        """
        ...

    async def close(self) -> None: ...


class EvidenceSource(Protocol):
    """One source of headgate.yml's `metrics`. Made of its `MetricSource` and its token (empty: none)."""

    def collect(self, need: Need, window: Window) -> Sample:
        """Asks once, within the source's time limit. What goes wrong is the sample's problem, never raised.

        Several threads may ask at once.
        """
        ...

    def close(self) -> None: ...


class Record(Protocol):
    def load(self, endpoint: str) -> tuple[Head, int]:
        """The head and its version; an unknown endpoint has an empty head at version 0."""
        ...

    def commit(self, endpoint: str, head: Head, events: Sequence[Event], expect: int) -> int:
        """Writes head and events in one transaction. Raises ConflictError when the version is not `expect`."""
        ...

    def put(self, evidence: bytes) -> str: ...
    def get(self, digest: str) -> bytes: ...


class Catalogue(Protocol):
    """One of headgate.yml's `catalogues`. Made of its name, its `CatalogueSource` and its credentials (a mapping).

    Both raise TransientError: it is away; TerminalError: it says no, or cannot be used as it is declared.
    """

    def pin(self, ref: str) -> ModelPin:
        """Resolves azureml:NAME:VERSION or @label. Raises LookupError with the known ones."""
        ...

    def fetch(self, pin: ModelPin, into: Path) -> None:
        """Writes the model's files into an existing folder. Raises LookupError: it is not what was pinned any more."""
        ...


class Secrets(Protocol):
    def get(self, ref: str) -> str: ...
    def put(self, ref: str, value: str) -> None: ...

"""The data folder: one place for every path in it. Nothing here creates anything but what `prepare` says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NAME = ".headgate"


@dataclass(frozen=True, slots=True)
class DataFolder:
    root: Path

    @property
    def lock(self) -> Path:  # held by the supervisor as long as it lives
        return self.root / "lock"

    @property
    def control(self) -> Path:  # JSON {"url": ..., "pid": ...}: where the control API answers
        return self.root / "control.json"

    @property
    def token(self) -> Path:  # 0600: the control API's operator token
        return self.root / "control.token"

    @property
    def router(self) -> Path:  # JSON {"url": ..., "workers": n}: where callers go
        return self.root / "router.json"

    @property
    def record(self) -> Path:
        return self.root / "record.db"

    @property
    def engine(self) -> Path:
        return self.root / "engine.db"

    @property
    def mirror(self) -> Path:  # bare copy of the endpoints repo
        return self.root / "mirror.git"

    @property
    def secrets(self) -> Path:  # 0600: endpoint keys
        return self.root / "secrets.json"

    @property
    def tables(self) -> Path:  # the last good route table of each router worker
        return self.root / "tables"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    @property
    def environments(self) -> Path:
        return self.root / "environments"

    @property
    def replicas(self) -> Path:  # replicas/<endpoint>/<revision>/<purpose>-<index>/
        return self.root / "replicas"

    @property
    def ops(self) -> Path:  # ops/<workflow>/<op>/<attempt>/
        return self.root / "ops"

    @property
    def services(self) -> Path:  # services/<controller|router-0|...>/: shim folders of our own processes
        return self.root / "services"

    @property
    def metrics(self) -> Path:  # metrics/<host[:port]>: the token sent to metric sources of that host, and to no other
        return self.root / "metrics"

    @property
    def catalogues(
        self,
    ) -> Path:  # catalogues/<host>.<key>: credentials of catalogues there, one value each
        return self.root / "catalogues"

    @property
    def models(self) -> Path:  # models/<digest of a pin>/: models of catalogues, fetched once
        return self.root / "models"

    @property
    def sources(self) -> Path:  # scratch of builds
        return self.root / "sources"

    def prepare(self) -> None:
        """Creates the folder, closed to other users: it holds secrets."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)


def find(start: Path | None = None) -> DataFolder | None:
    """$HEADGATE_DATA, or the nearest `.headgate` at or above `start` (the current folder)."""
    named = os.environ.get("HEADGATE_DATA")
    if named:
        return DataFolder(Path(named))
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / NAME).is_dir():
            return DataFolder(folder / NAME)
    return None

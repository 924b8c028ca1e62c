"""Bundles: a revision's code and model in one folder named by the digest of its source, with its environment beside.

    BUNDLES/<digest>/code/<code folder>/...      models/<name>/<version>/<model>      bundle.json
    ENVIRONMENTS/<digest>/                       shared by every deployment that asks for the same packages

Nothing is built twice and nothing half made counts: a bundle appears whole, by rename. No code of a model runs here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from headgate import codec
from headgate.findings import Finding, Place, SpecError
from headgate.target import ModelPin, Source
from headgate.workload import Artifact
from headgate_kit.files import FULL, DiskFull, read_json, write_json
from headgate_kit.layout import DataFolder
from headgate_pipelines.builders.installer import Environments, locked

MANIFEST = "bundle.json"


@dataclass(frozen=True, slots=True)
class Part:
    """Something that goes into a bundle."""

    origin: Path  # file or folder among the source's files
    place: str  # path in the bundle


class BundleBuilder:
    """A `Builder`. Entry point `bundle` of group `headgate.builder`.

    Args:
        interpreters: "3.10" -> path of that interpreter, as in headgate.yml.
    """

    def __init__(self, data: DataFolder, interpreters: Mapping[str, str] | None = None) -> None:
        self._bundles = data.bundles
        self._environments = Environments(data.environments, interpreters or {})

    def find(self, source: Source) -> Artifact | None:
        folder = self._folder(source)
        known = read_json(folder / MANIFEST)
        if known is None or not self._environments.ready(source.environment):
            return None
        environment = self._environments.folder(source.environment)
        return Artifact(str(known["digest"]), str(folder), str(environment) if environment else "")

    def build(self, source: Source, files: Path, log: Path) -> Artifact:
        """The bundle and its environment. Raises SpecError, or TransientError for disk and network."""
        self._bundles.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environments.make(source.environment, log)
        folder = self._folder(source)
        with locked(self._bundles / f".{folder.name}.lock"):
            if read_json(folder / MANIFEST) is None:
                self._assemble(source, files, folder)
        found = self.find(source)
        assert found is not None  # both parts were just made
        return found

    def _folder(self, source: Source) -> Path:
        return self._bundles / codec.digest(source)[:32]

    def _assemble(self, source: Source, files: Path, folder: Path) -> None:
        for left in self._bundles.glob(f".{folder.name}.new-*"):
            shutil.rmtree(left, ignore_errors=True)  # of a build that was killed: we hold the lock
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=self._bundles))
        try:
            code, model = code_of(source, files), model_of(source, files)
            for part in (code, model):
                if part is not None:
                    _copy(part.origin, made / part.place)
            write_json(made / MANIFEST, manifest(source, code, model))
            os.rename(made, folder)
        except OSError as error:
            if error.errno in FULL or "Errno 28" in str(error):  # copytree gathers the errors of single files
                raise DiskFull(folder) from error
            raise
        finally:
            shutil.rmtree(made, ignore_errors=True)


def code_of(source: Source, files: Path) -> Part | None:
    """None: there is no code. Raises SpecError: it, or its script, is not there."""
    if source.code is None:
        return None
    origin = _inside(files, source.code.path)
    part = Part(_there(origin, source.code.path), f"code/{_part(origin.name)}")
    if source.scoring_script and not _inside(origin, source.scoring_script).is_file():
        raise SpecError(
            Finding(
                code="scoring-script-missing",
                message=f"{source.scoring_script} is not in {source.code.path}",
                why="the server starts it, so without it no request can be answered",
                fix="correct `code_configuration.scoring_script`, or add the file",
                place=Place(f"{source.code.path}/{source.scoring_script}"),
            )
        )
    return part


def model_of(source: Source, files: Path) -> Part | None:
    """None: there is no model. Raises SpecError: it is not there. As Azure has it, a local model keeps the last part of
    its path; of a registered one it is what was registered, which is what the catalogue's folder of this version holds.
    """
    model = source.model
    if model is None:
        return None
    path = model.source.path if model.source else model.catalogue
    origin = _inside(files, path)
    place = model_place(model) if model.catalogue else f"{model_place(model)}/{_part(origin.name)}"
    return Part(_there(origin, path), place)


def manifest(source: Source, code: Part | None, model: Part | None) -> dict[str, Any]:
    """What bundle.json says: paths inside the bundle. `model` is what AZUREML_MODEL_DIR becomes."""
    return {
        "code": code.place if code else "",
        "scoring_script": source.scoring_script,
        "model": model_place(source.model) if source.model and model else None,
        "environment": source.environment.digest,
        "digest": codec.digest(source),
    }


def model_place(model: ModelPin) -> str:
    """Its folder in the bundle: what AZUREML_MODEL_DIR becomes."""
    return f"models/{_part(model.name)}/{_part(model.version)}"


def _there(origin: Path, path: str) -> Path:
    if origin.is_dir() or origin.is_file():
        return origin
    raise SpecError(
        Finding(
            code="source-missing",
            message=f"{path} is not there",
            why="the deployment names it, and the commit or the catalogue does not have it",
            fix="add it to the repo, or correct the path",
            place=Place(path),
        )
    )


def _copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if origin.is_dir():
        shutil.copytree(origin, target, symlinks=True)
    else:
        shutil.copy2(origin, target)


def _inside(root: Path, path: str) -> Path:
    """The path below the root. What a repo says must not lead out of it."""
    found = root / PurePosixPath(path)
    if not found.resolve().is_relative_to(root.resolve()):
        raise _outside(path)
    return found


def _part(name: str) -> str:
    """One component of a path."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise _outside(name)
    return name


def _outside(path: str) -> SpecError:
    return SpecError(
        Finding(
            code="path-outside",
            message=f"`{path}` leads out of its folder",
            why="a bundle holds only what is in the repo at this commit, or in the catalogue",
            fix="use a path inside the repo, without `..`",
            place=Place(path),
        )
    )

"""The work of the op `build`: fetch each revision's files, build what is not built yet, report.

Imported by `op.py` only once there is work. Runs no code of the repo; package installation is the builder's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headgate import codec, plugins
from headgate.findings import Finding, FindingsError, Place, SpecError, TerminalError
from headgate.ports import Builder
from headgate.process import CatalogueSource
from headgate.target import Source, catalogue_of
from headgate.workload import Artifact
from headgate_kit import catalogue
from headgate_kit.files import unpack
from headgate_kit.layout import DataFolder
from headgate_pipelines import contract
from headgate_pipelines.builders.installer import locked

GROUP = "headgate.builder"
DEFAULT = "bundle"
SOURCE_LIMIT = 64 * 1024**3  # bytes of one revision's files: model weights are large, a disk is not endless

Fetch = Callable[[str, Path], None]


def perform(work: Mapping[str, Any], *, fetch: Fetch) -> dict[str, Any]:
    """Builds what the control API asks for.

    Args:
        work: `builds`: revision, source, files_url of each; `interpreters`; `catalogues`; `data` unless $HEADGATE_DATA
            says it; `models`: `init` where replicas fetch the models of catalogues themselves.
        fetch: downloads a path of the control API into a file.
    Returns:
        `{"artifacts": {revision: artifact}}`, or `{"failed": {revision: finding}}` at the first that cannot be built.
    Raises:
        TransientError: worth trying again. HeadgateError: this machine is not set up to build.
    """
    data = _data(work)
    builder = _builder(data, work.get("interpreters") or {})
    if work.get("models") == "init" and hasattr(builder, "apart"):
        builder.apart = True
    catalogues = {name: codec.decode(CatalogueSource, one) for name, one in (work.get("catalogues") or {}).items()}
    artifacts: dict[str, Any] = {}
    for one in work.get("builds") or ():
        revision = str(one["revision"])
        source = codec.decode(Source, one["source"])
        try:
            artifact = builder.find(source) or _build(builder, data, source, str(one["files_url"]), fetch, catalogues)
        except FindingsError as error:
            print(f"{revision}: {error}", flush=True)
            return {"failed": {revision: codec.to_data(error.findings[0])}}
        print(f"{revision}: {artifact.image or artifact.location}", flush=True)
        artifacts[revision] = codec.to_data(artifact)
    return {"artifacts": artifacts}


def _data(work: Mapping[str, Any]) -> DataFolder:
    root = os.environ.get(contract.ENV_DATA) or str(work.get("data") or "")
    if not root:
        raise TerminalError(f"{contract.ENV_DATA} is not set: the folder to keep bundles in")
    data = DataFolder(Path(root))
    data.prepare()
    return data


def _builder(data: DataFolder, interpreters: Mapping[str, str]) -> Builder:
    name = os.environ.get(contract.ENV_BUILDER, DEFAULT)
    loaded = plugins.load(GROUP)
    if name not in loaded.adapters:
        known = ", ".join(loaded.adapters) or "none"
        raise TerminalError(f"no builder named {name} is installed; there are: {known}")
    builder: Builder = loaded.adapters[name](data, interpreters)
    return builder


def _build(
    builder: Builder,
    data: DataFolder,
    source: Source,
    url: str,
    fetch: Fetch,
    catalogues: Mapping[str, CatalogueSource],
) -> Artifact:
    data.sources.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="build-", dir=data.sources))
    try:
        archive, files = scratch / "files.tar", scratch / "files"
        fetch(url, archive)
        files.mkdir()
        try:
            unpack(archive, files, SOURCE_LIMIT)
        except ValueError as error:
            raise SpecError(_refused(url, error)) from error
        archive.unlink()
        if not getattr(builder, "apart", False):
            _add_model(data, source, catalogues, files)
        return builder.build(source, files, log_of(data, source))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _add_model(data: DataFolder, source: Source, catalogues: Mapping[str, CatalogueSource], files: Path) -> None:
    """A model of a catalogue outside the repo, beside the commit's files; fetched once, whatever asks for it."""
    pin = source.model
    if pin is None or not catalogue_of(pin):
        return
    kept, place = catalogue.kept(pin, data.models), files / pin.catalogue
    data.models.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(data.models / f".{kept.name}.lock"):
        if not kept.is_dir():
            catalogue.fetch(pin, catalogues, kept, data.catalogues)
    if place.exists():
        raise SpecError(_refused(pin.catalogue, ValueError("this path is taken by the catalogue's model")))
    shutil.copytree(kept, place, copy_function=os.link)  # the same disk: nothing is copied


def log_of(data: DataFolder, source: Source) -> Path:
    """Where a source's build writes what it does, as it goes."""
    return data.bundles / f"{codec.digest(source)[:32]}.log"


def _refused(url: str, error: ValueError) -> Finding:
    fix = "take links, devices and paths that lead out of the deployment's folders from the commit"
    return Finding("source-refused", f"the files cannot be unpacked: {error}", "", fix, Place(url))

"""A revision's image: the base, its Python environment, its model, its code, each a layer pushed once.

Settings come by environment: HEADGATE_REGISTRY, HEADGATE_BASE_IMAGE, HEADGATE_REGISTRY_INSECURE, DOCKER_CONFIG. The
registry is the only memory: an image is found by the tag that is its source's digest, an environment by a tag of its
own. Runs no code of a model and no program but the package installer, and needs no privilege.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headgate import codec
from headgate.findings import Finding, Place, TerminalError
from headgate.target import EnvironmentPin, Source, catalogue_of
from headgate.workload import IMAGE_BUNDLE, IMAGE_ENVIRONMENT, IMAGE_PYTHON, Artifact
from headgate_kit.files import write_json
from headgate_kit.layout import DataFolder
from headgate_kit.oci import credentials, image
from headgate_kit.oci.image import Base, Descriptor, Reference
from headgate_kit.oci.registry import Missing, Registry
from headgate_pipelines.builders import bundle
from headgate_pipelines.builders.installer import Environments
from headgate_pipelines.builders.oci.layers import pack

ENV_REGISTRY = "HEADGATE_REGISTRY"  # as in registry.example/team; images go to .../headgate-models
ENV_BASE = "HEADGATE_BASE_IMAGE"  # best by digest; the image this runs in
ENV_ADDRESS = "HEADGATE_REGISTRY_ADDRESS"  # HOST:PORT, where pods reach the registry by another name than nodes do
ENV_INSECURE = "HEADGATE_REGISTRY_INSECURE"  # 1: plain HTTP, for registries of tests

NAME = "headgate-models"
COMMAND = (IMAGE_PYTHON, "-P", "-m", "headgate_serving.front")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
# gzip levels. Weights hardly get smaller, and a level above 0 would be the slowest part of a build. Of an environment
# level 1 takes 60 % of the time of level 4, for a tenth more bytes.
ENVIRONMENT_LEVEL, MODEL_LEVEL, CODE_LEVEL = 1, 0, 6
# Annotations of what we push.
SOURCE = "dev.headgate.source"
BASE = "dev.headgate.base"
ENVIRONMENT = "dev.headgate.environment"
DIFF_ID = "dev.headgate.diff-id"


@dataclass(frozen=True, slots=True)
class Settings:
    host: str  # of the registry, as nodes name it when they pull
    name: str  # repository in it
    base: Reference
    address: str = ""  # HOST:PORT to reach that registry by from here; empty: by its own name
    insecure: bool = False

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings:
        """Raises TerminalError: one is missing, or is not a reference."""
        for key in (ENV_REGISTRY, ENV_BASE):
            if not environ.get(key):
                raise TerminalError(f"{key} is not set: images are built on a base and pushed to a registry")
        try:
            where = image.parse(f"{environ[ENV_REGISTRY].rstrip('/')}/{NAME}")
            base = image.parse(environ[ENV_BASE])
        except ValueError as error:
            raise TerminalError(f"{ENV_REGISTRY} or {ENV_BASE}: {error}") from error
        return cls(where.host, where.name, base, environ.get(ENV_ADDRESS, ""), environ.get(ENV_INSECURE) == "1")


class OciBuilder:
    """A `Builder`. Entry point `oci` of group `headgate.builder`."""

    makes = "image"  # what a platform has to run

    def __init__(
        self, data: DataFolder, interpreters: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.apart = False  # True: models of catalogues stay out of images; replicas fetch them
        environ = os.environ if environ is None else environ
        self._settings = Settings.read(environ)
        self._logins = credentials.read(environ)
        self._data = data
        self._environments = Environments(data.environments, interpreters or {}, relocatable=True)

    def find(self, source: Source) -> Artifact | None:
        """Raises TransientError, TerminalError: the registry cannot be asked."""
        with self._open(self._settings.host) as registry:
            return self._find(registry, source)

    def build(self, source: Source, files: Path, log: Path) -> Artifact:
        """Raises SpecError; TransientError for disk, network and a registry that is away; TerminalError: it refuses."""
        self._data.sources.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            self._open(self._settings.host) as ours,
            self._open(self._settings.base.host) as theirs,
            tempfile.TemporaryDirectory(prefix="image-", dir=self._data.sources) as scratch,
        ):
            found = self._find(ours, source)
            if found is not None:
                return found
            work = Work(self._settings, ours, theirs, self._environments, Journal(log), Path(scratch))
            digest, environment = work.build(source, files, self._tag(source), apart=self._without(source))
        return self._artifact(source, digest, environment)

    def _without(self, source: Source) -> bool:
        return self.apart and source.model is not None and bool(catalogue_of(source.model))

    def _tag(self, source: Source) -> str:
        """One that is told to be without its model is another image than the one that has it."""
        return codec.digest(source) + ("-apart" if self._without(source) else "")

    def _find(self, registry: Registry, source: Source) -> Artifact | None:
        found = registry.manifest(self._settings.name, self._tag(source))
        if found is None:
            return None
        said = image.notes(found.content)
        ours = said.get(SOURCE) == codec.digest(source)
        return self._artifact(source, found.digest, said[ENVIRONMENT]) if ours else None

    def _artifact(self, source: Source, digest: str, environment: str) -> Artifact:
        reference = f"{self._settings.host}/{self._settings.name}@{digest}"
        return Artifact(codec.digest(source), IMAGE_BUNDLE, environment, reference, self._without(source))

    def _open(self, host: str) -> Registry:
        ours = host == self._settings.host
        return Registry(
            host,
            self._logins.get(host),
            address=self._settings.address if ours else "",
            insecure=ours and self._settings.insecure,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """One build."""

    settings: Settings
    registry: Registry  # ours
    origin: Registry  # the base's
    environments: Environments
    journal: Journal
    scratch: Path

    def build(self, source: Source, files: Path, tag: str, *, apart: bool) -> tuple[str, str]:
        """The digest of the image's manifest, and where its environment is.

        Args:
            apart: without the model, which is not among the files.
        """
        # The author's errors come first.
        code, model = bundle.code_of(source, files), None if apart else bundle.model_of(source, files)
        base = self._base()
        self._share(base)
        layers = []
        environment = IMAGE_ENVIRONMENT if self.environments.folder(source.environment) is not None else ""
        if environment:
            layers.append(self._environment(source.environment, base))
        if model:
            layers.append(self._bundle("model", [model], MODEL_LEVEL))
        said = bundle.manifest(source, code, model)
        if apart and source.model is not None:
            said["model"] = bundle.model_place(source.model)
        write_json(self.scratch / bundle.MANIFEST, said, mode=0o644)
        own = [*([code] if code else []), bundle.Part(self.scratch / bundle.MANIFEST, bundle.MANIFEST)]
        layers.append(self._bundle("code", own, CODE_LEVEL))
        notes = {SOURCE: codec.digest(source), BASE: base.digest, ENVIRONMENT: environment}
        pushed = self._push(base, layers, notes, tag)
        self.journal.say(f"image {self.settings.host}/{self.settings.name}@{pushed}")
        return pushed, environment

    def _base(self) -> Base:
        asked = self.settings.base
        try:
            return _read_base(self.origin, asked, self.scratch)
        except LookupError as error:
            raise TerminalError(str(_no_base(asked, str(error.args[0])))) from error
        except ValueError as error:
            raise TerminalError(str(_no_base(asked, f"it cannot be read: {error}"))) from error

    def _share(self, base: Base) -> None:
        """The base's layers, in our repository: mounted where the registry can, else copied."""
        name, origin = self.settings.name, base.reference
        for layer in base.layers:
            if origin.host == self.settings.host and self.registry.mount(name, layer.digest, origin.name):
                continue
            if self.registry.has_blob(name, layer.digest):
                continue
            file, began = self.scratch / "base-layer", time.monotonic()
            self.origin.fetch(origin.name, layer.digest, file)
            self.registry.upload(name, file, layer.digest)
            file.unlink()
            self.journal.pushed("base", layer.size, began)

    def _environment(self, pin: EnvironmentPin, base: Base) -> Descriptor:
        """Its layer: the one of an earlier build, or installed now and kept under a tag of its own."""
        digest = codec.digest([pin.digest, base.digest])
        tag = f"environment-{digest[:32]}"
        found = self.registry.manifest(self.settings.name, tag)
        said = image.notes(found.content) if found else {}
        if found is not None and said.get(SOURCE) == digest:
            self.journal.say("environment: installed before")
            return image.top_layer(found.content, said[DIFF_ID])
        folder = Path(self.environments.make(pin, self.journal.file))
        _compile(folder, self.journal.file)
        layer = self._layer("environment", [(folder, IMAGE_ENVIRONMENT.removeprefix("/"))], ENVIRONMENT_LEVEL)
        self._push(base, [layer], {SOURCE: digest, BASE: base.digest, DIFF_ID: layer.diff_id}, tag)
        return layer

    def _bundle(self, what: str, parts: list[bundle.Part], level: int) -> Descriptor:
        root = IMAGE_BUNDLE.removeprefix("/")
        return self._layer(what, [(part.origin, f"{root}/{part.place}") for part in parts], level)

    def _layer(self, what: str, parts: list[tuple[Path, str]], level: int) -> Descriptor:
        began = time.monotonic()
        layer = pack(parts, self.scratch / f"{what}.tar.gz", level)
        self.registry.upload(self.settings.name, layer.file, layer.digest)
        layer.file.unlink()
        self.journal.pushed(what, layer.size, began)
        return Descriptor(image.LAYER, layer.digest, layer.size, layer.diff_id)

    def _push(self, base: Base, layers: list[Descriptor], said: Mapping[str, str], tag: str) -> str:
        """The manifest's digest. It comes last: an image is there whole or not at all."""
        config, manifest = image.compose(base, layers, COMMAND, said)
        self.registry.put(self.settings.name, config, image.digest(config))
        try:
            return self.registry.put_manifest(self.settings.name, tag, manifest)
        except TerminalError:
            # Where tags are immutable, the second of two builds at once is refused, and the first is as good.
            first = self.registry.manifest(self.settings.name, tag)
            if first is None or image.notes(first.content).get(SOURCE) != said[SOURCE]:
                raise
            return first.digest


class Journal:
    """A build's log: one line per thing, as it happens."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        with self.file.open("a", encoding="utf-8") as log:
            log.write(f"{text}\n")

    def pushed(self, what: str, size: int, began: float) -> None:
        self.say(f"{what}: layer of {size / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")


def _read_base(registry: Registry, asked: Reference, scratch: Path) -> Base:
    """Raises LookupError: there is none such, or none for this machine."""
    found = registry.manifest(asked.name, asked.version)
    if found is None:
        raise LookupError("the registry does not have it")
    content = image.load(found.content)
    if found.media_type in image.INDEXES:
        machine = platform.machine()
        found = registry.manifest(asked.name, image.for_machine(content, ARCHITECTURES.get(machine, machine)))
        if found is None:
            raise LookupError("its index names a manifest that is not there")
        content = image.load(found.content)
    file = scratch / "base-config"
    try:
        registry.fetch(asked.name, content["config"]["digest"], file)
    except Missing as error:
        raise LookupError("its configuration is not there") from error
    return image.base(asked, found.digest, content, image.load(file.read_bytes()))


def _compile(folder: Path, log: Path) -> None:
    """Byte code for a root that is read-only. Unchecked, as a layer has no file times; without `site`, so that no
    package's start-up code runs. A file that does not compile (a template, another Python's) stays as it is."""
    command = [str(folder / "bin/python"), "-I", "-S", "-m", "compileall", "-q", "--invalidation-mode"]
    command += ["unchecked-hash", "-s", str(folder), "-p", IMAGE_ENVIRONMENT, str(folder / "lib")]
    with log.open("ab") as file:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)


def _no_base(asked: Reference, why: str) -> Finding:
    return Finding(
        code="base-missing",
        message=f"the base image {asked.host}/{asked.name}:{asked.version} cannot be used",
        why=why,
        fix=f"push headgate-runner there (make images), or correct {ENV_BASE}",
        place=Place(f"{asked.host}/{asked.name}"),
    )

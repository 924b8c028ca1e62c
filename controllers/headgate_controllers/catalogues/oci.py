"""Models as artefacts of an image registry: oci://HOST/FOLDER, where NAME is a repository in it and VERSION a tag.

Any artefact whose layers are files: as `oras push HOST/FOLDER/NAME:VERSION model.pkl` makes it. A layer's name is its
title; what is marked to be unpacked, or is a tar layer without a title, is unpacked. Digests are the registry's.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from headgate.findings import TerminalError
from headgate.process import CatalogueSource
from headgate_controllers.catalogues.references import LATEST
from headgate_controllers.catalogues.shelf import MAX_BYTES, MAX_FILES, Item, Shelf
from headgate_kit.files import unpack
from headgate_kit.oci import image
from headgate_kit.oci.credentials import Login
from headgate_kit.oci.registry import Missing, Registry

TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"  # ORAS' mark of a folder
TARS = re.compile(r".*tar(\+gzip)?")
ARCHIVE = ".archive-"  # path of a layer that is unpacked
NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TRIES_S = (0.5, 1.0, 2.0)  # a controller asks, too: it has other endpoints


class Artefacts:
    """A `Store`."""

    def __init__(self, source: CatalogueSource, credentials: Mapping[str, str]) -> None:
        parts = urlsplit(source.url)
        if parts.scheme not in ("oci", "oci+http") or not parts.netloc:
            raise TerminalError(f"{source.url} is not oci://HOST/FOLDER")
        if parse_qs(parts.query):
            raise TerminalError(f"{source.url} has a query, which a registry knows nothing of")
        self.where = source.url
        self._host = parts.netloc
        self._insecure = parts.scheme == "oci+http"
        self._folder = parts.path.strip("/")
        self._login = Login(*(credentials.get(key, "") for key in ("username", "password", "token")))

    def names(self) -> list[str]:
        try:
            with self._open() as registry:
                found = registry.repositories()
        except TerminalError:
            return ["(the registry does not list them)"]
        below = f"{self._folder}/" if self._folder else ""
        return sorted(name.removeprefix(below) for name in found if name.startswith(below))

    def versions(self, name: str) -> set[str]:
        if not NAME.fullmatch(name):
            raise LookupError(f"{self.where} has no {name}: a repository is in lower-case letters")
        with self._open() as registry:
            return {tag for tag in registry.tags(self._repository(name)) if tag != LATEST}

    def labels(self, name: str) -> Mapping[str, str]:
        """A tag is a version; which other one it moves with is not looked up."""
        return {}

    def items(self, name: str, version: str) -> list[Item]:
        found = []
        for number, layer in enumerate(self._layers(name, version)):
            said = layer.get("annotations") or {}
            title, kind = str(said.get(TITLE, "")), str(layer.get("mediaType", ""))
            archive = said.get(UNPACK) == "true" or (not title and TARS.fullmatch(kind))
            path = f"{ARCHIVE}{number}" if archive else title
            found.append(Item(path, int(layer["size"]), str(layer["digest"])))
        return found

    def copy(self, name: str, version: str, item: Item, into: Path) -> None:
        repository = self._repository(name)
        with self._open() as registry:
            if not item.path.startswith(ARCHIVE):
                registry.fetch(repository, item.mark, into / item.path)
                return
            with tempfile.NamedTemporaryFile(prefix=".layer-", dir=into.parent) as file:
                registry.fetch(repository, item.mark, Path(file.name))
                try:
                    unpack(Path(file.name), into, MAX_BYTES, MAX_FILES)
                except ValueError as error:
                    raise LookupError(f"{name}:{version} in {self.where} cannot be unpacked: {error}") from error

    def _layers(self, name: str, version: str) -> Sequence[Mapping[str, Any]]:
        try:
            with self._open() as registry:
                found = registry.manifest(self._repository(name), version)
            content = image.load(found.content) if found else {}
            layers: Sequence[Mapping[str, Any]] = content.get("layers") or content.get("blobs") or ()
            if not all(DIGEST.fullmatch(layer["digest"]) and layer["size"] >= 0 for layer in layers):
                raise ValueError("a layer without digest or size")
        except Missing as error:
            raise LookupError(f"{self.where} has no {name}:{version}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LookupError(f"{name}:{version} in {self.where} is no artefact of files: {error}") from error
        return layers

    def _repository(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    def _open(self) -> Registry:
        return Registry(self._host, self._login, insecure=self._insecure, tries=TRIES_S)


def open_catalogue(name: str, source: CatalogueSource, credentials: Mapping[str, str]) -> Shelf:
    """Entry point `oci` of group `headgate.catalogue`."""
    return Shelf(name, Artefacts(source, credentials))

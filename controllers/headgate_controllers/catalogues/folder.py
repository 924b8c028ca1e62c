"""Registered models in a folder of the endpoints repo: NAME/VERSION/..., and optionally NAME/labels.yml.

The folder is read at a commit, so what a label meant then it means whenever that commit is read again. Nothing is
looked up anywhere else, and no link is followed. A folder outside the repo is `volume.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headgate.ports import Tree
from headgate.target import ModelPin, SourcePath
from headgate_controllers.catalogues import references
from headgate_controllers.catalogues.references import LABELS, LABELS_LIMIT

FILE_LIMIT = 32 << 30  # bytes of one model file


class FolderCatalogue:
    """`headgate.ports.Catalogue` over a folder of one commit."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self._folder = folder.strip("/")

    def pin(self, ref: str) -> ModelPin:
        """Resolves `azureml:NAME:VERSION`, `azureml:NAME@LABEL` or `azureml:NAME` (the latest).

        Raises:
            LookupError: there is none such; the text says which there are.
        """
        if ref.startswith("azureml://"):
            raise LookupError(f"{ref} is in an Azure registry, which is not read here: copy it into {self._where()}")
        asked = references.parse(ref)
        name = asked.name
        versions = self._versions(name)
        if not versions:
            raise LookupError(f"{self._where()} has no model {name}; there: {references.listed(self._names())}")
        version = references.choose(asked, versions, {} if asked.version else self._labels(name), self._where())
        path = f"{self._folder}/{name}/{version}"
        object_id = self._tree.object_id(path)
        assert object_id is not None  # the version was listed from its files
        return ModelPin(name, version, SourcePath(path, object_id), catalogue=path)

    def fetch(self, pin: ModelPin, into: Path) -> None:
        """Writes the model's files into an existing folder. Raises LookupError: this pin is not from here."""
        if pin.source is None or self._tree.object_id(pin.source.path) != pin.source.object_id:
            raise LookupError(f"{pin.name}:{pin.version} is not in {self._where()} at this commit")
        for path in self._tree.files(pin.source.path):
            file = into / path.removeprefix(f"{pin.source.path}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self._tree.read(path, FILE_LIMIT))

    def _labels(self, name: str) -> Mapping[str, str]:
        file = f"{self._folder}/{name}/{LABELS}"
        try:
            data = self._tree.read(file, LABELS_LIMIT)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise LookupError(str(error)) from error
        return references.read_labels(data, file)

    def _versions(self, name: str) -> list[str]:
        below = f"{self._folder}/{name}/"
        inside = [path.removeprefix(below) for path in self._tree.files(below.rstrip("/"))]
        return references.ordered({path.partition("/")[0] for path in inside if "/" in path})

    def _names(self) -> list[str]:
        inside = [path.removeprefix(f"{self._folder}/") for path in self._tree.files(self._folder)]
        return sorted({path.partition("/")[0] for path in inside if path.count("/") > 1})

    def _where(self) -> str:
        return f"the catalogue {self._folder}/"

"""Registered models in a folder of the endpoints repo: NAME/VERSION/..., and optionally NAME/labels.yml.

The folder is read at a commit, so what a label meant then it means whenever that commit is read again. Nothing is
looked up anywhere else, and no link is followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from headgate.ports import Tree
from headgate.target import ModelPin, SourcePath
from headgate.yamltext import parse

LATEST = "latest"
LABELS = "labels.yml"  # a map of label -> version
LABELS_LIMIT = 64 * 1024  # bytes
FILE_LIMIT = 32 << 30  # bytes of one model file
_REF = re.compile(r"azureml:(?P<name>[A-Za-z0-9][\w.-]{0,254})(:(?P<version>[\w.-]{1,255})|@(?P<label>[\w.-]{1,255}))?")


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
        found = _REF.fullmatch(ref)
        if found is None:
            raise LookupError(f"{ref} is not azureml:NAME:VERSION, azureml:NAME@LABEL or azureml:NAME")
        name = found["name"]
        versions = self._versions(name)
        if not versions:
            raise LookupError(f"{self._where()} has no model {name}; there: {_listed(self._names())}")
        version = found["version"] or self._labelled(name, found["label"] or LATEST, versions)
        if version not in versions:
            raise LookupError(f"{self._where()} has no {name}:{version}; there: {_listed(versions)}")
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

    def _labelled(self, name: str, label: str, versions: list[str]) -> str:
        labels = self._labels(name)
        if label in labels:
            return labels[label]
        if label == LATEST:
            return versions[-1]
        known = sorted({*labels, LATEST})
        raise LookupError(f"{self._where()} has no label {label} of {name}; there: {_listed(known)}")

    def _labels(self, name: str) -> Mapping[str, str]:
        file = f"{self._folder}/{name}/{LABELS}"
        try:
            parsed = parse(self._tree.read(file, LABELS_LIMIT), file)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise LookupError(str(error)) from error
        value = parsed.document.value if parsed.document else None
        if parsed.findings or not isinstance(value, dict):
            said = parsed.findings[0].message if parsed.findings else "not a map of label to version"
            raise LookupError(f"{file} cannot be read: {said}")
        return {str(label): str(version) for label, version in value.items()}

    def _versions(self, name: str) -> list[str]:
        """Oldest first: by the numbers in it, then by text."""
        below = f"{self._folder}/{name}/"
        inside = [path.removeprefix(below) for path in self._tree.files(below.rstrip("/"))]
        return sorted({path.partition("/")[0] for path in inside if "/" in path}, key=_natural)

    def _names(self) -> list[str]:
        inside = [path.removeprefix(f"{self._folder}/") for path in self._tree.files(self._folder)]
        return sorted({path.partition("/")[0] for path in inside if path.count("/") > 1})

    def _where(self) -> str:
        return f"the catalogue {self._folder}/"


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", version) if part]


def _listed(names: list[str]) -> str:
    return ", ".join(names[-10:]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "nothing"

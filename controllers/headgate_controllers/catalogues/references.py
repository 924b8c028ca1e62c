"""`azureml:NAME:VERSION`, `azureml:NAME@LABEL`, `azureml:NAME`: which version each one names. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LATEST = "latest"
LABELS = "labels.yml"  # a map of label -> version, beside a model's versions
LABELS_LIMIT = 64 * 1024  # bytes
LISTED = 10
_REF = re.compile(
    r"azureml:(?P<name>[A-Za-z0-9][\w.-]{0,254})(:(?P<version>[\w.-]{1,255})|@(?P<label>[\w.-]{1,255}))?", re.ASCII
)
_VERSION = re.compile(r"[A-Za-z0-9][\w.-]{0,254}", re.ASCII)  # it becomes a folder's name


@dataclass(frozen=True, slots=True)
class Reference:
    name: str
    version: str = ""
    label: str = ""  # when there is no version


def parse(ref: str) -> Reference:
    """Raises LookupError."""
    found = _REF.fullmatch(ref)
    if found is None:
        raise LookupError(f"{ref} is not azureml:NAME:VERSION, azureml:NAME@LABEL or azureml:NAME")
    return Reference(found["name"], found["version"] or "", "" if found["version"] else found["label"] or LATEST)


def choose(asked: Reference, versions: Sequence[str], labels: Mapping[str, str], where: str) -> str:
    """The version that is meant; the latest is the highest, unless a label says otherwise.

    Args:
        versions: oldest first.
    Raises:
        LookupError: there is none such; the text says which there are.
    """
    version = asked.version or _labelled(asked, versions, labels, where)
    if version not in versions:
        raise LookupError(f"{where} has no {asked.name}:{version}; there: {listed(versions)}")
    return version


def _labelled(asked: Reference, versions: Sequence[str], labels: Mapping[str, str], where: str) -> str:
    if asked.label in labels:
        return labels[asked.label]
    if asked.label == LATEST:
        return versions[-1]
    known = sorted({*labels, LATEST})
    raise LookupError(f"{where} has no label {asked.label} of {asked.name}; there: {listed(known)}")


def read_labels(data: bytes, file: str) -> Mapping[str, str]:
    """A labels.yml. Raises LookupError: it is not one."""
    from headgate.yamltext import parse as parse_yaml  # only who pins needs it: a build's image has no YAML

    parsed = parse_yaml(data, file)
    value = parsed.document.value if parsed.document else None
    if parsed.findings or not isinstance(value, dict):
        said = parsed.findings[0].message if parsed.findings else "not a map of label to version"
        raise LookupError(f"{file} cannot be read: {said}")
    return {str(label): str(version) for label, version in value.items()}


def ordered(versions: set[str]) -> list[str]:
    """Those that can be a version, oldest first: by the numbers in it, then by text."""
    return sorted((version for version in versions if _VERSION.fullmatch(version)), key=_natural)


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", version) if part]


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[-LISTED:]) + more or "nothing"

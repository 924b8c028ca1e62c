"""Model references against a catalogue folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from headgate.target import ModelPin, SourcePath
from headgate_controllers.catalogues.folder import FolderCatalogue


class Files:
    """A commit's files in memory."""

    commit = "c" * 40

    def __init__(self, content: Mapping[str, str]) -> None:
        self._content = {path: text.encode() for path, text in content.items()}

    def files(self, under: str = "") -> Mapping[str, int]:
        return {p: len(b) for p, b in self._content.items() if not under or p.startswith(f"{under}/")}

    def read(self, path: str, limit: int) -> bytes:
        if path not in self._content:
            raise FileNotFoundError(path)
        if len(self._content[path]) > limit:
            raise ValueError(f"{path} is longer than {limit}")
        return self._content[path]

    def object_id(self, path: str) -> str | None:
        found = sorted((p, b) for p, b in self._content.items() if p == path or p.startswith(f"{path}/"))
        return hashlib.sha1(repr(found).encode()).hexdigest() if found else None

    def links(self, under: str = "") -> Mapping[str, str]:
        return {}


MODELS = {f"models/churn/{version}/model.pkl": version for version in ("1", "2", "9", "10")}
TREE = Files({**MODELS, "models/churn/10/sub/vocab.txt": "v", "models/README.md": "x", "models/fraud/2024-05/m": "m"})


def pin(ref: str, tree: Files = TREE) -> ModelPin:
    return FolderCatalogue(tree, "models/").pin(ref)


def test_a_version_is_pinned_by_content() -> None:
    path = "models/churn/2"
    object_id = TREE.object_id(path)
    assert object_id is not None
    assert pin("azureml:churn:2") == ModelPin("churn", "2", SourcePath(path, object_id), catalogue=path)


@pytest.mark.parametrize("ref", ["azureml:churn@latest", "azureml:churn"])
def test_the_latest_is_the_highest_number_not_the_last_text(ref: str) -> None:
    assert pin(ref).version == "10"


def test_labels_say_what_they_mean() -> None:
    tree = Files({**MODELS, "models/churn/labels.yml": 'latest: "9"\nprod: 2\n'})
    assert pin("azureml:churn@prod", tree).version == "2"
    assert pin("azureml:churn", tree).version == "9"
    with pytest.raises(LookupError, match="no label canary of churn; there: latest, prod"):
        pin("azureml:churn@canary", tree)


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("azureml:churn:3", "no churn:3; there: 1, 2, 9, 10"),
        ("azureml:chrun:1", "no model chrun; there: churn, fraud"),
        ("azureml://registries/acme/models/churn/versions/1", "Azure registry"),
        ("churn:1", "is not azureml:NAME:VERSION"),
        ("azureml:../secrets:1", "is not azureml:NAME:VERSION"),
        ("azureml:churn:..", r"no churn:\.\."),
        ("azureml:churn:1/2", "is not azureml:NAME:VERSION"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(ref: str, says: str) -> None:
    with pytest.raises(LookupError, match=says):
        pin(ref)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "a: 1\na: 2\n"])
def test_labels_that_cannot_be_read_are_said(text: str) -> None:
    tree = Files({**MODELS, "models/churn/labels.yml": text})
    with pytest.raises(LookupError, match=r"models/churn/labels\.yml"):
        pin("azureml:churn@latest", tree)


def test_a_label_to_a_version_that_is_gone_is_said() -> None:
    tree = Files({**MODELS, "models/churn/labels.yml": "latest: 11\n"})
    with pytest.raises(LookupError, match="no churn:11"):
        pin("azureml:churn", tree)


def test_a_pinned_model_is_fetched_whole(tmp_path: Path) -> None:
    catalogue = FolderCatalogue(TREE, "models")
    catalogue.fetch(catalogue.pin("azureml:churn:10"), tmp_path)
    assert (tmp_path / "model.pkl").read_text() == "10"
    assert (tmp_path / "sub" / "vocab.txt").read_text() == "v"
    with pytest.raises(LookupError):
        catalogue.fetch(ModelPin("churn", "1", SourcePath("models/churn/1", "0" * 40)), tmp_path)

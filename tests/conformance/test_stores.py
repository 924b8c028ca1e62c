"""Secrets and models: a file of secrets, a folder of models in one commit of a real repository."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.ports import Secrets
from headgate.testing import CATALOGUE, SECRETS, CatalogueCase, Check
from headgate_controllers.catalogues.folder import FolderCatalogue
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.secrets.file import FileSecrets


@pytest.mark.parametrize("check", SECRETS, ids=str)
def test_secrets_in_a_file(check: Check[Secrets], tmp_path: Path) -> None:
    check(FileSecrets(tmp_path / "secrets.json"))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointsRepo]:
    folder = tmp_path_factory.mktemp("repo")
    for version in ("9", "10"):
        (folder / "models/churn" / version).mkdir(parents=True)
        (folder / "models/churn" / version / "model.pkl").write_text(version)
    git = ("git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for command in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "models")):
        subprocess.run([*git, *command], check=True)
    opened = EndpointsRepo(str(folder), folder / "mirror.git")
    opened.fetch()
    yield opened
    opened.close()


@pytest.mark.parametrize("check", CATALOGUE, ids=str)
def test_models_in_a_folder(check: Check[CatalogueCase], repo: EndpointsRepo, tmp_path: Path) -> None:
    catalogue = FolderCatalogue(repo.tree(repo.head()), "models")
    check(CatalogueCase(catalogue, "churn", "10", tmp_path))

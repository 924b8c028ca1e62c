"""Secrets and models: a file of secrets; models in a commit of a real repository, a folder, a bucket, a registry."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlflowserver
import registryserver
import s3server
from headgate.ports import Catalogue, Secrets
from headgate.process import CatalogueSource
from headgate.testing import CATALOGUE, SECRETS, CatalogueCase, Check
from headgate_controllers.catalogues.folder import FolderCatalogue
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.secrets.file import FileSecrets
from headgate_kit.catalogue import open_catalogue


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


def opened(kind: str, url: str, folder: Path, **more: str) -> Catalogue:
    """As the controller and a build open it: by entry point."""
    return open_catalogue("ours", CatalogueSource(kind, url, **more), folder)


def trust(folder: Path, host: str, values: dict[str, str]) -> None:
    """Puts credentials where they are looked for."""
    for key, value in values.items():
        (folder / f"{host.replace(':', '_')}.{key}").write_text(f"{value}\n")


@pytest.mark.parametrize("check", CATALOGUE, ids=str)
def test_models_in_a_folder_of_the_machine(check: Check[CatalogueCase], tmp_path: Path) -> None:
    for version in ("9", "10"):
        (tmp_path / "models/churn" / version / "weights").mkdir(parents=True)
        (tmp_path / "models/churn" / version / "weights/model.pkl").write_text(version)
    (tmp_path / "into").mkdir()
    catalogue = opened("folder", str(tmp_path / "models"), tmp_path)
    check(CatalogueCase(catalogue, "churn", "10", tmp_path / "into"))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3server.S3Server]:
    pytest.importorskip("obstore", reason="pip install 'headgate[s3]'")
    if not s3server.PROGRAM:
        pytest.skip(s3server.MISSING)
    with s3server.running(tmp_path_factory.mktemp("s3")) as server:
        for version in ("9", "10"):
            server.put(f"team/churn/{version}/weights/model.pkl", version.encode())
        yield server


@pytest.mark.parametrize("check", CATALOGUE, ids=str)
def test_models_in_an_s3_store(check: Check[CatalogueCase], bucket: s3server.S3Server, tmp_path: Path) -> None:
    trust(tmp_path, bucket.url.removeprefix("http://"), {"access-key-id": "reader", "secret-access-key": "reads"})
    (tmp_path / "into").mkdir()
    catalogue = opened("s3", f"s3://{s3server.BUCKET}/team", tmp_path, endpoint=bucket.url)
    check(CatalogueCase(catalogue, "churn", "10", tmp_path / "into"))


@pytest.fixture(scope="module")
def registry() -> Iterator[registryserver.Registry]:
    with registryserver.running(auth="basic") as server:
        for version in ("9", "10"):
            server.push_artefact("team/churn", version, [("model.pkl", "application/octet-stream", version.encode())])
        yield server


@pytest.mark.parametrize("check", CATALOGUE, ids=str)
def test_models_in_a_registry(check: Check[CatalogueCase], registry: registryserver.Registry, tmp_path: Path) -> None:
    trust(tmp_path, registry.host, {"username": registryserver.USER, "password": registryserver.PASSWORD})
    (tmp_path / "into").mkdir()
    catalogue = opened("oci", f"oci+http://{registry.host}/team", tmp_path)
    check(CatalogueCase(catalogue, "churn", "10", tmp_path / "into"))


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not mlflowserver.PROGRAM:
        pytest.skip(mlflowserver.MISSING)
    with mlflowserver.running(tmp_path_factory.mktemp("mlflow")) as url:
        for version in range(1, 11):
            files = {"MLmodel": b"flavors: {}", "data/weights/model.pkl": str(version).encode()}
            mlflowserver.register(url, "churn", version, files)
        mlflowserver.alias(url, "churn", "prod", 9)
        yield url


@pytest.mark.parametrize("check", CATALOGUE, ids=str)
def test_models_in_an_mlflow_registry(check: Check[CatalogueCase], mlflow: str, tmp_path: Path) -> None:
    check(CatalogueCase(opened("mlflow", mlflow, tmp_path), "churn", "10", tmp_path))


def test_an_alias_of_mlflow_is_a_label(mlflow: str, tmp_path: Path) -> None:
    catalogue = opened("mlflow", mlflow, tmp_path)
    pin = catalogue.pin("azureml:churn@prod")
    assert pin.version == "9"
    catalogue.fetch(pin, tmp_path)
    assert (tmp_path / "data/weights/model.pkl").read_bytes() == b"9"

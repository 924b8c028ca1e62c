"""Catalogues outside the repo: what a store may not do to us, and what a pin holds fast."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import registryserver
from headgate.findings import SpecError, TerminalError, TransientError
from headgate.process import CatalogueSource
from headgate.target import ModelPin, catalogue_of
from headgate_controllers.catalogues import shelf
from headgate_controllers.catalogues.oci import Artefacts
from headgate_controllers.catalogues.shelf import Item, Shelf
from headgate_controllers.catalogues.volume import Volume
from headgate_kit import catalogue


class Listed:
    """A store that lists what it is told to."""

    where = "a store"

    def __init__(self, *paths: str, size: int = 1) -> None:
        self._items = [Item(path, size, "a") for path in paths]
        self.copied: list[str] = []

    def names(self) -> Sequence[str]:
        return ["churn"]

    def versions(self, name: str) -> set[str]:
        return {"1", "..", ".hidden"} if name == "churn" else set()

    def labels(self, name: str) -> Mapping[str, str]:
        return {"evil": ".."}

    def items(self, name: str, version: str) -> Sequence[Item]:
        return self._items

    def copy(self, name: str, version: str, item: Item, into: Path) -> None:
        self.copied.append(item.path)


@pytest.mark.parametrize(
    "paths",
    [
        ("../out",),
        ("/etc/passwd",),
        ("a/../../out",),
        ("a//b",),
        ("./a",),
        ("a\\b",),
        ("a\0b",),
        ("a\nb",),
        ("/".join("a" * 40),),
        ("a" * 2_000,),
        ("a", "a/b"),
        (),
    ],
    ids=lambda paths: (paths[0] if paths else "none")[:12].replace("\0", "nul").replace("\n", "newline"),
)
def test_a_listing_that_leads_out_of_its_folder_is_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(LookupError, match=r"cannot be used|has no files"):
        Shelf("ours", Listed(*paths)).pin("azureml:churn:1")


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupError, match="GB, more than"):
        Shelf("ours", Listed("a", "b", size=300 << 30)).pin("azureml:churn:1")
    monkeypatch.setattr(shelf, "MAX_FILES", 1)
    with pytest.raises(LookupError, match="2 files, more than 1"):
        Shelf("ours", Listed("a", "b")).pin("azureml:churn:1")


@pytest.mark.parametrize("ref", ["azureml:churn:..", "azureml:churn@evil", "azureml:churn:.hidden"])
def test_a_version_that_is_no_folder_s_name_is_none(ref: str) -> None:
    with pytest.raises(LookupError, match="there: 1"):
        Shelf("ours", Listed("a")).pin(ref)


def written(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_a_version_written_anew_is_another_one(tmp_path: Path) -> None:
    root = written(tmp_path / "models", {"churn/1/m.pkl": "old", "churn/labels.yml": "prod: 1\n"})
    ours = Shelf("ours", Volume(root))
    pin = ours.pin("azureml:churn@prod")
    assert (pin.name, pin.version, pin.source, catalogue_of(pin)) == ("churn", "1", None, "ours")
    (root / "churn/1/m.pkl").write_text("new")
    os.utime(root / "churn/1/m.pkl", ns=(1, 1))
    (tmp_path / "into").mkdir()
    with pytest.raises(LookupError, match="not what it was when it was pinned"):
        ours.fetch(pin, tmp_path / "into")
    assert not list((tmp_path / "into").iterdir())


def test_a_volume_s_links_are_not_followed(tmp_path: Path) -> None:
    root = written(tmp_path / "models", {"churn/1/m.pkl": "m"})
    (root / "churn/1/out").symlink_to("/etc/passwd")
    with pytest.raises(LookupError, match="is a link"):
        Shelf("ours", Volume(root)).pin("azureml:churn:1")
    (root / "outside").symlink_to("/etc")
    with pytest.raises(LookupError, match="no model outside; there: churn"):
        Shelf("ours", Volume(root)).pin("azureml:outside:1")


def test_a_volume_that_is_away_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot be read"):
        Shelf("ours", Volume(tmp_path / "gone")).pin("azureml:churn:1")


# --- opened by name ---------------------------------------------------------------------------------------------------


def test_credentials_go_to_the_host_they_are_for(tmp_path: Path) -> None:
    (tmp_path / "mlflow.example_5000.token").write_text("secret\n")
    trusted = CatalogueSource("mlflow", "https://MLflow.example:5000/")
    assert catalogue.credentials(trusted, tmp_path) == {"token": "secret"}
    for url in (
        "https://elsewhere.example:5000/",
        "https://mlflow.example/",
        "https://mlflow.example:5000.evil.example/",
    ):
        assert catalogue.credentials(CatalogueSource("mlflow", url), tmp_path) == {}
    amazon = CatalogueSource("s3", "s3://mlflow.example_5000/models")
    assert catalogue.credentials(amazon, tmp_path) == {}, "a bucket's name is no host"


def test_a_credential_that_cannot_be_read_is_named_but_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "a.example.token").write_bytes(b"\xff\xfesecret")
    with pytest.raises(TerminalError) as caught:
        catalogue.credentials(CatalogueSource("mlflow", "https://a.example"), tmp_path)
    assert "a.example.token" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (CatalogueSource("ftp", "ftp://a.example"), "installed are: .*folder.*oci.*s3"),
        (CatalogueSource("folder", "https://a.example/models"), "absolute path"),
        (CatalogueSource("folder", "models"), "absolute path"),
        (CatalogueSource("oci", "https://a.example/models"), "oci://HOST/FOLDER"),
    ],
    ids=["kind", "folder-url", "relative", "oci-url"],
)
def test_a_catalogue_that_cannot_be_used_says_why(source: CatalogueSource, says: str, tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match=says):
        catalogue.open_catalogue("ours", source, tmp_path)


def test_a_fetch_leaves_the_model_whole_or_nothing(tmp_path: Path) -> None:
    root = written(tmp_path / "models", {"churn/1/a/m.pkl": "m", "churn/1/z.txt": "z"})
    sources = {"ours": CatalogueSource("folder", str(root))}
    pin = catalogue.open_catalogue("ours", sources["ours"], tmp_path).pin("azureml:churn:1")
    into = tmp_path / "kept/churn"
    catalogue.fetch(pin, sources, into, tmp_path)
    assert {p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file()} == {"a/m.pkl", "z.txt"}
    os.utime(root / "churn/1/z.txt", ns=(1, 1))
    with pytest.raises(SpecError, match="model-changed"):
        catalogue.fetch(pin, sources, tmp_path / "kept/again", tmp_path)
    with pytest.raises(SpecError, match="no catalogue `ours` any more"):
        catalogue.fetch(pin, {}, tmp_path / "kept/again", tmp_path)
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["churn"]


# --- artefacts of a registry ------------------------------------------------------------------------------------------


def test_a_folder_in_an_artefact_stays_in_its_folder(tmp_path: Path) -> None:
    def tar(*members: str) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name in members:
                info = tarfile.TarInfo(name)
                info.size = 1
                archive.addfile(info, io.BytesIO(b"x"))
        return out.getvalue()

    with registryserver.running() as server:
        for tag, content in {"1": tar("model/m.pkl"), "2": tar("model/m.pkl", "../out"), "3": b"no archive"}.items():
            server.push_artefact("team/churn", tag, [("", "application/vnd.oci.image.layer.v1.tar+gzip", content)])
        ours = Shelf("ours", Artefacts(CatalogueSource("oci", f"oci+http://{server.host}/team"), {}))
        (tmp_path / "into").mkdir()
        ours.fetch(ours.pin("azureml:churn:1"), tmp_path / "into")
        assert (tmp_path / "into/model/m.pkl").read_bytes() == b"x"
        for version in ("2", "3"):
            with pytest.raises(LookupError, match="cannot be unpacked"):
                ours.fetch(ours.pin(f"azureml:churn:{version}"), tmp_path / "into")
        assert not (tmp_path / "out").exists()


def test_a_file_in_an_artefact_stays_in_its_folder() -> None:
    with registryserver.running() as server:
        server.push_artefact("churn", "1", [("../../out", "application/octet-stream", b"x")])
        ours = Shelf("ours", Artefacts(CatalogueSource("oci", f"oci+http://{server.host}"), {}))
        with pytest.raises(LookupError, match="leads out of its folder"):
            ours.pin("azureml:churn:1")


def test_a_pin_of_another_catalogue_is_not_fetched(tmp_path: Path) -> None:
    pin = ModelPin("churn", "1", None, ".catalogue/theirs/churn/1", "d")
    with pytest.raises(LookupError, match="not from the catalogue ours"):
        Shelf("ours", Listed("a")).fetch(pin, tmp_path)

"""Resolving by the commit's own settings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from headgate.assets import NotAsked
from headgate.findings import TransientError
from headgate.process import CatalogueSource, Settings
from headgate.target import ModelPin, external
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.resolve import Outsiders, reader


def commit_of(repo: EndpointsRepo, base: str, files: dict[str, bytes]) -> str:
    return repo.commit_files(base, dict(files), "m", at=0.0)


@pytest.fixture
def repo(tmp_path: Path) -> EndpointsRepo:
    """A mirror with one empty commit; no origin is needed to resolve."""
    return EndpointsRepo(tmp_path / "nowhere", tmp_path / "mirror.git")


def first_commit(repo: EndpointsRepo) -> str:
    tree = repo._git.run("mktree", stdin=b"").decode().strip()
    who = {f"GIT_{role}_{field}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    return repo._git.run("commit-tree", tree, "-m", "start", environment=who).decode().strip()


def test_an_earlier_tree_resolves_as_it_did(repo: EndpointsRepo) -> None:
    settings = Settings(catalogue="models")
    early = commit_of(repo, first_commit(repo), {"models/churn/1/m": b"1"})
    late = commit_of(repo, early, {"models/churn/2/m": b"2"})
    before = reader(repo.tree(early), settings)("azureml:churn@latest", "blue.yml@1")
    assert before.version == "1"
    assert reader(repo.tree(late), settings)("azureml:churn@latest", "blue.yml@1").version == "2"
    assert reader(repo.tree(early), settings)("azureml:churn@latest", "blue.yml@1") == before
    repo.close()


def test_without_a_catalogue_the_author_is_told_how_to_name_one(repo: EndpointsRepo) -> None:
    pin = reader(repo.tree(first_commit(repo)), Settings())
    with pytest.raises(LookupError, match="catalogue: FOLDER"):
        pin("azureml:churn:1", "blue.yml@1")
    repo.close()


# --- catalogues outside the repo --------------------------------------------------------------------------------------

S3 = CatalogueSource("s3", "s3://models")
OCI = CatalogueSource("oci", "oci://registry.example/models")


class Catalogues:
    """Stands where adapters are opened: what each catalogue has, and whether it answers."""

    def __init__(self, **versions: list[str]) -> None:
        self.versions = versions
        self.asked: list[str] = []
        self.away: set[str] = set()
        self.hold = threading.Event()
        self.held = False

    def __call__(self, name: str, source: CatalogueSource, credentials: Path) -> Catalogues.One:
        return Catalogues.One(self, name)

    class One:
        def __init__(self, all_: Catalogues, name: str) -> None:
            self.all, self.name = all_, name

        def pin(self, ref: str) -> ModelPin:
            self.all.asked.append(f"{self.name} {ref}")
            if self.all.held:
                self.all.hold.wait(30)
            if self.name in self.all.away:
                raise TransientError(f"{self.name} is away")
            known = self.all.versions[self.name]
            version = known[-1] if ref.endswith("@latest") else ref.rpartition(":")[2]
            if version not in known:
                raise LookupError(f"{self.name} has {', '.join(known)}")
            return ModelPin("churn", version, None, external(self.name, "churn", version), "d")


class Remembers(dict[str, str]):
    def meta_get(self, key: str) -> str | None:
        return self.get(key)

    def meta_set(self, key: str, value: str) -> None:
        self[key] = value


@pytest.fixture
def outsiders(tmp_path: Path) -> Iterator[Callable[..., Outsiders]]:
    made: list[Outsiders] = []

    def make(catalogues: Catalogues, memory: Remembers | None = None, patience_s: float = 30.0) -> Outsiders:
        made.append(Outsiders(Remembers() if memory is None else memory, tmp_path, catalogues, patience_s))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_label_moves_for_a_file_that_changed_and_for_no_other(outsiders: Callable[..., Outsiders]) -> None:
    catalogues, memory = Catalogues(lake=["1"]), Remembers()
    pin = outsiders(catalogues, memory)
    assert pin("azureml:churn@latest", "blue.yml@aa", {"lake": S3}).version == "1"
    catalogues.versions["lake"].append("2")
    again = outsiders(catalogues, memory)  # after a restart
    assert again("azureml:churn@latest", "blue.yml@aa", {"lake": S3}).version == "1"
    assert again("azureml:churn@latest", "blue.yml@bb", {"lake": S3}).version == "2"
    assert again("azureml:churn@latest", "blue.yml@aa", {"lake": S3}).version == "1", "a revert brings it back"
    assert len(catalogues.asked) == 2


def test_catalogues_are_asked_in_their_order_and_each_says_what_it_has(outsiders: Callable[..., Outsiders]) -> None:
    catalogues = Catalogues(lake=["1"], registry=["1", "2"])
    pin = outsiders(catalogues)
    both = {"lake": S3, "registry": OCI}
    assert pin("azureml:churn:1", "a", both).catalogue == ".catalogue/lake/churn/1"
    assert pin("azureml:churn:2", "a", both).catalogue == ".catalogue/registry/churn/2"
    with pytest.raises(LookupError, match="lake has 1; registry has 1, 2"):
        pin("azureml:churn:3", "a", both)


def test_a_catalogue_that_is_away_is_not_passed_over(outsiders: Callable[..., Outsiders]) -> None:
    catalogues = Catalogues(lake=["1"], registry=["1"])
    catalogues.away = {"lake"}
    pin = outsiders(catalogues)
    with pytest.raises(TransientError, match="lake is away"):
        pin("azureml:churn:1", "a", {"lake": S3, "registry": OCI})
    with pytest.raises(TransientError, match="a moment ago"):
        pin("azureml:churn:1", "b", {"lake": S3})
    assert catalogues.asked == ["lake azureml:churn:1"]


def test_an_answer_that_comes_late_is_there_at_the_next_look(outsiders: Callable[..., Outsiders]) -> None:
    catalogues = Catalogues(lake=["1"])
    catalogues.held = True
    pin = outsiders(catalogues, patience_s=0.0)
    with pytest.raises(TransientError, match="did not answer within"):
        pin("azureml:churn:1", "a", {"lake": S3})
    catalogues.hold.set()
    (running,) = pin._running.values()
    assert running.result(30).version == "1"
    assert pin("azureml:churn:1", "a", {"lake": S3}).version == "1"
    assert catalogues.asked == ["lake azureml:churn:1"]


def test_an_azure_registry_s_name_is_the_catalogue_s(repo: EndpointsRepo) -> None:
    asked = []

    def outside(ref: str, asked_in: str, catalogues: Mapping[str, CatalogueSource]) -> ModelPin:
        asked.append((ref, list(catalogues)))
        return ModelPin("churn", "1", None)

    both = {"lake": S3, "acme": OCI}
    tree = repo.tree(commit_of(repo, first_commit(repo), {"models/churn/1/m": b"1"}))
    pin = reader(tree, Settings(catalogue="models", catalogues=both), outside)
    pin("azureml://registries/acme/models/churn/versions/3", "a")
    pin("azureml://registries/acme/models/churn/labels/prod", "a")
    assert pin("azureml:churn:1", "a").source is not None, "the repo's own folder comes first"
    pin("azureml:churn:2", "a")
    assert asked == [
        ("azureml:churn:3", ["acme"]),
        ("azureml:churn@prod", ["acme"]),
        ("azureml:churn:2", ["lake", "acme"]),
    ]
    with pytest.raises(NotAsked):
        reader(tree, Settings(catalogues=both))("azureml:churn:1", "a")
    repo.close()

"""Resolving by the commit's own settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.process import Settings
from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.resolve import reader


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
    before = reader(repo.tree(early), settings)("azureml:churn@latest")
    assert before.version == "1"
    assert reader(repo.tree(late), settings)("azureml:churn@latest").version == "2"
    assert reader(repo.tree(early), settings)("azureml:churn@latest") == before
    repo.close()


def test_without_a_catalogue_the_author_is_told_how_to_name_one(repo: EndpointsRepo) -> None:
    pin = reader(repo.tree(first_commit(repo)), Settings())
    with pytest.raises(LookupError, match="catalogue: FOLDER"):
        pin("azureml:churn:1")
    repo.close()

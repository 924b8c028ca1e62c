"""What the demo commits is what a user would: Azure ML YAML that is read without a finding, and reverted by git."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate import reading
from headgate.target import Target
from headgate_console.demo import models
from headgate_console.demo.workdir import ENDPOINT, GitError, WorkTree
from headgate_console.init import create
from headgate_controllers.repo import EndpointsRepo


@pytest.fixture
def tree(tmp_path: Path) -> WorkTree:
    create(tmp_path / "endpoints", bare_origin=True)
    return WorkTree(tmp_path / "endpoints")


def read(tree: WorkTree, folder: Path) -> Target:
    repo = EndpointsRepo(tree.origin, folder / "mirror.git", "main")
    try:
        repo.fetch()
        commit = repo.tree(repo.head())
        settings, _ = reading.read_settings(commit)
        found = reading.read_endpoint(commit, ENDPOINT, settings)
    finally:
        repo.close()
    assert found.findings == ()
    assert found.target is not None
    return found.target


def test_every_release_of_the_story_is_read_without_a_finding(tree: WorkTree, tmp_path: Path) -> None:
    for recipe in (models.BLUE, models.GREEN, models.WRONG, models.FLAKY, models.SLOW):
        tree.release(models.train(recipe), recipe.name)
    target = read(tree, tmp_path)
    assert set(target.deployments) == {"blue", "green", "wrong", "flaky", "slow"}
    assert target.traffic == {target.deployments["slow"].revision: 1000}
    assert len({d.source.environment.digest for d in target.deployments.values()}) == 1
    assert target.deployments["slow"].smoke_request is not None
    assert target.process.mirror.percent == 50


def test_reverting_the_better_model_asks_for_what_the_first_commit_asked(tree: WorkTree, tmp_path: Path) -> None:
    tree.release(models.train(models.BLUE), "blue")
    first = read(tree, tmp_path / "1")
    good = tree.release(models.train(models.GREEN), "green")
    assert read(tree, tmp_path / "2").digest != first.digest
    before = tree.pushed_at()
    tree.revert(good)
    assert tree.pushed_at() >= before
    assert read(tree, tmp_path / "3").digest == first.digest


def test_what_git_refuses_is_said_in_its_words(tree: WorkTree) -> None:
    with pytest.raises(GitError, match="no-such-commit"):
        tree.revert("no-such-commit")

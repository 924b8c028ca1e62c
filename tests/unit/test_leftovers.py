"""What builds left behind goes once nothing names it; what may be served again stays, however old."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.rollout import Head, Release, RevisionState
from headgate.target import DeploymentTarget, EnvironmentPin, ModelPin, SourcePath, external
from headgate.testing import deployment, target
from headgate_controllers import leftovers
from headgate_controllers.leftovers import Leftovers
from headgate_kit.catalogue import kept
from headgate_kit.layout import DataFolder
from headgate_pipelines.builders.bundle import BundleBuilder
from headgate_pipelines.builders.installer import Environments

NOW = 1_800_000_000.0
OLD, YOUNG = NOW - leftovers.AGE_S - 60, NOW - leftovers.AGE_S + 60
OTHER = deployment("other")  # names nothing that is made here


class Desk:
    def __init__(self, folder: Path) -> None:
        self.data = DataFolder(folder / "data")
        self.heads = [Head("fraud", revisions={OTHER.revision: RevisionState(OTHER, "c0ffee")})]
        self.leftovers = Leftovers(self.data, lambda: self.heads, lambda: NOW)

    def built(self, name: str, at: float = OLD) -> tuple[DeploymentTarget, Path]:
        """By the builder of this machine: it says what a bundle is called."""
        plain, none = deployment(name), EnvironmentPin("", ())
        code = SourcePath("src", name[0] * 40)
        source = replace(plain.source, model=None, code=code, environment=none, scoring_script="", variables={})
        files = self.data.root / "files"
        (files / "src").mkdir(parents=True, exist_ok=True)
        made = Path(BundleBuilder(self.data).build(source, files, self.data.root / "build.log").location)
        os.utime(made, (at, at))
        return replace(plain, source=source), made

    def fetched(self, name: str) -> tuple[DeploymentTarget, Path, Path]:
        """Its environment and its model, where they lie."""
        plain = deployment(name)
        model = ModelPin("churn", name, None, external("lake", "churn", name), digest=name * 8)
        environment = EnvironmentPin("3.11", (f"{name}==1",))
        packages = Environments(self.data.environments, {}).folder(environment)
        assert packages is not None
        for folder in (packages, kept(model, self.data.models)):
            (folder / "content").mkdir(parents=True)
            os.utime(folder, (OLD, OLD))
        source = replace(plain.source, model=model, environment=environment)
        return replace(plain, source=source), packages, kept(model, self.data.models)

    def name(self, head: Head) -> None:
        self.heads.append(head)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_nothing_names_goes_with_its_log_and_its_locks_stay(desk: Desk) -> None:
    _, bundle = desk.built("blue")
    _, packages, model = desk.fetched("green")
    text = bundle.with_suffix(".log")
    text.write_text("built")
    os.utime(text, (OLD, OLD))
    locks = sorted(desk.data.bundles.glob(".*.lock"))
    assert len(desk.leftovers.collect()) == 4
    assert not any(path.exists() for path in (bundle, text, packages, model))
    assert sorted(desk.data.bundles.iterdir()) == locks, "whoever waits for one waits for the very file"
    assert desk.leftovers.collect() == []


def test_what_is_young_may_be_of_a_build_that_nobody_heard_of(desk: Desk) -> None:
    _, bundle = desk.built("blue", YOUNG)
    assert (desk.leftovers.collect(), bundle.exists()) == ([], True)


NAMED = {
    "an idle revision": lambda d: Head("e", revisions={d.revision: RevisionState(d, "c")}),
    "what git asks": lambda d: Head("e", asked=target("c", [d], {d.name: 100})),
    "a kept release": lambda d: Head("e", releases=(Release(target("c", [d], {d.name: 100}), 0.0),)),
    "a switch that waits": lambda d: Head("e", switch=target("c", [d], {d.name: 100})),
}


@pytest.mark.parametrize("by", [pytest.param(by, id=by) for by in NAMED])
def test_what_may_be_served_again_stays_however_old(desk: Desk, by: str) -> None:
    first, bundle = desk.built("blue")
    second, packages, model = desk.fetched("green")
    for one in (first, second):
        desk.name(NAMED[by](one))
    assert desk.leftovers.collect() == []
    assert all(path.is_dir() for path in (bundle, packages, model))


def test_a_record_that_knows_nothing_is_not_believed(desk: Desk) -> None:
    _, bundle = desk.built("blue")
    desk.heads.clear()
    assert (desk.leftovers.collect(), bundle.exists()) == ([], True)


def test_what_a_build_or_a_deletion_left_half_done_goes_too(desk: Desk) -> None:
    named, bundle = desk.built("blue")
    desk.name(Head("e", asked=target("c", [named], {named.name: 100})))
    killed = desk.data.bundles / f".{'0' * 32}.new-abc"
    begun = desk.data.models / f".{'1' * 32}{leftovers.GONE}"
    for folder in (killed, begun):
        folder.mkdir(parents=True)
        os.utime(folder, (OLD, OLD))
    assert sorted(desk.leftovers.collect()) == sorted([killed.name, begun.name])
    assert (killed.exists(), begun.exists(), bundle.exists()) == (False, False, True)

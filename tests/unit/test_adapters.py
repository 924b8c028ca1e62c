"""Adapters that cannot work together are refused by name before anything starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headgate.findings import FindingsError
from headgate.plugins import Loaded
from headgate_controllers.adapters import GROUPS, Adapters
from headgate_controllers.options import Options
from headgate_kit.layout import DataFolder


def installed() -> Adapters:
    there: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    there["platform"] = {"process": SimpleNamespace(), "kubernetes": SimpleNamespace(runs="image")}
    there["engine"] = {"local": SimpleNamespace(), "pods": SimpleNamespace(remote=True)}
    there["builder"] = {"bundle": SimpleNamespace(), "oci": SimpleNamespace(makes="image")}
    there["secrets"] = {"file": SimpleNamespace()}
    return Adapters({group: Loaded(found) for group, found in there.items()})


def asked(folder: Path, **changes: Any) -> Options:
    return Options(DataFolder(folder), "repo", **changes)


def refused(folder: Path, **changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(FindingsError) as caught:
        installed().check(asked(folder, **changes))
    return [(finding.code, finding.message) for finding in caught.value.findings]


def test_the_defaults_fit_each_other(tmp_path: Path) -> None:
    Adapters().check(asked(tmp_path))


@pytest.mark.parametrize("engine", ["pods"])
def test_the_adapters_of_a_cluster_fit_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setenv("HEADGATE_BUILDER", "oci")
    Adapters().check(
        asked(tmp_path, platform="kubernetes", engine=engine, secrets="file", control_url="http://us:7070")
    )


def test_an_adapter_that_is_not_installed_is_named_with_those_that_are(tmp_path: Path) -> None:
    assert refused(tmp_path, platform="nomad", engine="cron") == [
        ("no-adapter", "no engine named cron is installed; there are: local, pods"),
        ("no-adapter", "no platform named nomad is installed; there are: kubernetes, process"),
    ]


@pytest.mark.parametrize(
    ("platform", "builder"), [("kubernetes", "bundle"), ("process", "oci")], ids=["folders in pods", "images on a host"]
)
def test_a_platform_that_cannot_run_what_is_built_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, builder: str
) -> None:
    monkeypatch.setenv("HEADGATE_BUILDER", builder)
    assert [code for code, _ in refused(tmp_path, platform=platform)] == ["adapters-misfit"]


def test_ops_in_pods_need_a_url_to_ask(tmp_path: Path) -> None:
    assert [code for code, _ in refused(tmp_path, engine="pods")] == ["adapters-misfit"]
    installed().check(asked(tmp_path, engine="pods", control_url="http://headgate-controller.ml:7070"))

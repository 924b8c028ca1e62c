"""The record as custom resources, on a (small) API server that answers as a cluster does: conflicts, faults, hands."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headgate_controllers import resources
from headgate_controllers.adapters import Adapters
from headgate_controllers.api.news import News
from headgate_controllers.main import assemble
from headgate_controllers.options import Options
from headgate_controllers.resources import Resources
from headgate_kit.layout import DataFolder
from kubeserver import KubeServer, wait_for

API = "headgate.dev/v1alpha1"
Object = dict[str, Any]
FILES = {
    "endpoint.yml": "name: Fraud\nauth_mode: key\ntraffic: {blue: 100}\n",
    "deployments/blue.yml": (
        "name: blue\nmodel: {path: ../code/m.pkl}\ncode_configuration: {code: ../code, scoring_script: score.py}\n"
        "environment: {conda_file: ../code/conda.yml}\ninstance_type: small\n"
    ),
    "code/score.py": "def init(): ...\n",
    "code/m.pkl": "weights",
    "code/conda.yml": "dependencies: [python=3.11]\n",
}


class System:
    """A controller that has read one commit, and a cluster to show it on."""

    def __init__(self, folder: Path, server: KubeServer) -> None:
        self.server = server
        self.repo = folder / "repo"
        for name, text in FILES.items():
            file = self.repo / "endpoints/Fraud" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.git("init", "-q", "-b", "main")
        self.commit()
        data = DataFolder(folder / "data")
        data.prepare()
        self.parts = assemble(Options(data, str(self.repo)), Adapters(), "token", News())
        self.controller = self.parts.controller
        self.controller.commits.look()
        self.cluster = server.cluster("ml")
        self.resources = Resources(self.cluster, self.controller, lambda: bool(self.controller.commits.handled))

    def git(self, *arguments: str) -> None:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        subprocess.run(["git", "-C", str(self.repo), *who, *arguments], check=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "change")

    def start(self) -> System:
        self.resources.start()
        return self

    def endpoint(self) -> Object:
        return self.server.find("onlineendpoints", "fraud", "ml") or {}

    def shown(self) -> Object:
        """Once it has a status of its own generation."""

        def whole() -> bool:
            found = self.endpoint()
            return bool(found) and found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]

        wait_for(whole)
        return self.endpoint()

    def close(self) -> None:
        self.resources.close()
        self.cluster.close()
        for part in (self.parts.acts, self.parts.engine, self.parts.platform, self.parts.repo, self.parts.record):
            part.close()


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as made:
        yield made


@pytest.fixture
def system(tmp_path: Path, server: KubeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    for name, seconds in (("PAUSE_S", 0.05), ("SETTLE_S", 0.01), ("DEFINITIONS_S", 0.05), ("SWEEP_S", 0.2)):
        monkeypatch.setattr(resources, name, seconds)
    made = System(tmp_path, server)
    yield made
    made.close()


def condition(found: Object, name: str) -> Object:
    return next(c for c in found["status"]["conditions"] if c["type"] == name)


def events(server: KubeServer) -> list[str]:
    return [str(event["reason"]) for event in server.all("events")]


def edit(server: KubeServer, change: Callable[[Object], None]) -> None:
    found = server.find("onlineendpoints", "fraud", "ml")
    assert found is not None
    spec = {**found["spec"], "deployments": [dict(d) for d in found["spec"]["deployments"]]}
    change(spec)
    server.put(API, "onlineendpoints", {**found, "spec": spec}, "ml")


def test_an_endpoint_is_shown_as_git_asks_for_it_and_as_it_is(system: System) -> None:
    found = system.start().shown()
    head = system.controller.heads.get("Fraud")
    assert head.asked is not None
    assert found["spec"]["commit"] == head.commit
    assert [(d["name"], d["traffic"]) for d in found["spec"]["deployments"]] == [("blue", 1000)]
    assert found["metadata"]["labels"]["headgate.dev/endpoint"] == "Fraud"
    assert found["status"]["state"] == "Progressing"
    assert condition(found, "Reconciling")["status"] == "True"
    assert condition(found, "Ready")["status"] == "False"


def test_its_rollout_is_shown_with_its_ops_and_belongs_to_it(system: System) -> None:
    owner = system.start().shown()
    active = system.controller.heads.get("Fraud").active
    assert active is not None
    wait_for(lambda: bool((system.server.find("endpointrollouts", active.id, "ml") or {}).get("status")))
    found = system.server.find("endpointrollouts", active.id, "ml")
    assert found is not None
    assert found["spec"]["ops"][0] == "build"
    assert found["status"]["state"] == "running"
    assert found["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]


def test_a_change_of_the_record_is_shown(system: System) -> None:
    system.start().shown()
    system.parts.controller.operate("Fraud", "pause", _who())
    wait_for(lambda: system.shown()["status"]["state"] == "Paused")


def test_an_edit_by_hand_is_reported_and_put_back(system: System, server: KubeServer) -> None:
    before = system.start().shown()["spec"]
    edit(server, lambda spec: spec["deployments"][0].update(traffic=0))
    wait_for(lambda: "PutBack" in events(server))
    wait_for(lambda: system.endpoint()["spec"] == before)
    drift = system.resources.drift()
    assert len(drift) == 1
    assert drift[0].startswith("Fraud: OnlineEndpoint fraud was edited")


def test_what_a_hand_added_is_taken_out(system: System, server: KubeServer) -> None:
    system.start().shown()

    def add(spec: Object) -> None:
        spec["deployments"].append({"name": "green", "revision": "r", "traffic": 0})
        spec["note"] = "mine"

    edit(server, add)
    wait_for(lambda: len(system.endpoint()["spec"]["deployments"]) == 1)
    wait_for(lambda: not system.endpoint()["spec"].get("note"))


def test_our_own_changes_are_no_drift(system: System, server: KubeServer) -> None:
    system.start().shown()
    (system.repo / "endpoints/Fraud/endpoint.yml").write_text("name: Fraud\nauth_mode: key\ntraffic: {blue: 0}\n")
    system.commit()
    system.controller.commits.look()
    wait_for(lambda: system.endpoint()["spec"]["deployments"][0]["traffic"] == 0)
    system.parts.controller.heads.change("Fraud", lambda draft: draft.say("note", "one more write"))
    system.shown()
    assert system.resources.drift() == ()
    assert "PutBack" not in events(server)


def test_a_removed_object_is_made_again(system: System, server: KubeServer) -> None:
    uid = system.start().shown()["metadata"]["uid"]
    server.drop("onlineendpoints", "fraud", "ml")
    wait_for(lambda: system.endpoint().get("metadata", {}).get("uid", uid) != uid)


def test_an_endpoint_that_git_does_not_have_is_taken_away(system: System, server: KubeServer) -> None:
    spec = {"commit": "0" * 40, "deployments": []}
    server.put(API, "onlineendpoints", {"metadata": {"name": "stranger"}, "spec": spec}, "ml")
    system.start().shown()
    wait_for(lambda: server.find("onlineendpoints", "stranger", "ml") is None)


def test_an_endpoint_whose_folder_is_gone_is_shown_without_deployments_until_it_is_gone(
    system: System, server: KubeServer
) -> None:
    assert system.start().shown()["spec"]["deployments"]
    heads = system.controller.heads
    asked = heads.get("Fraud").asked
    heads.change("Fraud", lambda draft: draft.set(asked=None, removing_since=draft.now))
    wait_for(lambda: system.endpoint()["spec"]["deployments"] == [])
    assert "digest" not in system.shown()["spec"]
    heads.change("Fraud", lambda draft: draft.set(asked=asked, removing_since=None))
    wait_for(lambda: bool(system.endpoint()["spec"]["deployments"]))


def test_nothing_is_taken_away_before_git_was_read(tmp_path: Path, server: KubeServer, system: System) -> None:
    spec = {"commit": "0" * 40, "deployments": []}
    server.put(API, "onlineendpoints", {"metadata": {"name": "old"}, "spec": spec}, "ml")
    system.resources._settled = lambda: False
    system.start().shown()
    assert server.find("onlineendpoints", "old", "ml") is not None


def test_a_status_somebody_wrote_in_between_is_written_again(system: System, server: KubeServer) -> None:
    system.start().shown()
    server.fail(409, times=3, plural="onlineendpoints", verb="patch")
    system.parts.controller.operate("Fraud", "pause", _who())
    wait_for(lambda: system.shown()["status"]["state"] == "Paused")


def test_an_api_server_that_is_away_holds_nobody_up_and_is_told_later(system: System, server: KubeServer) -> None:
    system.start().shown()
    with server.refuse():
        system.parts.controller.operate("Fraud", "pause", _who())
        assert system.controller.heads.get("Fraud").rollout is not None
    wait_for(lambda: system.shown()["status"]["state"] == "Paused")


def test_without_the_definitions_it_waits_for_them(system: System, server: KubeServer) -> None:
    server.fail(404, times=3, plural="onlineendpoints", verb="list")
    assert system.start().shown()["status"]["state"] == "Progressing"


def _who() -> Any:
    from headgate.control import OperatorAction

    return OperatorAction("ada", "a look")


def test_what_changed_does_not_wait_for_a_look_at_all(
    system: System, server: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "SWEPT_PER_S", 0.5)  # a look at all of these would take half an hour
    system.resources._rest.extend(f"endpoint-{number}" for number in range(1_000))
    system.start().shown()
    (system.repo / "endpoints/Fraud/deployments/blue.yml").write_text(
        FILES["deployments/blue.yml"].replace("small", "large")
    )
    system.commit()
    system.controller.commits.look()
    wait_for(lambda: system.endpoint()["spec"]["deployments"][0]["instanceType"] == "large")
    assert len(system.resources._rest) > 900

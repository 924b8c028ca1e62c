"""The platform of a cluster: what it writes, what it leaves alone, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import certificates
from headgate.fault import Fault
from headgate.findings import TransientError
from headgate.workload import Launch, Probe, Purpose, Replica, ReplicaState, Workload
from headgate_controllers.platforms.kubernetes import KubernetesPlatform
from headgate_controllers.platforms.kubernetes import platform as module
from headgate_controllers.platforms.kubernetes.pods import Patience
from kubenodes import Nodes, running, waiting
from kubeserver import KubeServer, wait_for

ONE = Workload("fraud", "blue", "r1", 1, Launch(("python", "-m", "front")), image="registry/model@sha256:0")
NAME = "fraud-r1"
PATIENT, SOON = Patience(), Patience(image_s=0, config_s=0, node_s=0, refused_s=0)


@dataclass
class Desk:
    server: KubeServer
    nodes: Nodes
    platform: KubernetesPlatform
    woken: list[str] = field(default_factory=list)

    def seen(self) -> list[Replica]:
        return list(self.platform.observe("fraud"))

    def wait(self, condition: Callable[[list[Replica]], bool]) -> list[Replica]:
        wait_for(lambda: condition(self.seen()))
        return self.seen()

    def ready(self, count: int = 1) -> list[Replica]:
        return self.wait(lambda found: [r.state for r in found] == [ReplicaState.READY] * count)

    def settled(self) -> None:
        """Until everything of the revision is written."""
        wait_for(lambda: "headgate.dev/beside" in str(self.server.find("deployments", NAME, "ns")))

    def spec(self) -> dict[str, object]:
        found = self.server.find("deployments", NAME, "ns")
        assert found is not None
        return dict(found["spec"])

    def writes(self) -> list[tuple[str, str]]:
        return [(a.verb, a.plural) for a in self.server.requests if a.verb in ("create", "patch", "update", "delete")]


def opened(server: KubeServer, patience: Patience = PATIENT, **environ: str) -> KubernetesPlatform:
    platform = KubernetesPlatform(cluster=server.cluster("ns"), patience=patience, environ=environ)
    platform.start()
    return platform


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as running_server:
        yield running_server


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(module, "DRIFT_S", 0.05)
    with KubeServer() as server, Nodes(server, "ns") as nodes:
        platform = opened(server, SOON)
        yield Desk(server, nodes, platform)
        platform.close()


def test_a_revision_has_all_that_belongs_to_it_and_loses_it_with_its_end(desk: Desk) -> None:
    desk.platform.apply(replace(ONE, replicas=2))
    desk.ready(2)
    names = {"deployments": NAME, "services": NAME, "poddisruptionbudgets": NAME, "networkpolicies": NAME,
             "serviceaccounts": "fraud-replicas"}  # fmt: skip
    wait_for(lambda: all(desk.server.find(plural, name, "ns") for plural, name in names.items()))
    desk.platform.remove("fraud", "r1")
    assert desk.seen() == []
    wait_for(lambda: not any(desk.server.find(plural, name, "ns") for plural, name in names.items()))


def test_of_revisions_that_are_gone_nothing_is_held(desk: Desk) -> None:
    for revision in ("r1", "r2", "r3"):
        desk.platform.apply(replace(ONE, revision=revision))
        desk.ready()
        desk.platform.remove("fraud", revision)
        wait_for(lambda: not desk.server.all("deployments") and not desk.server.all("pods"))
        assert desk.seen() == []

    def held() -> dict[str, object]:
        found = {**vars(desk.platform), **{f"beside{n}": v for n, v in vars(desk.platform._beside).items()}}
        return {name: value for name, value in found.items() if isinstance(value, dict | set) and value}

    wait_for(lambda: held() == {})


def test_a_smoke_replica_has_no_service(desk: Desk) -> None:
    desk.platform.apply(replace(ONE, purpose=Purpose.SMOKE))
    desk.ready()
    wait_for(lambda: desk.server.find("networkpolicies", f"{NAME}-smoke", "ns") is not None)
    assert desk.server.all("services") == []


def test_a_budget_comes_with_the_second_replica_and_goes_with_it(desk: Desk) -> None:
    for count in (1, 2, 1):
        desk.platform.apply(replace(ONE, replicas=count))
        desk.ready(count)
        wait_for(lambda n=count: (desk.server.find("poddisruptionbudgets", NAME, "ns") is not None) == (n > 1))


def test_observing_costs_no_request(desk: Desk) -> None:
    desk.platform.apply(ONE)
    desk.ready()
    desk.settled()
    before = len(desk.server.requests)
    for _ in range(100):
        desk.seen()
    assert len(desk.server.requests) == before


def test_a_later_version_that_launches_otherwise_changes_no_pod(desk: Desk) -> None:
    desk.platform.apply(ONE)
    (before,) = desk.ready()
    desk.platform.close()
    spec = desk.spec()
    later = opened(desk.server)
    later.apply(replace(ONE, launch=Launch(("python3.14", "-m", "another.front"), {"NEW": "1"})))
    wait_for(lambda: later.observe("fraud") == [before])
    later.apply(replace(ONE, replicas=2, launch=Launch(("python3.14",))))
    wait_for(lambda: [r.state for r in later.observe("fraud")] == [ReplicaState.READY] * 2)
    assert before in later.observe("fraud")
    assert desk.spec() == {**spec, "replicas": 2}
    later.close()


def test_applying_the_same_again_writes_nothing(desk: Desk) -> None:
    desk.platform.apply(ONE)
    desk.ready()
    desk.settled()
    before = desk.writes()
    for _ in range(3):
        desk.platform.apply(ONE)
    reads = len(desk.server.requests)
    desk.platform.apply(ONE)
    wait_for(lambda: len(desk.server.requests) > reads)
    assert desk.writes() == before


def test_a_restarted_controller_that_finds_it_so_writes_nothing(desk: Desk) -> None:
    desk.platform.apply(ONE)
    (before,) = desk.ready()
    desk.settled()
    desk.platform.close()
    writes = desk.writes()
    later = opened(desk.server)
    later.apply(ONE)
    later.close()  # does first what is due
    assert list(later.observe("fraud")) == [before]
    assert desk.writes() == writes
    later = opened(desk.server)
    later.apply(replace(ONE, replicas=2))
    wait_for(lambda: desk.spec()["replicas"] == 2)
    later.close()


def test_a_replica_is_ready_when_routers_find_it(desk: Desk) -> None:
    desk.server.denied.add(("patch", "services"))
    desk.platform.apply(ONE)
    (found,) = desk.wait(lambda r: "routers do not see it yet" in r[0].message)
    assert found.state is ReplicaState.STARTING
    desk.server.denied.clear()
    desk.ready()


def test_a_service_that_somebody_deletes_is_put_back(desk: Desk) -> None:
    desk.platform.apply(ONE)
    desk.ready()
    desk.settled()
    desk.server.drop("services", NAME, "ns")
    desk.wait(lambda r: r[0].state is ReplicaState.STARTING)
    desk.ready()


def test_a_changed_probe_changes_the_template(desk: Desk) -> None:
    desk.platform.apply(ONE)
    desk.ready()
    changed = replace(ONE, readiness=replace(ONE.readiness, timeout_s=9))
    desk.platform.apply(changed)
    wait_for(lambda: "'timeoutSeconds': 9" in str(desk.spec()))


def test_what_somebody_changes_by_hand_is_put_back(desk: Desk) -> None:
    desk.platform.apply(ONE)
    desk.ready()
    wait_for(lambda: desk.server.find("services", NAME, "ns") is not None)
    spec = desk.spec()
    other = desk.server.cluster("ns")
    other.patch(module.DEPLOYMENT, NAME, {"spec": {"replicas": 5}})
    wait_for(lambda: desk.spec() == spec)
    other.patch(module.DEPLOYMENT, NAME, {"spec": {"template": {"spec": {"hostNetwork": True, "containers": []}}}})
    wait_for(lambda: "registry/model" in str(desk.spec()))
    other.delete(module.DEPLOYMENT, NAME)
    wait_for(lambda: desk.server.find("deployments", NAME, "ns") is not None)
    desk.ready()
    other.close()


def test_a_pod_that_is_lost_is_replaced_at_its_index(desk: Desk) -> None:
    desk.platform.apply(replace(ONE, replicas=2))
    first, second = desk.ready(2)
    desk.server.drop("pods", first.logs["inference-server"], "ns")
    found = desk.wait(lambda r: len(r) == 2 and second in r and first not in r and r[0].state == "ready")
    assert [r.index for r in found] == [0, 1]


def test_pods_of_a_controller_before_us_are_seen_and_can_be_ended(desk: Desk) -> None:
    desk.platform.apply(ONE)
    before = desk.ready()
    desk.platform.close()
    later = opened(desk.server)
    assert list(later.observe("fraud")) == before
    later.remove("fraud", "r1")
    assert list(later.observe("fraud")) == []
    wait_for(lambda: desk.server.find("deployments", NAME, "ns") is None)
    later.close()


def test_a_cluster_that_was_never_seen_is_not_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_S", 0.05)
    with KubeServer() as server:
        server.fail(500, 1000)
        platform = opened(server)
        with pytest.raises(TransientError, match="not seen yet"):
            platform.observe("fraud")
        platform.close()


def test_an_api_server_that_is_away_costs_nothing_but_time(desk: Desk) -> None:
    desk.platform.apply(ONE)
    before = desk.ready()
    with desk.server.refuse():
        desk.platform.apply(replace(ONE, replicas=2))
        found = desk.wait(lambda r: len(r) == 2 and "does not answer" in r[1].message)
        assert found[0] == before[0]
        assert found[1].state is ReplicaState.STARTING, "nobody is given up because of it"
    desk.ready(2)


def test_what_the_cluster_refuses_is_given_up_with_its_words_and_tried_again(desk: Desk) -> None:
    desk.server.denied.add(("patch", "deployments"))
    desk.platform.apply(ONE)
    (refused,) = desk.wait(lambda r: r[0].state is ReplicaState.FAILED)
    assert ("forbidden" in refused.message, refused.fault) == (True, Fault.RIGHTS)
    desk.server.denied.clear()
    desk.ready()


def test_a_quota_is_said_in_the_clusters_words(desk: Desk) -> None:
    desk.nodes.refusal = 'pods "x" is forbidden: exceeded quota: team, requested: requests.nvidia.com/gpu=1'
    desk.platform.apply(replace(ONE, replicas=2))
    found = desk.wait(lambda r: all(x.state is ReplicaState.FAILED for x in r))
    assert [r.index for r in found] == [0, 1]
    assert all("exceeded quota: team" in r.message and r.fault is None for r in found)
    desk.nodes.refusal = ""
    desk.ready(2)


def test_a_replica_that_was_ready_is_not_given_up_for_an_image_that_is_gone(desk: Desk) -> None:
    desk.platform.apply(ONE)
    desk.ready()
    desk.nodes.say(NAME, waiting("ImagePullBackOff", "gone"))
    found = desk.wait(lambda r: "cannot be pulled" in r[0].message)
    assert found[0].state is ReplicaState.STARTING


def test_an_evicted_pod_is_no_replica_but_says_why_there_is_none(desk: Desk) -> None:
    desk.platform.apply(ONE)
    (first,) = desk.ready()
    name = first.logs["inference-server"]
    desk.nodes.refusal = ""
    desk.nodes.say(name, {"phase": "Failed", "reason": "Evicted", "message": "low on memory"})
    found = desk.wait(lambda r: len(r) == 1 and r[0].logs.get("inference-server") not in (name, None))
    assert found[0].index == 0


def test_a_folder_is_no_image(desk: Desk) -> None:
    desk.platform.apply(replace(ONE, image=""))
    (found,) = desk.wait(lambda r: len(r) == 1)
    assert (found.state, found.fault, "`oci`" in found.message) == (ReplicaState.FAILED, Fault.BUILDER, True)
    assert desk.server.all("deployments") == []


def test_its_endpoint_is_woken_when_a_pod_changes() -> None:
    woken: list[str] = []
    with KubeServer() as server, Nodes(server, "ns") as nodes:
        platform = KubernetesPlatform(on_change=woken.append, cluster=server.cluster("ns"))
        platform.start()
        platform.apply(ONE)
        wait_for(lambda: [r.state for r in platform.observe("fraud")] == [ReplicaState.READY])
        woken.clear()
        nodes.say(NAME, running(ready=False))
        wait_for(lambda: "fraud" in woken)
        platform.close()


def test_images_are_pulled_with_the_secret_the_installation_names(desk: Desk) -> None:
    platform = opened(desk.server, HEADGATE_IMAGE_PULL_SECRET="registry")
    platform.apply(ONE)
    wait_for(lambda: "'imagePullSecrets': [{'name': 'registry'}]" in str(desk.server.all("serviceaccounts")))
    platform.close()


def test_routers_are_told_which_service_to_follow(desk: Desk) -> None:
    assert desk.platform.service("Fraud", "r1") == "k8s:ns/fraud-r1:8080"


def test_a_log_is_the_containers(desk: Desk) -> None:
    desk.platform.apply(ONE)
    (replica,) = desk.ready()
    desk.server.logs[("ns", replica.logs["inference-server"])] = b"one\ntwo\n"
    assert b"".join(desk.platform.logs(replica)) == b"one\ntwo\n"
    assert b"".join(desk.platform.logs(replica, kind="storage-initializer")) == b""


def test_tls_is_for_new_revisions_and_each_keeps_what_it_was_made_with(desk: Desk) -> None:
    """Also when it is rendered again: for a changed probe, by a controller that was told otherwise."""
    desk.platform.apply(ONE)
    desk.ready()
    desk.settled()
    desk.platform.close()
    later = opened(desk.server, HEADGATE_MODELS_TLS_SECRET="models-server")
    new = replace(ONE, revision="r2")
    changed = replace(ONE, readiness=Probe(period_s=7))
    later.apply(changed)
    later.apply(new)
    wait_for(lambda: {r.address.partition(":")[0] for r in later.observe("fraud")} == {"http", "https"})

    def protocol(name: str) -> object:
        service = desk.server.find("services", name, "ns")
        return service and service["spec"]["ports"][0].get("appProtocol")

    wait_for(lambda: protocol("fraud-r2") == "https")
    assert protocol(NAME) is None
    wait_for(lambda: "210" in str(desk.spec()))  # the changed probe: 7 s, 30 times
    assert "models-server" not in str(desk.spec())
    later.close()
    last = opened(desk.server)
    last.apply(replace(new, readiness=Probe(period_s=7)))
    wait_for(lambda: "210" in str(desk.server.find("deployments", "fraud-r2", "ns")))
    assert "models-server" in str(desk.server.find("deployments", "fraud-r2", "ns"))
    assert protocol("fraud-r2") == "https"
    last.close()


def test_a_controller_that_could_not_meet_such_replicas_says_so(server: KubeServer, tmp_path: Path) -> None:
    def said(**environ: str) -> list[str]:
        platform = opened(server, **environ)
        found = [f"{finding.code}: {finding.message}" for finding in platform.findings()]
        platform.close()
        return found

    secret = {"HEADGATE_MODELS_TLS_SECRET": "models-server"}
    assert said() == []
    (nothing,) = said(**secret)
    assert nothing.startswith("models-tls: replicas ask for mutual TLS (Secret models-server)")
    (empty,) = said(**secret, HEADGATE_MODELS_TLS=str(tmp_path))
    assert empty == f"models-tls: {tmp_path} has no tls.crt, tls.key, ca.crt"
    certificates.Authority("us").issue(tmp_path, certificates.CLIENT)
    assert said(**secret, HEADGATE_MODELS_TLS=str(tmp_path)) == []

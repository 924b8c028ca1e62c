"""An autoscaler beside a revision: who decides on replicas, and who leaves them alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from headgate.workload import Launch, Load, Probe, ReplicaState, Scaling, Workload
from headgate_controllers.platforms.kubernetes import KubernetesPlatform
from headgate_controllers.platforms.kubernetes import platform as module
from headgate_kit.kube.kinds import AUTOSCALER, DEPLOYMENT, SCALED_OBJECT
from kubenodes import Nodes
from kubeserver import KubeServer, wait_for

FIXED = Workload("fraud", "blue", "r1", 2, Launch(("python", "-m", "front")), cpus=1.0, image="registry/model@sha256:0")
SCALED = replace(FIXED, scaling=Scaling(2, 5))
KEDA = replace(SCALED, load=Load("http://prometheus:9090", 4))
NAME = "fraud-r1"


class Desk:
    def __init__(self, server: KubeServer) -> None:
        self.server = server
        self.platform = self.opened()

    def opened(self) -> KubernetesPlatform:
        platform = KubernetesPlatform(cluster=self.server.cluster("ns"), environ={})
        platform.start()
        return platform

    def replicas(self) -> int:
        found = self.server.find("deployments", NAME, "ns")
        return int(found["spec"].get("replicas", 1)) if found else 0

    def ready(self, count: int) -> None:
        wait_for(lambda: [r.state for r in self.platform.observe("fraud")] == [ReplicaState.READY] * count)

    def autoscaled(self) -> bool:
        return self.server.find("horizontalpodautoscalers", NAME, "ns") is not None

    def by_keda(self) -> bool:
        return self.server.find("scaledobjects", NAME, "ns") is not None

    def settled(self, w: Workload) -> None:
        """Until it is written whole."""
        digest = module.render.beside_digest(w)
        wait_for(lambda: digest in str(self.server.find("deployments", NAME, "ns")))

    def apply(self, w: Workload, count: int) -> None:
        self.platform.apply(w)
        self.ready(count)
        self.settled(w)

    def scale(self, count: int) -> None:
        """As the autoscaler does it."""
        assert self.server.cluster("ns").patch(DEPLOYMENT, NAME, {"spec": {"replicas": count}}, subresource="scale")
        self.ready(count)

    def applied(self) -> list[object]:
        """What our applies of the Deployment named as replicas."""
        asked = [a for a in self.server.requests if a.content == "application/apply-patch+yaml"]
        ours = [a for a in asked if a.plural == "deployments" and a.query["fieldManager"] == "headgate"]
        return [a.body["spec"].get("replicas") for a in ours]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(module, "DRIFT_S", 0.05)
    monkeypatch.setattr(module, "REFUSED_S", 0.05)
    with KubeServer() as server, Nodes(server, "ns"):
        found = Desk(server)
        yield found
        found.platform.close()


def test_it_starts_with_as_many_as_asked_and_names_no_replicas(desk: Desk) -> None:
    desk.apply(replace(SCALED, replicas=3), 3)
    assert desk.autoscaled()
    assert desk.applied() == [None]


def test_what_the_autoscaler_decides_stays(desk: Desk) -> None:
    desk.apply(SCALED, 2)
    desk.scale(4)
    desk.apply(replace(SCALED, only_up=True), 4)
    assert desk.replicas() == 4


def test_another_ones_change_is_put_back_and_the_replicas_stay(desk: Desk) -> None:
    desk.apply(SCALED, 2)
    desk.scale(4)
    desk.server.cluster("ns").patch(DEPLOYMENT, NAME, {"spec": {"revisionHistoryLimit": 9}})
    wait_for(lambda: desk.server.find("deployments", NAME, "ns")["spec"]["revisionHistoryLimit"] == 1)  # type: ignore[index]
    desk.ready(4)
    assert desk.replicas() == 4
    assert desk.applied() == [None, None]


def test_a_restarted_controller_leaves_them_too(desk: Desk) -> None:
    desk.apply(SCALED, 2)
    desk.scale(5)
    desk.platform.close()
    writes = sum(a.verb != "get" and a.method != "GET" for a in desk.server.requests)
    desk.platform = desk.opened()
    desk.platform.apply(SCALED)
    desk.platform.close()  # does first what is due
    assert sum(a.verb != "get" and a.method != "GET" for a in desk.server.requests) == writes
    assert desk.replicas() == 5


def test_a_fixed_number_becomes_scaled_without_a_dip(desk: Desk) -> None:
    """An apply that names a field no more gives it up: nobody else holds `replicas` yet."""
    desk.apply(FIXED, 2)
    desk.apply(replace(SCALED, liveness=Probe(period_s=7)), 2)
    counts = [d["spec"].get("replicas") for d in desk.server.all("deployments")]
    assert (counts, desk.applied()) == ([2], [2, None])


def test_limits_hold_without_a_metrics_server(desk: Desk) -> None:
    desk.apply(SCALED, 2)
    for limits, count in ((Scaling(3, 5), 3), (Scaling(1, 1), 1)):
        desk.apply(replace(SCALED, scaling=limits), count)


def test_the_autoscaler_goes_with_the_setting_and_the_number_counts_again(desk: Desk) -> None:
    desk.apply(SCALED, 2)
    desk.scale(4)
    desk.apply(FIXED, 2)
    wait_for(lambda: not desk.autoscaled())
    assert desk.replicas() == 2
    desk.server.cluster("ns").patch(DEPLOYMENT, NAME, {"spec": {"replicas": 4}})
    wait_for(lambda: desk.replicas() == 2)


def test_the_autoscaler_goes_with_the_revision(desk: Desk) -> None:
    desk.apply(SCALED, 2)
    desk.platform.remove("fraud", "r1")
    wait_for(lambda: not desk.autoscaled())


def test_who_scales_is_switched_and_two_never_do_at_once(desk: Desk) -> None:
    desk.apply(SCALED, 2)
    desk.scale(4)
    for asked, keda in ((KEDA, True), (SCALED, False), (KEDA, True)):
        desk.apply(asked, 4)
        wait_for(lambda keda=keda: (desk.by_keda(), desk.autoscaled()) == (keda, not keda))  # type: ignore[misc]
    changes = [(a.verb, a.plural) for a in desk.server.requests if a.plural in ("scaledobjects", AUTOSCALER.plural)]
    assert changes == [
        ("patch", AUTOSCALER.plural),
        ("delete", AUTOSCALER.plural),
        ("patch", "scaledobjects"),
        ("delete", "scaledobjects"),
        ("patch", AUTOSCALER.plural),
        ("delete", AUTOSCALER.plural),
        ("patch", "scaledobjects"),
    ]
    desk.apply(FIXED, 2)
    wait_for(lambda: not desk.by_keda())
    assert desk.replicas() == 2


def test_a_restarted_controller_takes_away_the_scaler_of_before(desk: Desk) -> None:
    desk.apply(KEDA, 2)
    desk.platform.close()
    desk.platform = desk.opened()
    desk.apply(FIXED, 2)
    wait_for(lambda: not desk.by_keda())


def test_without_keda_replicas_run_it_is_said_and_taken_up_once_it_is_there(desk: Desk) -> None:
    desk.server.fail(404, 10_000, plural="scaledobjects")
    desk.platform.apply(KEDA)
    desk.ready(2)
    wait_for(lambda: [f.code for f in desk.platform.findings()] == ["keda-missing"])
    (said,) = desk.platform.findings()
    assert "fraud" in said.message
    assert not said.is_error
    assert {r.message for r in desk.platform.observe("fraud")} == {""}
    desk.server.calm()
    desk.settled(KEDA)
    assert (desk.by_keda(), desk.platform.findings()) == (True, ())


def test_without_the_right_to_keda_it_can_be_asked_for_no_more(desk: Desk) -> None:
    desk.server.denied |= {("patch", "scaledobjects"), ("delete", "scaledobjects")}
    desk.platform.apply(KEDA)
    wait_for(lambda: bool(desk.platform.findings()))
    desk.apply(SCALED, 2)
    assert (desk.autoscaled(), desk.platform.findings()) == (True, ())


def test_a_scaler_that_is_still_being_deleted_is_made_anew_once_it_is_gone(desk: Desk) -> None:
    """KEDA's operator takes an object apart before it lets go of it."""
    desk.apply(KEDA, 2)
    cluster = desk.server.cluster("ns")
    cluster.patch(SCALED_OBJECT, NAME, {"metadata": {"finalizers": ["finalizer.keda.sh"]}})
    before = desk.server.find("scaledobjects", NAME, "ns")
    desk.apply(SCALED, 2)
    desk.platform.apply(KEDA)
    wait_for(lambda: not desk.autoscaled())
    assert module.render.beside_digest(KEDA) not in str(desk.server.find("deployments", NAME, "ns"))
    cluster.patch(SCALED_OBJECT, NAME, {"metadata": {"finalizers": None}})
    desk.settled(KEDA)
    after = desk.server.find("scaledobjects", NAME, "ns")
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    cluster.close()

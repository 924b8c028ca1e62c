"""What `headgate doctor` finds, on a small API server: what is missing, refused, stale or cannot be pulled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from headgate_console import checkup
from headgate_console.checkup import FAIL, OK, SKIP, WARN, Check
from headgate_kit.kube.client import Cluster
from kubeserver import KubeServer

TOLD = {"engine": "pods", "resources": "true"}


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as made:
        yield made


@pytest.fixture
def cluster(server: KubeServer) -> Iterator[Cluster]:
    made = server.cluster("ml")
    yield made
    made.close()


def looked(found: Cluster, settings: Mapping[str, str] = TOLD) -> dict[str, Check]:
    return {check.name: check for check in checkup.cluster(found, settings)}


def deployment(server: KubeServer, name: str, ready: int) -> None:
    container = {"env": [{"name": "HEADGATE_REGISTRY", "value": "r.example/t"}], "args": ["--engine=argo"]}
    spec = {"replicas": 2, "template": {"spec": {"containers": [container]}}}
    body = {"metadata": {"name": name}, "spec": spec, "status": {"readyReplicas": ready}}
    server.put("apps/v1", "deployments", body, "ml")


@pytest.mark.parametrize(("ready", "state"), [(2, OK), (1, WARN), (0, FAIL)])
def test_pods_that_are_not_ready_are_said(server: KubeServer, cluster: Cluster, ready: int, state: str) -> None:
    deployment(server, "headgate-router", ready)
    found = looked(cluster)["headgate-router"]
    assert (found.state, found.message) == (state, f"{ready} of 2 ready")


def test_an_installation_that_is_not_there_is_a_failure(cluster: Cluster) -> None:
    assert looked(cluster)["headgate-controller"].state == FAIL


def test_a_right_that_is_missing_is_named_with_what_it_is_for(server: KubeServer, cluster: Cluster) -> None:
    server.denied |= {("patch", "deployments"), ("list", "nodes")}
    found = [c for c in checkup.access(cluster, TOLD) if c.state != OK]
    assert [(c.state, c.message) for c in found] == [
        (FAIL, "may not patch deployments.apps: run a revision"),
        (WARN, "may not list nodes: know what a pool can hold"),
    ]


def test_rights_that_are_all_there_are_one_line_a_part(cluster: Cluster) -> None:
    assert [(c.name, c.state) for c in checkup.access(cluster, TOLD)] == [
        ("rights controller", OK),
        ("rights router", OK),
    ]


@pytest.mark.parametrize(
    ("age_s", "name", "state"),
    [(1, "lease", OK), (90, "lease", FAIL), (-60, "clock", WARN)],
    ids=["renewed", "stale", "ahead of us"],
)
def test_a_lease_tells_whether_a_controller_acts_and_clocks_agree(
    server: KubeServer, cluster: Cluster, age_s: int, name: str, state: str
) -> None:
    renewed = (datetime.now(UTC) - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": "headgate-controller-0", "renewTime": renewed}
    server.put("coordination.k8s.io/v1", "leases", {"metadata": {"name": "headgate-controller"}, "spec": spec}, "ml")
    found = next(iter(checkup.lease(cluster)))
    assert (found.name, found.state) == (name, state)


def test_an_image_that_cannot_be_pulled_is_named(server: KubeServer, cluster: Cluster) -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image: r.example/t@sha256:1"}}}
    meta = {"name": "fraud-1", "labels": {"headgate.dev/part": "model"}}
    server.put("v1", "pods", {"metadata": meta, "status": {"containerStatuses": [waiting]}}, "ml")
    found = looked(cluster)["images"]
    assert (found.state, found.message) == (FAIL, "fraud-1: no such image: r.example/t@sha256:1")


def test_pools_are_counted_with_their_gpus(server: KubeServer, cluster: Cluster) -> None:
    for number in (1, 2):
        meta = {"name": f"gpu-{number}", "labels": {"headgate.dev/pool": "gpu"}}
        body = {"metadata": meta, "status": {"allocatable": {"nvidia.com/gpu": "4", "cpu": "8"}}}
        server.put("v1", "nodes", body, "")
    assert looked(cluster)["pool gpu"].message == "2 nodes, 8 GPUs"


def test_what_may_not_be_read_is_skipped_and_all_else_is_looked_at(server: KubeServer, cluster: Cluster) -> None:
    server.fail(403, times=1, plural="nodes", verb="list")
    found = looked(cluster)
    assert found["pools"].state == SKIP
    assert "argo" in found


def test_what_the_controller_was_told_is_read_from_its_deployment(server: KubeServer, cluster: Cluster) -> None:
    assert checkup.told(cluster) == {}
    deployment(server, "headgate-controller", 1)
    assert checkup.told(cluster) == {"HEADGATE_REGISTRY": "r.example/t", "engine": "argo", "resources": "false"}


@pytest.mark.parametrize(
    ("secured", "argument", "asked", "state", "message"),
    [
        pytest.param((), "", "", OK, "2 revisions, met by plain HTTP (chart: models.tls)", id="off"),
        pytest.param(
            (1,), "--models-tls=/x", "s", WARN, "1 of 2 revisions are met by mutual TLS; not yet: m-0", id="new"
        ),
        pytest.param((0, 1), "--models-tls=/x", "s", OK, "2 of 2 revisions are met by mutual TLS", id="all"),
        pytest.param((1,), "--models-tls=/x", "", OK, "1 of 2 revisions are met by mutual TLS", id="going off"),
        pytest.param((1,), "--host=x", "", FAIL, "and routers were given no certificate for it", id="off too early"),
    ],
)
def test_how_models_are_met_is_said(
    server: KubeServer, cluster: Cluster, secured: tuple[int, ...], argument: str, asked: str, state: str, message: str
) -> None:
    for index in range(2):
        labels = {"headgate.dev/part": "model", "headgate.dev/purpose": "serve"}
        notes = {"headgate.dev/tls": "s"} if index in secured else {}
        body = {"metadata": {"name": f"m-{index}", "labels": labels, "annotations": notes}, "spec": {}}
        server.put("apps/v1", "deployments", body, "ml")
    spec = {"template": {"spec": {"containers": [{"args": [argument]}]}}}
    server.put("apps/v1", "deployments", {"metadata": {"name": "headgate-router"}, "spec": spec}, "ml")
    (found,) = checkup.models(cluster, {"HEADGATE_MODELS_TLS_SECRET": asked})
    assert found.state == state
    assert found.message.endswith(message)

"""The door to a cluster, against a server that behaves and misbehaves as an API server does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter

from headgate.findings import ConflictError, TerminalError, TransientError
from headgate_kit.counts import CLUSTER_REFUSED, CLUSTER_REQUESTS
from headgate_kit.kube import Cluster, Gone
from headgate_kit.kube import client as kube_client
from headgate_kit.kube.kinds import CONFIG_MAP, DEPLOYMENT, NODE, POD, SERVICE
from kubeserver import KubeServer, wait_for


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as server:
        yield server


@pytest.fixture
def cluster(server: KubeServer) -> Iterator[Cluster]:
    cluster = server.cluster("ns")
    yield cluster
    cluster.close()


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **more}


def test_what_is_created_is_found_until_it_is_deleted(cluster: Cluster) -> None:
    made = cluster.create(CONFIG_MAP, named("a", data={"x": "1"}))
    assert made["metadata"]["namespace"] == "ns"
    assert cluster.get(CONFIG_MAP, "a") == made
    assert (cluster.delete(CONFIG_MAP, "a"), cluster.delete(CONFIG_MAP, "a")) == (True, False)
    assert cluster.get(CONFIG_MAP, "a") is None


def test_the_second_of_one_name_conflicts(cluster: Cluster) -> None:
    cluster.create(CONFIG_MAP, named("a"))
    with pytest.raises(ConflictError, match="already exists"):
        cluster.create(CONFIG_MAP, named("a"))


def test_a_replace_compares_the_version_it_was_read_at(cluster: Cluster) -> None:
    read = cluster.create(CONFIG_MAP, named("a", data={"x": "1"}))
    assert cluster.replace(CONFIG_MAP, {**read, "data": {"x": "2"}}) is not None
    with pytest.raises(ConflictError):
        cluster.replace(CONFIG_MAP, {**read, "data": {"x": "3"}})
    assert cluster.replace(CONFIG_MAP, named("b")) is None


def test_a_patch_changes_what_it_names(cluster: Cluster) -> None:
    cluster.create(CONFIG_MAP, named("a", data={"x": "1", "y": "2"}))
    changed = cluster.patch(CONFIG_MAP, "a", {"data": {"x": None}})
    assert changed is not None
    assert changed["data"] == {"y": "2"}
    assert cluster.patch(CONFIG_MAP, "b", {}) is None


def test_applying_leaves_fields_of_others_and_takes_back_its_own(cluster: Cluster) -> None:
    cluster.apply(DEPLOYMENT, named("a", spec={"replicas": 1, "paused": True}))
    cluster.patch(DEPLOYMENT, "a", {"spec": {"minReadySeconds": 5}})
    cluster.apply(DEPLOYMENT, named("a", spec={"replicas": 2}))
    found = cluster.get(DEPLOYMENT, "a")
    assert found is not None
    assert found["spec"] == {"replicas": 2, "minReadySeconds": 5}
    assert found["metadata"]["generation"] == 3
    assert cluster.apply(DEPLOYMENT, named("a", spec={"replicas": 2})) == found


def test_a_status_is_written_apart(cluster: Cluster) -> None:
    cluster.apply(DEPLOYMENT, named("a", spec={"replicas": 1}, status={"readyReplicas": 9}))
    written = cluster.patch(DEPLOYMENT, "a", {"spec": {"replicas": 5}, "status": {"x": 1}}, subresource="status")
    assert written is not None
    assert (written["spec"], written["status"]) == ({"replicas": 1}, {"x": 1})


def test_a_list_comes_whole_though_it_comes_in_pages(
    server: KubeServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "PAGE", 3)
    for i in range(8):
        cluster.create(CONFIG_MAP, {"metadata": {"name": f"c{i}", "labels": {"odd": str(i % 2)}}})
    found, _ = cluster.list(CONFIG_MAP)
    assert [item["metadata"]["name"] for item in found] == [f"c{i}" for i in range(8)]
    assert {(item["apiVersion"], item["kind"]) for item in found} == {("v1", "ConfigMap")}
    assert sum(asked.verb == "list" for asked in server.requests) == 3
    odd, _ = cluster.list(CONFIG_MAP, selector="odd=1")
    assert len(odd) == 4


def test_objects_without_a_namespace_are_found(server: KubeServer, cluster: Cluster) -> None:
    server.put("v1", "nodes", named("n1"), namespace="")
    assert [item["metadata"]["name"] for item in cluster.list(NODE)[0]] == ["n1"]


def test_a_watch_carries_on_where_the_list_stopped(server: KubeServer, cluster: Cluster) -> None:
    cluster.create(CONFIG_MAP, named("a"))
    _, version = cluster.list(CONFIG_MAP)
    cluster.create(CONFIG_MAP, named("b"))
    cluster.delete(CONFIG_MAP, "a")
    events = iter(cluster.watch(CONFIG_MAP, version))
    first, second = next(events), next(events)
    assert [(e.type, e.object["metadata"]["name"]) for e in (first, second)] == [("ADDED", "b"), ("DELETED", "a")]


def test_a_watch_from_before_the_history_is_gone(server: KubeServer, cluster: Cluster) -> None:
    _, version = cluster.list(CONFIG_MAP)
    server.forget()
    with pytest.raises(Gone):
        list(cluster.watch(CONFIG_MAP, version))


def test_a_quiet_watch_ends_when_it_is_closed(server: KubeServer, cluster: Cluster) -> None:
    watch = cluster.watch(CONFIG_MAP, cluster.list(CONFIG_MAP)[1])
    ended = threading.Event()

    def follow() -> None:
        for _ in watch:
            pass
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    watch.close()
    assert ended.wait(60)


def test_a_watch_that_breaks_off_says_so(server: KubeServer, cluster: Cluster) -> None:
    watch = cluster.watch(CONFIG_MAP, cluster.list(CONFIG_MAP)[1])
    wait_for(lambda: server.watching("configmaps") == 1)
    server.drop_watches()
    with pytest.raises(TransientError, match="broke"):
        list(watch)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        pytest.param(500, TransientError, id="it fails"),
        pytest.param(429, TransientError, id="it is overloaded"),
        pytest.param(403, TerminalError, id="it refuses"),
        pytest.param(422, TerminalError, id="it does not accept"),
        pytest.param(409, ConflictError, id="somebody was first"),
    ],
)
def test_an_error_says_what_to_do_next(server: KubeServer, cluster: Cluster, code: int, error: type[Exception]) -> None:
    server.fail(code)
    with pytest.raises(error, match="asked to fail"):
        cluster.create(CONFIG_MAP, named("a"))
    assert cluster.create(CONFIG_MAP, named("a"))


def test_the_servers_own_patience_is_kept(server: KubeServer, cluster: Cluster) -> None:
    server.fail(429, retry_after_s=7)
    with pytest.raises(TransientError) as caught:
        cluster.list(POD)
    assert caught.value.retry_after_s == 7


def test_a_server_that_is_away_is_worth_another_try(server: KubeServer, cluster: Cluster) -> None:
    with server.refuse(), pytest.raises(TransientError):
        cluster.list(POD)
    assert cluster.list(POD)[0] == []


def test_a_log_is_read_from_its_end(server: KubeServer, cluster: Cluster) -> None:
    server.put("v1", "pods", named("p", spec={}), namespace="ns")
    server.logs[("ns", "p")] = b"one\ntwo\nthree\n"
    assert list(cluster.logs("p", tail=2)) == [b"two", b"three"]
    assert list(cluster.logs("no-such")) == []


def test_what_we_may_not_do_is_known_before(server: KubeServer, cluster: Cluster) -> None:
    server.denied.add(("delete", "pods"))
    assert (cluster.may("delete", POD), cluster.may("get", POD)) == (False, True)
    with pytest.raises(TerminalError, match="forbidden"):
        cluster.delete(POD, "p")


def test_the_cluster_is_the_one_that_kubeconfig_names(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes import config

    path = server.kubeconfig(tmp_path / "config", "mine")
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))  # read once, at import
    cluster = Cluster.connect()
    assert (cluster.namespace, cluster.version()) == ("mine", "v1.34.1")
    cluster.close()


def test_without_a_configuration_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kubernetes import config

    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(TerminalError, match="set KUBECONFIG"):
        Cluster.connect()


def counted(counter: Counter) -> dict[tuple[str, ...], float]:
    samples = [s for family in counter.collect() for s in family.samples if s.name.endswith("_total")]
    return {tuple(s.labels[label] for label in ("verb", "resource", "scope")): s.value for s in samples}


def test_requests_are_counted_by_what_they_do(cluster: Cluster) -> None:
    before = counted(CLUSTER_REQUESTS)
    cluster.create(DEPLOYMENT, named("a"))
    cluster.get(DEPLOYMENT, "a")
    cluster.list(NODE)
    cluster.patch(DEPLOYMENT, "a", {"status": {}}, subresource="status")
    after = counted(CLUSTER_REQUESTS)
    new = {key: n - before.get(key, 0.0) for key, n in after.items() if n != before.get(key, 0.0)}
    assert new == {
        ("create", "deployments", "namespace"): 1.0,
        ("get", "deployments", "namespace"): 1.0,
        ("patch", "deployments/status", "namespace"): 1.0,
        ("list", "nodes", "cluster"): 1.0,
    }


def test_rights_that_are_missing_are_counted_and_what_is_refused_for_another_reason_is_not(
    server: KubeServer, cluster: Cluster
) -> None:
    before = counted(CLUSTER_REFUSED)
    server.denied |= {("patch", "services"), ("list", "nodes")}
    for ask in (lambda: cluster.apply(SERVICE, named("a")), lambda: cluster.list(NODE)):
        with pytest.raises(TerminalError, match="cannot"):
            ask()
    server.fail(403, plural="pods")  # as a quota or an admission rule does
    with pytest.raises(TerminalError, match="asked to fail"):
        cluster.create(POD, named("a"))
    new = {key: n - before.get(key, 0.0) for key, n in counted(CLUSTER_REFUSED).items() if n != before.get(key, 0.0)}
    assert new == {("patch", "services", "namespace"): 1.0, ("list", "nodes", "cluster"): 1.0}

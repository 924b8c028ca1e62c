"""What a revision is made of on a cluster."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.workload import Launch, Load, Probe, Purpose, Scaling, SecretKey, Workload
from headgate_controllers.platforms.kubernetes import render
from headgate_kit.kube.kinds import AUTOSCALER, DISRUPTION_BUDGET, SCALED_OBJECT

GOLDEN = Path(__file__).parent.parent / "golden/kubernetes"
PLAIN = Workload(
    "Fraud",
    "blue",
    "0123456789abcdef",
    1,
    Launch(("python", "-m", "front"), {"B": "2", "A": "1"}),
    image="r/m@sha256:1",
)
LARGE = replace(
    PLAIN,
    replicas=3,
    cpus=4.0,
    memory_mb=14_336,
    gpus=1,
    gpu_resource="nvidia.com/mig-1g.5gb",
    node_pool="a100",
    liveness=Probe(20, 5, 3, 1, 4),
    readiness=Probe(30, 10, 2, 2, 6),
)

SCALED = replace(PLAIN, replicas=2, cpus=1.0, memory_mb=2048, scaling=Scaling(2, 6, 60, 10))
KEDA = replace(SCALED, load=Load("http://prometheus:9090", 4))


def every(w: Workload, secured: str = "") -> list[dict[str, Any]]:
    beside = (body for _, body in render.beside(w, "uid-1", "ns", secured))
    found = [render.account(w), render.deployment(w, secured=secured), *beside]
    return json.loads(json.dumps(found))  # as the API server gets it: no values shared


@pytest.mark.parametrize(
    ("name", "workload", "secured"),
    [
        pytest.param("plain", PLAIN, "", id="plain"),
        pytest.param("large", LARGE, "", id="large"),
        pytest.param("scaled", SCALED, "", id="scaled"),
        pytest.param("keda", KEDA, "", id="keda"),
        pytest.param("smoke", replace(PLAIN, purpose=Purpose.SMOKE), "", id="smoke"),
        pytest.param("secured", PLAIN, "models-server", id="mutual TLS"),
    ],
)
def test_a_revision_is_rendered_as_it_always_was(name: str, workload: Workload, secured: str) -> None:
    """A changed template would start every replica anew when Headgate is upgraded."""
    path = GOLDEN / f"{name}.yml"
    if os.environ.get("HEADGATE_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump_all(every(workload, secured), sort_keys=False, width=120))
    assert every(workload, secured) == list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"readiness": Probe(period_s=5)}, id="readiness"),
        pytest.param({"liveness": Probe(timeout_s=5)}, id="liveness"),
        pytest.param({"memory_mb": 512}, id="memory"),
        pytest.param({"cpus": 2.0}, id="cores"),
        pytest.param({"gpus": 1}, id="GPUs"),
        pytest.param({"node_pool": "b"}, id="pool"),
        pytest.param({"image": "r/m@sha256:2"}, id="image"),
    ],
)
def test_what_was_asked_otherwise_is_another_shape(change: dict[str, Any]) -> None:
    assert render.shape(replace(PLAIN, **change)) != render.shape(PLAIN)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"replicas": 7}, id="instances are counted in place"),
        pytest.param(
            {"launch": Launch(("python3", "-m", "another"), {"NEW": "1"})}, id="a later version launches anew"
        ),
        pytest.param({"scoring_path": "/other"}, id="the scoring path is the router's"),
    ],
)
def test_what_a_later_version_or_a_count_changes_is_not(change: dict[str, Any]) -> None:
    assert render.shape(replace(PLAIN, **change)) == render.shape(PLAIN)


def test_every_object_of_a_revision_has_one_name_and_goes_with_its_deployment() -> None:
    _, deployment, *beside = every(LARGE)
    assert {item["metadata"]["name"] for item in (deployment, *beside)} == {"fraud-0123456789abcdef"}
    assert {item["metadata"]["ownerReferences"][0]["uid"] for item in beside} == {"uid-1"}


def test_no_pod_may_do_what_it_need_not() -> None:
    spec = render.deployment(PLAIN)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/var/run/headgate"}


def test_a_pod_outlives_what_its_front_still_answers() -> None:
    from headgate_serving.settings import ServeSettings

    spec = render.deployment(PLAIN)["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > render.LINGER_S + ServeSettings("b", "i").drain_s


def test_failure_counts_as_late_as_the_probe_says_though_readiness_is_asked_every_second() -> None:
    (container,) = render.deployment(LARGE)["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["periodSeconds"] == 1
    assert container["readinessProbe"]["failureThreshold"] == 60
    assert container["readinessProbe"]["successThreshold"] == 2
    assert container["livenessProbe"]["failureThreshold"] == 4


def test_a_secret_is_given_by_reference() -> None:
    found = render.deployment(replace(PLAIN, secrets={"DB": SecretKey("db", "url")}))
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert container["env"][-1] == {"name": "DB", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}


def test_the_environment_says_where_to_listen_and_what_it_has() -> None:
    (container,) = render.deployment(LARGE)["spec"]["template"]["spec"]["containers"]
    assert {e["name"]: e["value"] for e in container["env"]} == {
        "A": "1",
        "B": "2",
        "HEADGATE_ADDRESS": "0.0.0.0:8080",
        "HEADGATE_REPLICA": "/var/run/headgate",
        "HEADGATE_CPUS": "4",
        "HOME": "/tmp",
    }


def test_with_tls_routers_read_it_of_the_service_and_probes_ask_beside_it() -> None:
    _, deployment, policy, service = every(PLAIN, "models-server")
    assert render.secured_by(deployment) == render.secured_by(deployment["spec"]["template"]) == "models-server"
    assert service["spec"]["ports"][0]["appProtocol"] == "https"
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")} == {8081}
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == [8080], "health is for the node alone"
    assert {e["name"]: e["value"] for e in container["env"]}["HEADGATE_HEALTH"] == "0.0.0.0:8081"


def test_what_is_spoken_is_part_of_what_stands_beside_a_revision_and_not_of_its_shape() -> None:
    assert render.beside_digest(PLAIN, "models-server") != render.beside_digest(PLAIN)
    plain, secured = render.deployment(PLAIN), render.deployment(PLAIN, secured="models-server")
    assert render.shape_of(plain) == render.shape_of(secured)


def autoscaler(w: Workload) -> dict[str, Any]:
    return next(body for kind, body in render.beside(w, "uid-1") if kind is AUTOSCALER)


def test_no_replica_is_taken_away_while_a_rollout_may_go_back() -> None:
    assert autoscaler(replace(SCALED, only_up=True))["spec"]["behavior"] == {"scaleDown": {"selectPolicy": "Disabled"}}
    assert render.deployment(replace(SCALED, only_up=True)) == render.deployment(SCALED), "no pod changes for it"


@pytest.mark.parametrize(
    ("interval_s", "calm_s"),
    [pytest.param(1, 60, id="least"), pytest.param(10, 200, id="twenty looks"), pytest.param(600, 3600, id="most")],
)
def test_a_replica_goes_after_twenty_looks(interval_s: int, calm_s: int) -> None:
    found = autoscaler(replace(SCALED, scaling=Scaling(1, 2, 70, interval_s)))
    assert found["spec"]["behavior"]["scaleDown"] == {"stabilizationWindowSeconds": calm_s}


def test_keda_scales_by_the_requests_that_replicas_may_run_and_never_to_none() -> None:
    (found,) = [body for kind, body in render.beside(KEDA, "uid-1", "ns") if kind is SCALED_OBJECT]
    assert not [kind for kind, _ in render.beside(KEDA, "uid-1", "ns") if kind is AUTOSCALER], "two would pull at it"
    (trigger,) = found["spec"]["triggers"]
    assert trigger["metadata"]["threshold"] == "2.4", "60 % of the 4 requests that a replica runs at once"
    assert 'namespace="ns",endpoint="Fraud",revision="0123456789abcdef"' in trigger["metadata"]["query"]
    assert trigger["metadata"]["ignoreNullValues"] == "false", "a metric that is missing is no zero"
    assert (found["spec"]["minReplicaCount"], found["spec"]["maxReplicaCount"]) == (2, 6)
    assert "idleReplicaCount" not in found["spec"]


def test_who_scales_it_changes_no_pod() -> None:
    assert render.deployment(KEDA) == render.deployment(SCALED)
    assert render.beside_digest(KEDA) != render.beside_digest(SCALED)


def test_what_keda_scales_is_not_made_less_while_a_rollout_may_go_back() -> None:
    (found,) = [body for kind, body in render.beside(replace(KEDA, only_up=True), "u") if kind is SCALED_OBJECT]
    behavior = found["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == {"scaleDown": {"selectPolicy": "Disabled"}}


@pytest.mark.parametrize("least", [1, 2])
def test_a_budget_goes_by_the_least_that_may_run(least: int) -> None:
    kinds = [kind for kind, _ in render.beside(replace(SCALED, replicas=3, scaling=Scaling(least, 4)), "uid-1")]
    assert (DISRUPTION_BUDGET in kinds) == (least > 1)


ORDER = '{"into":"/opt/headgate/bundle/models/churn/7"}'


def test_a_model_is_fetched_by_a_container_before_the_server_starts() -> None:
    large = replace(LARGE, fetch=ORDER)
    spec = render.deployment(large, render.Shelves("lakes", "models"))["spec"]["template"]["spec"]
    (initializer,), (server,) = spec["initContainers"], spec["containers"]
    assert (initializer["name"], initializer["image"]) == ("storage-initializer", server["image"])
    assert initializer["securityContext"] == server["securityContext"]
    assert initializer["resources"]["limits"] == {"cpu": "4000m", "memory": "14336Mi"}, "a GPU is not held meanwhile"
    assert {"name": "HEADGATE_FETCH", "value": ORDER} in initializer["env"]
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in initializer["volumeMounts"]}
    assert mounts == {
        "/opt/headgate/bundle/models": False,
        "/tmp": False,
        "/var/run/secrets/headgate/catalogues": True,
        "/mnt/headgate/models": True,
    }
    theirs = {m["mountPath"]: m.get("readOnly", False) for m in server["volumeMounts"]}
    assert theirs["/opt/headgate/bundle/models"]
    assert not {"/var/run/secrets/headgate/catalogues", "/mnt/headgate/models"} & set(theirs), "no credentials there"


def test_without_one_a_pod_has_neither_container_nor_volumes_for_it() -> None:
    with_shelves = render.deployment(PLAIN, render.Shelves("lakes", "models"))
    assert with_shelves == render.deployment(PLAIN)
    assert render.shape(replace(PLAIN, fetch=ORDER)) != render.shape(PLAIN)

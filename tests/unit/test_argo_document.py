"""What is submitted to Argo: accounts, security, the token, plugin steps; and what is read back."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import pytest

from headgate.planning import make_plan
from headgate.rollout import Head
from headgate.testing import deployment, target
from headgate_pipelines import rollout
from headgate_pipelines.engines.argo.document import argo_document
from headgate_pipelines.engines.argo.mode import CONFIG, CONTROLLER, SIDECAR, argo_mode
from headgate_pipelines.engines.argo.status import run_of
from headgate_pipelines.engines.settings import OpSettings
from headgate_pipelines.plugin.execute import body_of
from kubeserver import KubeServer

IMAGE = "registry.example/runner@sha256:0"
GIVEN = {"HEADGATE_CONTROL": "http://headgate-controller.ml:7070"}


@pytest.fixture
def document() -> dict[str, Any]:
    blue, green = deployment("blue"), deployment("green", "2")
    plan = make_plan(Head("fraud", traffic={blue.revision: 1000}), target("c0ffee", [blue, green], {"green": 100})).plan
    assert plan is not None
    return dict(rollout.workflow(plan, "ro-fraud-1"))


def made(document: Mapping[str, Any], *, plugin: bool = False, **settings: str) -> dict[str, Any]:
    return argo_document(document, OpSettings(image=IMAGE, **settings), GIVEN, plugin=plugin)


def templates(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {t["name"]: t for t in document["spec"]["templates"]}


def test_the_plans_own_document_is_left_as_it_is(document: dict[str, Any]) -> None:
    before = json.dumps(document, sort_keys=True)
    made(document, plugin=True, argo_priority="5")
    assert json.dumps(document, sort_keys=True) == before


def test_every_container_is_ours_by_digest_and_may_do_nothing_it_need_not(document: dict[str, Any]) -> None:
    found = made(document)
    assert found["spec"]["serviceAccountName"] == "headgate-workflow"
    assert found["spec"]["securityContext"]["runAsNonRoot"] is True
    containers = [t["container"] for t in found["spec"]["templates"] if "container" in t]
    assert {c["image"] for c in containers} == {IMAGE}
    assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in containers)
    assert all(c["resources"]["limits"]["memory"] for c in containers)


def test_pods_of_ops_are_those_that_network_policies_let_through(document: dict[str, Any]) -> None:
    labels = [
        t["metadata"]["labels"]["headgate.dev/part"] for t in templates(made(document)).values() if "container" in t
    ]
    assert set(labels) == {"op"}


def test_the_token_is_a_file_of_a_secret_named_after_the_workflow(document: dict[str, Any]) -> None:
    smoke = templates(made(document))["smoke"]
    assert {"name": "HEADGATE_TOKEN_FILE", "value": "/var/run/headgate/token/token"} in smoke["container"]["env"]
    assert {v["name"]: v.get("secret", {}).get("secretName") for v in smoke["volumes"]}["op-token"] == "ro-fraud-1-op"


def test_light_ops_become_plugin_steps_and_the_build_stays_a_pod(document: dict[str, Any]) -> None:
    found = templates(made(document, plugin=True))
    assert "container" in found["build"]
    bodies = {name: body_of(t) for name, t in found.items() if "plugin" in t}
    assert set(bodies) == set(found) - {"build", "rollout"}
    assert bodies["step-5"] == {
        "verb": "step", "endpoint": "fraud", "opKey": "{{workflow.name}}/step-5", "percent": "5"
    }  # fmt: skip
    assert bodies["close"]["status"] == "{{workflow.status}}"  # type: ignore[index]
    assert not any("retryStrategy" in t or "volumes" in t for name, t in found.items() if name in bodies)


def test_an_output_of_a_plugin_step_says_where_it_is_from_else_argo_refuses_it(document: dict[str, Any]) -> None:
    for template in templates(made(document, plugin=True)).values():
        for parameter in (template.get("outputs") or {}).get("parameters") or ():
            assert parameter["valueFrom"]["path"]


def test_priority_semaphore_and_time_kept_are_settings(document: dict[str, Any]) -> None:
    plain, found = made(document), made(document, argo_priority="7", argo_semaphore="limits/builds", argo_kept_s="60")
    assert "priority" not in plain["spec"]
    assert (found["spec"]["priority"], found["spec"]["ttlStrategy"]) == (7, {"secondsAfterCompletion": 60})
    limit = {"configMapKeyRef": {"name": "limits", "key": "builds"}}
    assert templates(found)["build"]["synchronization"] == {"semaphores": [limit]}
    assert not [t for t in found["spec"]["templates"] if t["name"] != "build" and "synchronization" in t]


def test_argos_ui_shows_endpoint_and_commit_with_links(document: dict[str, Any]) -> None:
    url = "https://git.example/repo/commit/{commit}"
    notes = made(document, commit_url=url)["metadata"]["annotations"]
    commit = document["metadata"]["labels"]["headgate.dev/commit"]
    assert notes["workflows.argoproj.io/title"] == f"fraud at {commit[:10]}"
    assert notes["workflows.argoproj.io/description"] == (
        f"endpoint `fraud` · commit [{commit[:10]}](https://git.example/repo/commit/{commit})"
    )


# --- what is read back -----------------------------------------------------------------------------------------------


def test_a_new_workflow_is_pending_and_a_finished_one_has_its_times() -> None:
    assert run_of({"metadata": {"name": "w"}}).phase == "Pending"
    status = {
        "phase": "Failed",
        "message": "step-5: no",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:01:00Z",
        "nodes": {"w-1": {"displayName": "step-5", "phase": "Failed"}},
    }
    run = run_of({"metadata": {"name": "w"}, "status": status})
    assert (run.phase, run.message, run.nodes) == ("Failed", "step-5: no", {"step-5": "Failed"})
    assert run.started_at is not None
    assert run.finished_at == run.started_at + 60


@pytest.mark.parametrize(
    ("packed", "nodes"),
    [
        pytest.param(
            base64.b64encode(gzip.compress(b'{"n": {"displayName": "build", "phase": "Running"}}')).decode(),
            {"build": "Running"},
            id="as Argo packs it",
        ),
        pytest.param("not base64!", {}, id="unreadable"),
    ],
)
def test_a_packed_node_list_is_unpacked(packed: str, nodes: dict[str, str]) -> None:
    assert run_of({"metadata": {"name": "w"}, "status": {"compressedNodes": packed}}).nodes == nodes


# --- which way light ops run -----------------------------------------------------------------------------------------


def controller(*args: str, **env: str) -> dict[str, Any]:
    container = {"args": list(args), "env": [{"name": k, "value": v} for k, v in env.items()]}
    return {"metadata": {"name": CONTROLLER}, "spec": {"template": {"spec": {"containers": [container]}}}}


ON = controller("--executor-plugins")
NO_AGENT = {CONFIG: {"disableAgentPodCreation": "true"}}


@pytest.mark.parametrize(
    ("deployment", "namespace", "configs", "steps", "reason"),
    [
        pytest.param(None, "argo", {}, "container", "no Deployment workflow-controller", id="no Argo"),
        pytest.param(controller(), "argo", NO_AGENT, "container", "without --executor-plugins", id="plugins off"),
        pytest.param(ON, "argo", NO_AGENT, "plugin", "no pod at all", id="no agent pod"),
        pytest.param(
            controller(ARGO_EXECUTOR_PLUGINS="true"),
            "ml",
            {CONFIG: {"config": "parallelism: 5\ndisableAgentPodCreation: true\n"}},
            "plugin",
            "no pod at all",
            id="by variable, in one text, in our namespace",
        ),
        pytest.param(ON, "argo", {SIDECAR: {}}, "plugin", "our sidecar", id="our sidecar"),
        pytest.param(ON, "argo", {}, "container", "neither", id="nobody would answer"),
    ],
)
def test_the_way_light_ops_run_is_found_out_and_said(
    deployment: dict[str, Any] | None, namespace: str, configs: dict[str, Any], steps: str, reason: str
) -> None:
    with KubeServer() as server:
        if deployment:
            server.put("apps/v1", "deployments", deployment, namespace)
        for name, data in configs.items():
            server.put("v1", "configmaps", {"metadata": {"name": name}, "data": data}, namespace)
        cluster = server.cluster("ml")
        mode = argo_mode(cluster)
        cluster.close()
    assert str(mode) == steps
    assert reason in mode.reason
    assert mode.found is (deployment is not None)


def test_settings_that_may_not_be_read_mean_containers_and_what_to_set() -> None:
    with KubeServer() as server:
        server.denied.add(("get", "deployments"))
        cluster = server.cluster("ml")
        mode = argo_mode(cluster)
        cluster.close()
    assert str(mode) == "container"
    assert "set HEADGATE_ARGO_STEPS" in mode.reason

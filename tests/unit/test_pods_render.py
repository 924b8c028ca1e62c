"""An attempt as a pod, and a pod as how its attempt ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from headgate.findings import FindingsError, SpecError
from headgate_pipelines import contract
from headgate_pipelines.engines import placing, settings
from headgate_pipelines.engines.local.compile import compile_workflow
from headgate_pipelines.engines.local.operate import Start
from headgate_pipelines.engines.local.spec import Leaf, Output, Spec
from headgate_pipelines.engines.local.state import Outcome
from headgate_pipelines.engines.pods import render
from headgate_pipelines.engines.settings import OpSettings

IMAGE = "registry.example/runner@sha256:0"
SETTINGS = OpSettings(image=IMAGE, build_pool="system", registry_secret="pushes")


def made(*args: str, env: Mapping[str, str] | None = None, pod: Mapping[str, Any] | None = None) -> dict[str, Any]:
    argv = (*contract.COMMAND, *args)
    leaf = Leaf("step-5", "step-5", tuple((word,) for word in argv), {}, image=IMAGE, pod=pod or {}, timeout_s=90.0)
    spec = Spec("ro-fraud-1", leaf, labels={"headgate.dev/endpoint": "fraud"})
    start = Start(leaf, 0, argv, env or {}, None)
    return render.pod(spec, leaf, start, {"HEADGATE_CONTROL": "http://c:7070"}, SETTINGS, name="p")


def variables(pod: Mapping[str, Any]) -> dict[str, str]:
    return {v["name"]: v["value"] for v in pod["spec"]["containers"][0]["env"]}


def test_a_pods_name_is_a_label_and_another_for_every_attempt() -> None:
    names = [
        render.pod_name("ro-" + "f" * 40 + "-c0ffee0000-1", f"step-{p}", n) for p in ("2-5", "2.5") for n in (0, 1)
    ]
    assert len(set(names)) == 4
    assert all(len(name) <= 63 and not name.endswith("-") for name in names)
    assert render.pod_name("ro-1", "build", 0) == "ro-1-build-0-" + render.pod_name("ro-1", "build", 0)[-8:]


def test_a_pod_may_do_nothing_that_it_need_not() -> None:
    spec = made("step")["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["restartPolicy"] == "Never"


def test_the_token_is_a_file_of_a_secret_and_nowhere_in_the_pod() -> None:
    pod = made("step")
    assert variables(pod)["HEADGATE_TOKEN_FILE"] == "/var/run/headgate/token/token"
    assert {v["name"]: v.get("secret", {}).get("secretName") for v in pod["spec"]["volumes"]}[
        "op-token"
    ] == "ro-fraud-1-op"
    assert "HEADGATE_TOKEN" not in variables(pod)


def test_a_token_the_template_brings_along_is_not_hidden_by_ours() -> None:
    assert "HEADGATE_TOKEN_FILE" not in variables(made("step", env={"HEADGATE_TOKEN": "op_of_another_rollout"}))


def test_the_cluster_ends_a_pod_whose_engine_is_gone() -> None:
    assert made("step")["spec"]["activeDeadlineSeconds"] == 150


def test_only_a_build_gets_the_catalogues_credentials_and_their_volume() -> None:
    given = OpSettings(image=IMAGE, catalogue_secret="lakes", catalogue_claim="models")
    build, others = (placing.volumes(given, "token", builds=builds) for builds in (True, False))
    assert {"name": "catalogues", "secret": {"secretName": "lakes", "defaultMode": 0o440}} in build[0]
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in build[0]
    read_only = {m["mountPath"] for m in build[1] if m.get("readOnly")}
    assert {"/var/run/headgate/catalogues", "/mnt/headgate/models"} <= read_only
    assert not {"catalogues", "models"} & {volume["name"] for volume in others[0]}
    told = [placing.environment(given, {}, builds=builds, own_token=False) for builds in (True, False)]
    folder = {"name": "HEADGATE_CATALOGUE_CREDENTIALS", "value": "/var/run/headgate/catalogues"}
    assert [folder in one for one in told] == [True, False]


def test_only_a_build_gets_the_registrys_password_and_a_large_disk() -> None:
    build, step = made("build"), made("step")
    assert variables(build)["DOCKER_CONFIG"] == "/var/run/headgate/registry"
    disks = {v["name"]: v["emptyDir"] for v in build["spec"]["volumes"] if "emptyDir" in v}
    assert disks == {"tmp": {}, "data": {"sizeLimit": "20Gi"}}
    assert "DOCKER_CONFIG" not in variables(step)
    assert {v["name"] for v in step["spec"]["volumes"]} == {"tmp", "data", "op-token"}


LEAF = Leaf(
    "build",
    "build",
    (),
    {},
    outputs=(Output("digest", "/tmp/outputs/digest"), Output("message", "/tmp/outputs/message", "")),
    pod={"resources": {"limits": {"memory": "1Gi"}}},
)


def ended(code: int, message: str = "", reason: str = "", **status: Any) -> dict[str, Any]:
    terminated = {"exitCode": code, "message": message, "reason": reason}
    phase = "Failed" if code else "Succeeded"
    return {"status": {"phase": phase, "containerStatuses": [{"state": {"terminated": terminated}}], **status}}


def words(message: str, **outputs: str) -> str:
    return json.dumps({"message": message, "outputs": outputs})


RUNNING = {"status": {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}}
NO_IMAGE = {"reason": "ImagePullBackOff", "message": "back-off"}
PULLING = {"status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": NO_IMAGE}}]}}
DELETED = {**ended(143), "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param({}, None, id="nobody has looked at it yet"),
        pytest.param(RUNNING, None, id="it runs"),
        pytest.param(
            ended(0, words("built", digest="abc")), Outcome(0, outputs={"digest": "abc", "message": ""}), id="done"
        ),
        pytest.param(
            {**ended(0, words("", digest="a")), "metadata": {"deletionTimestamp": "x"}},
            Outcome(0, outputs={"digest": "a", "message": ""}),
            id="done while it is deleted",
        ),
        pytest.param(
            ended(0, "no JSON"),
            Outcome(0, error="output digest: it left none in its termination message"),
            id="an output is missing",
        ),
        pytest.param(ended(3, words("the gate said no")), Outcome(3, "the gate said no"), id="no"),
        pytest.param(ended(1, "Traceback\nKeyError: 'x'\n"), Outcome(1, "KeyError: 'x'"), id="a crash: the log's end"),
        pytest.param(
            ended(137, "", "OOMKilled"), Outcome(137, "out of memory: it needed more than 1Gi"), id="out of memory"
        ),
        pytest.param(
            {"status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}},
            Outcome(None, error="Evicted: low on memory"),
            id="evicted before it ran",
        ),
        pytest.param(
            ended(137, reason="Error") | {"status": {**ended(137)["status"], "reason": "Evicted", "message": "disk"}},
            Outcome(None, error="Evicted: disk"),
            id="evicted while it ran",
        ),
        pytest.param(DELETED, Outcome(None, error="its pod was deleted"), id="deleted by somebody"),
    ],
)
def test_how_an_attempt_ended_is_read_from_its_pod(pod: dict[str, Any], expected: Outcome | None) -> None:
    assert render.outcome(pod, LEAF, age_s=1.0) == expected


def test_an_image_that_cannot_be_pulled_is_an_error_after_a_while() -> None:
    assert render.outcome(PULLING, LEAF, age_s=10.0) is None
    assert render.outcome(PULLING, LEAF, age_s=121.0) == Outcome(None, error="ImagePullBackOff: back-off")


FULL = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"}


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        pytest.param({}, "", id="nobody has looked at it yet"),
        pytest.param(RUNNING, "", id="it runs"),
        pytest.param({"status": {"conditions": [FULL]}}, "Unschedulable: 0/2 nodes are available", id="no room"),
        pytest.param({"status": {"conditions": [{**FULL, "status": "True"}]}}, "", id="scheduled"),
        pytest.param(PULLING, "ImagePullBackOff: back-off", id="no image"),
    ],
)
def test_why_a_pod_does_not_run_yet_is_known(pod: dict[str, Any], says: str) -> None:
    assert render.trouble(pod) == says


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        pytest.param(
            {"script": {"image": "i", "command": ["sh"], "source": "true"}},
            "a script has no file in a pod",
            id="script",
        ),
        pytest.param(
            {
                "container": {"image": "i", "command": ["sh"]},
                "outputs": {"parameters": [{"name": "o", "valueFrom": {"path": "/tmp/outputs/o"}}]},
            },
            "its output parameters cannot be read here",
            id="outputs of a container that is not ours",
        ),
        pytest.param({"container": {"command": ["sh"]}}, "`image` is not set", id="no image"),
    ],
)
def test_what_only_argo_can_do_is_refused_by_name(template: dict[str, Any], reason: str) -> None:
    document = {"metadata": {"name": "w"}, "spec": {"entrypoint": "m", "templates": [{"name": "m", **template}]}}
    with pytest.raises(SpecError, match=reason):
        compile_workflow(document, None)


def test_containers_run_as_they_are_where_there_are_containers() -> None:
    container = {"image": "team/train:1", "command": ["train"], "args": ["--fast"], "resources": {"limits": {"cpu": 1}}}
    template = {"name": "m", "container": container, "nodeSelector": {"pool": "gpu"}}
    spec = compile_workflow({"metadata": {"name": "w"}, "spec": {"entrypoint": "m", "templates": [template]}}, None)
    (leaf,) = spec.leaves()
    assert (leaf.image, leaf.argv) == ("team/train:1", (("train",), ("--fast",)))
    assert leaf.pod == {"resources": {"limits": {"cpu": 1}}, "nodeSelector": {"pool": "gpu"}}


def test_settings_come_from_the_environment_and_an_empty_one_is_none() -> None:
    found = settings.from_environment({"HEADGATE_OP_IMAGE": IMAGE, "HEADGATE_BUILD_POOL": "", "PATH": "/bin"})
    assert found == OpSettings(image=IMAGE)


def test_every_setting_that_cannot_be_is_said_at_once() -> None:
    with pytest.raises(FindingsError) as caught:
        settings.from_environment({"HEADGATE_BUILD_MEMORY": "lots", "HEADGATE_ARGO_STEPS": "agent"})
    assert [(f.code, f.message) for f in caught.value.findings] == [
        ("op-settings", "HEADGATE_ARGO_STEPS is `agent`"),
        ("op-settings", "HEADGATE_BUILD_MEMORY is `lots`"),
    ]


def test_every_setting_is_in_the_docs_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text("utf-8")
    for setting in fields(OpSettings):
        default = f"`{setting.default}`" if setting.default else ""
        row = f"| `{setting.metadata['variable']}` | {setting.metadata['says']} | {default} |".replace("|  |", "| |")
        assert row in page

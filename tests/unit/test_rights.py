"""Rights are written once: the chart's Roles and `install.yaml` say the same, and nothing is `*`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from headgate_kit.kube.kinds import ENDPOINT_ROLLOUT, ONLINE_ENDPOINT
from headgate_kit.kube.rights import CONTROLLER, RIGHTS, ROUTER, rights
from scripts import script

INSTALL = Path(__file__).parents[2] / "install"
NO_HELM = "helm is not on the PATH: put it there, or name it in $HELM"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return script("install/generate.py")


def objects(kind: str) -> list[dict[str, Any]]:
    return [o for o in yaml.safe_load_all((INSTALL / "install.yaml").read_text()) if o and o["kind"] == kind]


def test_the_charts_roles_are_the_list(generate: ModuleType) -> None:
    assert (INSTALL / "chart/templates/rbac.yaml").read_text() == generate.rbac(), "run `make manifests`"


def test_install_yaml_is_the_chart(generate: ModuleType) -> None:
    helm = generate.find_helm()
    if helm is None:
        pytest.skip(NO_HELM)
    assert (INSTALL / "install.yaml").read_text() == generate.manifest(helm), "run `make manifests`"


def test_no_right_is_a_star_and_none_is_listed_twice() -> None:
    named = Counter((r.part, r.group, r.resource, verb) for r in RIGHTS for verb in r.verbs)
    assert [name for name, count in named.items() if count > 1 or "*" in name] == []


def test_only_reading_nodes_reaches_beyond_the_namespace() -> None:
    assert [(r.resource, r.verbs) for r in RIGHTS if r.cluster] == [("nodes", ("list",))]
    for role in objects("ClusterRole"):
        assert [rule["resources"] for rule in role["rules"]] == [["nodes"]]


@pytest.mark.parametrize("part", [CONTROLLER, ROUTER])
def test_the_rendered_role_grants_what_the_list_says_for_its_settings(part: str) -> None:
    settings = {"engine": "pods", "resources.enabled": "true", "nodes.read": "true"}
    asked = {(r.group, r.resource, verb) for r in rights(part, settings) if not r.cluster for verb in r.verbs}
    role = next(o for o in objects("Role") if o["metadata"]["name"] == f"headgate-{part}")
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == asked


def test_each_right_was_taken_away_on_a_cluster_and_missed_there() -> None:
    """A new one has to be shown by `make e2e ARGS="-k test_rights"`, which keeps what it saw."""
    settings = {"engine": "pods", "resources.enabled": "true", "nodes.read": "true"}
    ours = {f"{p} {r.resource} {verb}" for p in (CONTROLLER, ROUTER) for r in rights(p, settings) for verb in r.verbs}
    kept = json.loads((INSTALL.parent / "bench/results/cluster.json").read_text())["rights"]
    assert (set(kept["missed"]), sum(kept["granted"].values())) == (ours, len(ours))


def test_a_right_that_needs_a_setting_is_left_out_without_it() -> None:
    named = {r.resource for r in rights(CONTROLLER, {"engine": "pods", "resources.enabled": "false"})}
    assert "workflows" not in named
    assert "scaledobjects" not in named
    assert "onlineendpoints" not in named
    assert "secrets" in named


def test_the_chart_gives_the_right_to_keda_when_it_is_asked_to(generate: ModuleType) -> None:
    helm = generate.find_helm()
    if helm is None:
        pytest.skip(NO_HELM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "SETTINGS", {**generate.SETTINGS, "keda.enabled": "true"})
        rendered = [o for o in yaml.safe_load_all(generate.manifest(helm)) if o and o["kind"] == "Role"]
    rules = [rule for o in rendered for rule in o["rules"] if rule["resources"] == ["scaledobjects"]]
    wanted = {"apiGroups": ["keda.sh"], "resources": ["scaledobjects"], "verbs": ["create", "patch", "delete"]}
    assert rules == [wanted]


@pytest.mark.parametrize("name", ["headgate-controller", "headgate-router"])
def test_pods_of_ours_may_do_nothing_to_their_node(name: str) -> None:
    pod = next(o for o in objects("Deployment") if o["metadata"]["name"] == name)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not [word for word in container["args"] if "token=" in word or "password" in word]


def test_custom_resources_are_named_as_the_code_names_them() -> None:
    for kind, file in ((ONLINE_ENDPOINT, "onlineendpoints"), (ENDPOINT_ROLLOUT, "endpointrollouts")):
        found = yaml.safe_load((INSTALL / f"crds/{file}.yaml").read_text())["spec"]
        version = found["versions"][0]
        assert (f"{found['group']}/{version['name']}", found["names"]["kind"]) == (kind.api, kind.name)
        assert found["names"]["plural"] == kind.plural
        assert version["subresources"] == {"status": {}}

"""What a team's pipeline refers to, and what is submitted to Argo: as it was, and nothing that was found to bite.

`make golden` rewrites templates.yml, argo-container.yml and argo-plugin.yml.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.planning import make_plan
from headgate.rollout import Head
from headgate.testing import deployment, target
from headgate_pipelines import op, rollout, templates
from headgate_pipelines.engines.argo.document import argo_document
from headgate_pipelines.engines.settings import OpSettings
from headgate_pipelines.plugin.execute import LIGHT, body_of

HERE = Path(__file__).parent
WRITE = os.environ.get("HEADGATE_GOLDEN") == "write"
FORBIDDEN = {"when", "suspend", "withItems", "withParam", "withSequence", "hooks", "script", "resource", "http"}
INT_OR_STRING = {"limit", "factor"}
LONGEST_NAME = 63
SETTINGS = OpSettings(image="registry.example/runner@sha256:0", build_pool="system", registry_secret="registry")
GIVEN = {"HEADGATE_CONTROL": "http://headgate-controller.ml:7070", "HEADGATE_BUILDER": "oci"}
INPUT = re.compile(r"\{\{inputs\.parameters\.([\w-]+)\}\}")


def exported() -> list[dict[str, Any]]:
    return templates.documents(SETTINGS, GIVEN, namespace="ml")


def submitted(*, plugin: bool) -> list[dict[str, Any]]:
    blue, green = deployment("blue"), deployment("green", "2")
    plan = make_plan(Head("fraud", traffic={blue.revision: 1000}), target("c0ffee", [blue, green], {"green": 100})).plan
    assert plan is not None
    document = dict(rollout.workflow(plan, "ro-fraud-c0ffee0000-1"))
    document["metadata"]["annotations"].pop(rollout.ANNOTATION_PLAN)  # what it is, other tests hold
    return [argo_document(document, SETTINGS, GIVEN, plugin=plugin)]


FILES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "templates.yml": exported,
    "argo-container.yml": lambda: submitted(plugin=False),
    "argo-plugin.yml": lambda: submitted(plugin=True),
}


@pytest.fixture(params=FILES)
def made(request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Any]]]:
    return request.param, FILES[request.param]()


def values(node: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Key, path and value of everything in a document."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, f"{path}.{key}", value
            yield from values(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from values(value, f"{path}[{index}]")


def every_template(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [template for document in documents for template in document["spec"]["templates"]]


def test_they_are_as_they_were(made: tuple[str, list[dict[str, Any]]]) -> None:
    name, documents = made
    if WRITE:
        (HERE / name).write_text(yaml.safe_dump_all(documents, sort_keys=True, width=120), "utf-8")
    assert documents == list(yaml.safe_load_all((HERE / name).read_text("utf-8"))), "`make golden`, then read the diff"


def test_they_use_nothing_that_was_found_to_bite(made: tuple[str, list[dict[str, Any]]]) -> None:
    assert not {key for document in made[1] for key, _, _ in values(document["spec"])} & FORBIDDEN


def test_numbers_argo_reads_as_text_are_text(made: tuple[str, list[dict[str, Any]]]) -> None:
    retries = [template.get("retryStrategy", {}) for template in every_template(made[1])]
    found = [(path, value) for retry in retries for key, path, value in values(retry) if key in INT_OR_STRING]
    assert all(isinstance(value, str) for _, value in found)


def test_names_fit_and_every_container_says_its_command(made: tuple[str, list[dict[str, Any]]]) -> None:
    assert all(len(document["metadata"]["name"]) <= LONGEST_NAME for document in made[1])
    for template in every_template(made[1]):
        assert len(template["name"]) <= LONGEST_NAME
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", template["name"])
        if "container" in template:
            assert template["container"]["command"] == ["python", "-m", "headgate_pipelines.op"]


def test_everything_that_is_read_is_an_input(made: tuple[str, list[dict[str, Any]]]) -> None:
    for template in every_template(made[1]):
        given = {parameter["name"] for parameter in (template.get("inputs") or {}).get("parameters") or ()}
        assert set(INPUT.findall(yaml.safe_dump(template))) == given


def test_no_pod_may_do_what_it_need_not_and_no_token_is_in_an_argument(
    made: tuple[str, list[dict[str, Any]]],
) -> None:
    for template in every_template(made[1]):
        if "container" in template:
            assert template["container"]["securityContext"]["readOnlyRootFilesystem"] is True
            assert not [word for word in template["container"]["args"] if "token" in word]


def test_a_reference_brings_all_that_its_pod_needs() -> None:
    """A templateRef takes nothing from the spec it comes from: account, volumes and security are the template's own."""
    for template in every_template(exported()):
        assert template["serviceAccountName"] == "headgate-workflow"
        assert template["securityContext"]["runAsNonRoot"] is True
        mounted = {mount["name"] for mount in template["container"]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["volumes"]}


def test_every_op_of_a_reference_is_understood_by_the_op() -> None:
    for template in every_template(exported()):
        words = [INPUT.sub(lambda found: {"percent": "5"}.get(found[1], "x"), w) for w in template["container"]["args"]]
        assert op.arguments(words).verb == template["name"]


def test_every_light_op_is_a_plugin_step_where_plugins_are_used() -> None:
    found = {t["name"]: body_of(t) for t in every_template(submitted(plugin=True)) if "dag" not in t}
    assert found.pop("build") is None
    assert {(body or {}).get("verb") for body in found.values()} == set(LIGHT)

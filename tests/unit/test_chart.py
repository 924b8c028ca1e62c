"""The chart's values are held by their schema, and every value of ours and of the examples is one that it takes."""

from __future__ import annotations

import copy
import json
import re
import runpy
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from headgate_controllers.platforms.kubernetes.routers import ROUTERS
from headgate_pipelines.engines.settings import from_environment

INSTALL = Path(__file__).parents[2] / "install"
SCHEMA = json.loads((INSTALL / "chart/values.schema.json").read_text())
DEFAULTS = yaml.safe_load((INSTALL / "chart/values.yaml").read_text())
# Taken over as they are: what is in them is Kubernetes' own.
WHOLE = ("podSecurityContext", "controller.resources", "router.resources")
TEMPLATES = "".join(p.read_text() for p in (INSTALL / "chart/templates").iterdir())


def problems(values: Mapping[str, Any]) -> list[str]:
    return [e.message for e in jsonschema.Draft7Validator(SCHEMA).iter_errors(values)]


def changed(path: str, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(DEFAULTS)
    place = found
    *folders, name = path.split(".")
    for folder in folders:
        place = place[folder]
    place[name] = value
    return dict(found)


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and f"{path}{key}" not in WHOLE:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key


def test_the_defaults_are_what_the_schema_takes() -> None:
    assert problems(DEFAULTS) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("repo.url", "https://ada:secret@git.example/e.git", id="a password in the repo's URL"),
        pytest.param("registry.url", "https://registry.example/team", id="a registry with a scheme"),
        pytest.param("engine", "cron", id="an engine that is none"),
        pytest.param("controller.replicaCount", 3, id="three controllers"),
        pytest.param("router.replicaCount", 0, id="no router"),
        pytest.param("runner.image.digest", "latest", id="a digest that is none"),
        pytest.param("router.replicas", 2, id="a misspelt name"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_installed(path: str, value: Any) -> None:
    assert problems(changed(path, value))


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/team/e.git",
        "git://git.ml:9418/e.git",
        "ssh://git@git.example/e.git",
        "git@git.example:team/e.git",
    ],
)
def test_every_kind_of_repo_url_is_taken(url: str) -> None:
    assert problems(changed("repo.url", url)) == []


def test_every_value_is_used_by_a_template() -> None:
    read = set(re.findall(r"\.Values\.([A-Za-z.]+)", TEMPLATES)) | set(re.findall(r"Values\.([A-Za-z.]+)", TEMPLATES))
    unused = [
        leaf for leaf in leaves(DEFAULTS) if not any(leaf == name or leaf.startswith(f"{name}.") for name in read)
    ]
    assert unused == []


def test_the_examples_install_with_values_the_schema_takes() -> None:
    given = []
    for file in ("argocd-application.yaml", "flux.yaml"):
        for document in yaml.safe_load_all((INSTALL / "examples" / file).read_text()):
            spec = document["spec"]
            given += [s["helm"]["valuesObject"] for s in spec.get("sources", ()) if "helm" in s]
            given += [spec["values"]] if "values" in spec else []
    assert len(given) == 2
    for values in given:
        lower = json.loads(json.dumps(values).replace("EXAMPLE", "example").replace("REGISTRY", "registry"))
        assert problems(lower) == []


@pytest.mark.parametrize("file", sorted(p.name for p in (INSTALL / "examples").glob("*.yaml")))
def test_an_example_is_yaml_with_no_secret_in_it(file: str) -> None:
    text = (INSTALL / "examples" / file).read_text()
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(text))
    assert "hg_" not in text
    assert not re.search(r"password: [^$\n]", text)


TLS = {"router.tls.secretName": "router-tls"}


@pytest.mark.parametrize(
    ("sets", "port", "url"),
    [
        pytest.param({}, 80, "http://headgate-router.headgate", id="plain"),
        pytest.param(TLS, 443, "https://headgate-router.headgate", id="TLS"),
        pytest.param(
            {**TLS, "router.service.port": "8443"}, 8443, "https://headgate-router.headgate:8443", id="a port"
        ),
        pytest.param({"router.url": "https://models.example"}, 80, "https://models.example", id="another name"),
    ],
)
def test_the_routers_service_url_and_scrape_agree(sets: dict[str, str], port: int, url: str) -> None:
    generate = runpy.run_path(str(INSTALL / "generate.py"))
    helm = generate["find_helm"]()
    if helm is None:
        pytest.skip("helm is not on the PATH: put it there, or name it in $HELM")
    text = generate["manifest"](helm, {**sets, "metrics.serviceMonitor.enabled": "true"})
    made = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(text) if o}
    assert made["Service", "headgate-router"]["spec"]["ports"][0]["port"] == port
    (controller,) = made["Deployment", "headgate-controller"]["spec"]["template"]["spec"]["containers"]
    assert f"--router-url={url}" in controller["args"]
    (router,) = made["Deployment", "headgate-router"]["spec"]["template"]["spec"]["containers"]
    scheme = "HTTPS" if "router.tls.secretName" in sets else "HTTP"
    assert router["readinessProbe"]["httpGet"]["scheme"] == router["livenessProbe"]["httpGet"]["scheme"] == scheme
    (scrape,) = made["ServiceMonitor", "headgate-router"]["spec"]["endpoints"]
    assert scrape.get("scheme", "http") == scheme.lower()


BOTH = {"models.tls.serverSecret": "models-server", "models.tls.clientSecret": "models-client"}


def test_each_part_is_given_the_secret_it_shows_and_none_is_given_another() -> None:
    generate = runpy.run_path(str(INSTALL / "generate.py"))
    helm = generate["find_helm"]()
    if helm is None:
        pytest.skip("helm is not on the PATH: put it there, or name it in $HELM")
    made = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(generate["manifest"](helm, BOTH)) if o}
    pods = {
        name: made["Deployment", f"headgate-{name}"]["spec"]["template"]["spec"] for name in ("router", "controller")
    }
    for pod in pods.values():
        (volume,) = [v for v in pod["volumes"] if v["name"] == "models-tls"]
        assert (volume["secret"]["secretName"], volume["secret"]["optional"]) == ("models-client", True)
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models-tls"]
        assert mount["readOnly"] is True
    assert f"--models-tls={mount['mountPath']}" in pods["router"]["containers"][0]["args"]
    told = {e["name"]: e.get("value") for e in pods["controller"]["containers"][0]["env"]}
    assert told["HEADGATE_MODELS_TLS_SECRET"] == "models-server"
    assert told["HEADGATE_MODELS_TLS"] == mount["mountPath"]


def test_models_that_ask_for_a_certificate_and_routers_that_have_none_are_not_installed() -> None:
    generate = runpy.run_path(str(INSTALL / "generate.py"))
    helm = generate["find_helm"]()
    if helm is None:
        pytest.skip("helm is not on the PATH: put it there, or name it in $HELM")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        generate["manifest"](helm, {"models.tls.serverSecret": "models-server"})
    assert "set models.tls.clientSecret, too" in refused.value.stderr


def test_what_the_chart_tells_the_controller_of_ops_can_be_read() -> None:
    pods = [o for o in yaml.safe_load_all((INSTALL / "install.yaml").read_text()) if o and o["kind"] == "Deployment"]
    controller = next(p for p in pods if p["metadata"]["name"] == "headgate-controller")
    env = controller["spec"]["template"]["spec"]["containers"][0]["env"]
    settings = from_environment({e["name"]: str(e["value"]) for e in env if "value" in e})
    assert (settings.image, settings.account, settings.build_memory) == ("headgate-runner:0.1.0", "headgate-op", "4Gi")


def test_the_controller_finds_the_router_pods_that_the_chart_makes() -> None:
    manifests = list(yaml.safe_load_all((INSTALL / "install.yaml").read_text()))
    deployments = [m for m in manifests if m["kind"] == "Deployment"]
    wanted = dict(pair.split("=") for pair in ROUTERS.split(","))
    found = [
        d["metadata"]["name"]
        for d in deployments
        if wanted.items() <= d["spec"]["template"]["metadata"]["labels"].items()
    ]
    assert found == ["headgate-router"]
    router = next(d for d in deployments if d["metadata"]["name"] == "headgate-router")["spec"]["template"]["spec"]
    assert "--worker=$(POD_NAME)" in router["containers"][0]["args"], "a worker is named as its pod"

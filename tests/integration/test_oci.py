"""Images of revisions: real files, real uv, a registry that holds its clients to the protocol."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import registryserver
from headgate import codec
from headgate.findings import SpecError, TerminalError, TransientError
from headgate.target import EnvironmentPin, ModelPin, Source, SourcePath
from headgate_kit.layout import DataFolder
from headgate_pipelines.builders.oci import OciBuilder

NAME = "team/headgate-models"
CODE = SourcePath("endpoints/fraud/src", "c" * 40)
MODEL = ModelPin("fraud", "3", SourcePath("endpoints/fraud/models/blue.txt", "d" * 40))
# An environment that needs no package index: another interpreter than asked for by default, and no packages.
OTHER = EnvironmentPin("3.99", ())


def source(**changes: Any) -> Source:
    return replace(Source("score", MODEL, CODE, "score.py", EnvironmentPin("", ()), {}, "/score", "small"), **changes)


@pytest.fixture
def server() -> Iterator[registryserver.Registry]:
    with registryserver.running() as registry:
        yield registry


@pytest.fixture
def builder(server: registryserver.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OciBuilder:
    registryserver.set_up(server.host, monkeypatch)
    server.asked.clear()
    return OciBuilder(DataFolder(tmp_path / "data"), {"3.99": str(Path(sys.executable).resolve())})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    (root / "endpoints/fraud/src").mkdir(parents=True)
    (root / "endpoints/fraud/src/score.py").write_text("def init(): ...\n")
    (root / "endpoints/fraud/models").mkdir()
    (root / "endpoints/fraud/models/blue.txt").write_text("weights")
    return root


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "build.log"


def content(server: registryserver.Registry, image: str) -> tuple[dict[str, Any], list[dict[str, bytes | str]]]:
    """A configuration, and what each layer above the base holds."""
    manifest = json.loads(server.manifests[(NAME, image.partition("@")[2])][0])
    blobs = [server.blobs[(NAME, layer["digest"])] for layer in manifest["layers"][1:]]
    return json.loads(server.blobs[(NAME, manifest["config"]["digest"])]), [_unpacked(blob) for blob in blobs]


def _unpacked(blob: bytes) -> dict[str, bytes | str]:
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        return {
            m.name: m.linkname if m.issym() else file.read()
            for m in tar
            if (file := tar.extractfile(m) if m.isreg() else io.BytesIO()) is not None and not m.isdir()
        }


def test_an_image_has_model_and_code_where_a_replica_looks_for_them(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    made = builder.build(source(), files, log)
    assert made.image.startswith(f"{server.host}/{NAME}@sha256:")
    assert (made.location, made.environment) == ("/opt/headgate/bundle", "")
    config, (model, code) = content(server, made.image)
    assert model == {"opt/headgate/bundle/models/fraud/3/blue.txt": b"weights"}
    assert set(code) == {"opt/headgate/bundle/code/src/score.py", "opt/headgate/bundle/bundle.json"}
    bundle = json.loads(code["opt/headgate/bundle/bundle.json"])
    assert (bundle["code"], bundle["model"], bundle["scoring_script"]) == ("code/src", "models/fraud/3", "score.py")
    assert config["config"]["User"] == "10001:10001"
    assert config["config"]["Cmd"][0] == "/opt/headgate/venv/bin/python"


def test_a_model_that_replicas_fetch_is_not_in_the_image_but_its_place_is(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    pin = ModelPin("churn", "7", None, ".catalogue/lake/churn/7", "d" * 64)
    asked = replace(source(), model=pin)
    builder.apart = True
    made = builder.build(asked, files, log)
    assert made.apart
    _, (code,) = content(server, made.image)
    assert json.loads(code["opt/headgate/bundle/bundle.json"])["model"] == "models/churn/7"
    assert builder.find(asked) == made
    assert not builder.build(source(), files, log).apart, "a model of the repo is in the image all the same"
    builder.apart = False
    assert builder.find(asked) is None, "the one without its model is not taken for the one that has it"


def test_what_was_built_is_found_by_asking_once_and_nothing_is_pushed_again(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    made = builder.build(source(), files, log)
    server.asked.clear()
    assert builder.find(source()) == made
    assert server.asked == [f"GET /v2/{NAME}/manifests/{codec.digest(source())}"]
    assert builder.build(source(), files, log) == made
    assert not [line for line in server.asked if not line.startswith("GET")]


def test_the_same_content_is_the_same_image_in_another_registry(
    builder: OciBuilder, files: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = builder.build(source(), files, log).image.partition("@")[2]
    with registryserver.running() as elsewhere:
        registryserver.set_up(elsewhere.host, monkeypatch)
        (files / "endpoints/fraud/src/score.py").touch()
        two = OciBuilder(DataFolder(tmp_path / "other")).build(source(), files, log).image.partition("@")[2]
    assert one == two


def test_layers_are_pushed_once_whoever_needs_them(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    builder.build(source(), files, log)
    server.asked.clear()
    builder.build(source(variables={"A": "1"}), files, log)
    assert server.count("PATCH", "uploads") == 1, "the code's layer, which has the manifest; not the model's"


def test_the_bases_layers_are_taken_over_not_sent(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    builder.build(source(), files, log)
    assert server.count("POST", r"mount=sha256.*from=base%2Frunner") == 1
    assert server.count("GET", "/v2/base/runner/blobs/") == 1, "the configuration, no layer"


def test_the_bases_layers_are_copied_where_a_registry_does_not_mount(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    server.mounts = False
    made = builder.build(source(), files, log)
    assert len(content(server, made.image)[1]) == 2
    assert "base: layer of" in log.read_text()


def test_an_environment_is_installed_once_and_works_at_its_place(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    one = builder.build(source(environment=OTHER), files, log)
    two = builder.build(source(environment=OTHER, variables={"A": "1"}), files, log)
    assert one.environment == two.environment == "/opt/headgate/environment"
    assert one.image != two.image
    assert log.read_text().count("environment: layer of") == 1
    assert log.read_text().count("environment: installed before") == 1
    _, (environment, *_) = content(server, two.image)
    assert environment["opt/headgate/environment/bin/python"] == str(Path(sys.executable).resolve())
    scratch = str(log.parent)
    assert not [name for name, held in environment.items() if isinstance(held, bytes) and scratch.encode() in held]


def test_the_environment_of_an_image_runs(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path, tmp_path: Path
) -> None:
    made = builder.build(source(environment=OTHER), files, log)
    manifest = json.loads(server.manifests[(NAME, made.image.partition("@")[2])][0])
    with tarfile.open(fileobj=io.BytesIO(server.blobs[(NAME, manifest["layers"][1]["digest"])])) as tar:
        tar.extractall(tmp_path / "root", filter="tar")
    python = tmp_path / "root/opt/headgate/environment/bin/python"
    said = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(python.parents[1])


def test_a_push_that_breaks_leaves_nothing_to_be_found(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headgate_kit.oci.registry.PAUSES_S", (0.0,))
    server.fault("PUT", "manifests", 500, times=2)
    with pytest.raises(TransientError, match="registry-unreachable"):
        builder.build(source(), files, log)
    assert builder.find(source()) is None
    assert builder.build(source(), files, log) == builder.find(source())


def test_of_two_builds_at_once_the_second_takes_what_the_first_pushed(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.immutable = True
    first = builder.build(source(), files, log)
    monkeypatch.setattr(OciBuilder, "_find", lambda *_: None)  # it had looked before the first was done
    assert builder.build(source(), files, log) == first


def test_a_tag_that_holds_something_else_is_not_taken_for_ours(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    foreign = json.dumps({"config": {}, "layers": []}).encode()
    server.manifests[(NAME, codec.digest(source()))] = (foreign, "application/vnd.oci.image.manifest.v1+json")
    assert builder.find(source()) is None
    server.immutable = True
    with pytest.raises(TerminalError, match="tag_immutable"):
        builder.build(source(), files, log)


def test_a_base_that_is_not_there_is_not_the_authors_fault(
    builder: OciBuilder, files: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_BASE_IMAGE", "127.0.0.1:1/none")
    monkeypatch.setattr("headgate_kit.oci.registry.PAUSES_S", ())
    with pytest.raises(TransientError, match="registry-unreachable"):
        OciBuilder(DataFolder(tmp_path / "data")).build(source(), files, log)


def test_a_base_the_registry_does_not_have_is_said(
    server: registryserver.Registry, files: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_REGISTRY", f"{server.host}/team")
    monkeypatch.setenv("HEADGATE_REGISTRY_INSECURE", "1")
    monkeypatch.setenv("HEADGATE_BASE_IMAGE", f"{server.host}/gone:1")
    with pytest.raises(TerminalError, match=r"error\[base-missing\](.|\n)*the registry does not have it"):
        OciBuilder(DataFolder(tmp_path / "data")).build(source(), files, log)


def test_the_authors_errors_come_before_anything_is_pushed(
    server: registryserver.Registry, builder: OciBuilder, files: Path, log: Path
) -> None:
    with pytest.raises(SpecError):
        builder.build(source(scoring_script="gone.py"), files, log)
    assert not [line for line in server.asked if not line.startswith("GET")]


def test_a_registry_reached_by_another_address_keeps_its_name_in_the_image(
    server: registryserver.Registry, files: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = registryserver.set_up(server.host, monkeypatch)
    monkeypatch.setenv("HEADGATE_REGISTRY", "registry.example/team")
    monkeypatch.setenv("HEADGATE_REGISTRY_ADDRESS", server.host)
    monkeypatch.setenv("HEADGATE_BASE_IMAGE", reference.replace(server.host, "registry.example"))
    made = OciBuilder(DataFolder(tmp_path / "data")).build(source(), files, log)
    assert made.image.startswith(f"registry.example/{NAME}@sha256:")


@pytest.mark.parametrize("name", ["HEADGATE_REGISTRY", "HEADGATE_BASE_IMAGE"])
def test_a_setting_that_is_missing_is_named(name: str, builder: OciBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(TerminalError, match=f"{name} is not set"):
        OciBuilder(DataFolder(Path("unused")))


def test_the_controller_is_told_that_images_come_out() -> None:
    assert OciBuilder.makes == "image"

"""Layers, images and credentials as values."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from headgate.findings import TerminalError
from headgate_kit.files import DiskFull
from headgate_kit.oci import credentials, image
from headgate_kit.oci.credentials import Challenge, Login
from headgate_kit.oci.image import Descriptor, Reference
from headgate_pipelines.builders.oci import layers

D = "sha256:" + "d" * 64


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    (root / "lib/deep").mkdir(parents=True)
    (root / "score.py").write_text("x = 1\n")
    (root / "lib/deep/run").write_text("#!/bin/sh\n")
    (root / "lib/deep/run").chmod(0o700)
    (root / "lib/link").symlink_to("deep/run")
    (root / ("n" * 200)).write_text("long")
    return root


def members(layer: layers.Layer) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(layer.file) as tar:
        return {member.name: member for member in tar}


def test_the_same_files_are_the_same_layer_whenever_they_were_made(files: Path, tmp_path: Path) -> None:
    one = layers.pack([(files, "opt/x")], tmp_path / "one", 6)
    for path in (files / "score.py", files / "lib"):
        os.utime(path, (1, 1))
    (files / "score.py").chmod(0o600)
    two = layers.pack([(files, "opt/x")], tmp_path / "two", 6)
    assert (one.digest, one.diff_id, one.size) == (two.digest, two.diff_id, two.size)
    assert one.file.read_bytes() == two.file.read_bytes()


def test_a_layer_says_what_it_is(files: Path, tmp_path: Path) -> None:
    layer = layers.pack([(files, "opt/x")], tmp_path / "layer", 6)
    content = layer.file.read_bytes()
    assert layer.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert layer.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(content)).hexdigest()}"
    assert layer.size == len(content)


def test_nobody_owns_what_is_in_a_layer_and_it_has_no_time(files: Path, tmp_path: Path) -> None:
    found = members(layers.pack([(files, "opt/x")], tmp_path / "layer", 0))
    assert {(m.uid, m.gid, m.mtime) for m in found.values()} == {(0, 0, 0)}
    modes = {name: found[f"opt/x/{name}"].mode for name in ("score.py", "lib/deep/run", "lib")}
    assert modes == {"score.py": 0o644, "lib/deep/run": 0o755, "lib": 0o755}
    assert found["opt/x/lib/link"].linkname == "deep/run"


def test_folders_above_come_first_and_once(files: Path, tmp_path: Path) -> None:
    parts = [(files / "lib", "opt/x/code"), (files / "score.py", "opt/x/other/score.py")]
    found = list(members(layers.pack(parts, tmp_path / "layer", 0)))
    assert found == sorted(set(found))
    assert found[:3] == ["opt", "opt/x", "opt/x/code"]


def test_a_pipe_is_refused(files: Path, tmp_path: Path) -> None:
    os.mkfifo(files / "pipe")
    with pytest.raises(ValueError, match="pipe is neither"):
        layers.pack([(files, "x")], tmp_path / "layer", 0)


def test_a_full_disk_is_said_plainly(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(layers.Sink, "write", full)
    with pytest.raises(DiskFull):
        layers.pack([(files, "x")], tmp_path / "layer", 0)


# --- references and images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python", Reference("docker.io", "library/python")),
        ("python:3.12-slim", Reference("docker.io", "library/python", "3.12-slim")),
        ("team/base", Reference("docker.io", "team/base")),
        ("ghcr.io/team/base:1", Reference("ghcr.io", "team/base", "1")),
        ("127.0.0.1:5001/base", Reference("127.0.0.1:5001", "base")),
        ("localhost/base", Reference("localhost", "base")),
        ("registry:5000/a/b:2", Reference("registry:5000", "a/b", "2")),
        (f"r.example/a@{D}", Reference("r.example", "a", "", D)),
        (f"r.example/a:1@{D}", Reference("r.example", "a", "1", D)),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, expected: Reference) -> None:
    assert image.parse(text) == expected


@pytest.mark.parametrize("text", ["", "r.example/", "r.example/UPPER", "a b", f"r.example/a@{D[:-1]}", "../a", "a//b"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not REGISTRY/NAME"):
        image.parse(text)


def test_a_digest_is_asked_for_before_a_tag() -> None:
    assert [Reference("r", "n", *more).version for more in ((), ("1",), ("1", D))] == ["latest", "1", D]


def test_an_index_gives_the_manifest_of_this_machine() -> None:
    platforms = [("linux", "amd64"), ("linux", "arm64"), ("windows", "amd64"), ("unknown", "unknown")]
    index = {"manifests": [{"digest": f"{o}-{a}", "platform": {"os": o, "architecture": a}} for o, a in platforms]}
    assert image.for_machine(index, "arm64") == "linux-arm64"
    with pytest.raises(LookupError, match="it is for amd64, arm64, not for riscv64"):
        image.for_machine(index, "riscv64")


BASE_CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2024-01-01T00:00:00Z",
    "config": {"User": "10001:10001", "Entrypoint": ["/old"], "Labels": {"a": "b"}, "Env": ["PATH=/bin"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:base"]},
    "history": [{"created": "2024-01-01T00:00:00Z"}],
}


def composed(kind: str = image.LAYER) -> tuple[dict[str, Any], dict[str, Any]]:
    manifest = {"layers": [{"mediaType": kind, "digest": "sha256:b", "size": 7}]}
    base = image.base(Reference("r", "base"), D, manifest, BASE_CONFIG)
    config, made = image.compose(base, [Descriptor(image.LAYER, "sha256:x", 3, "sha256:in")], ["run"], {"k": "v"})
    assert json.loads(made)["config"]["digest"] == image.digest(config)
    return json.loads(config), json.loads(made)


def test_an_image_is_its_base_with_layers_on_top() -> None:
    config, manifest = composed()
    assert [layer["digest"] for layer in manifest["layers"]] == ["sha256:b", "sha256:x"]
    assert config["rootfs"]["diff_ids"] == ["sha256:base", "sha256:in"]
    assert config["config"] == {
        "User": "10001:10001",
        "Env": ["PATH=/bin"],
        "Cmd": ["run"],
        "Labels": {"a": "b", "k": "v"},
    }
    assert manifest["annotations"] == {"k": "v"}


def test_an_image_has_no_time_of_its_own() -> None:
    assert composed() == composed()
    config, _ = composed()
    assert config["created"] == image.EPOCH
    assert len(config["history"]) == len(config["rootfs"]["diff_ids"])


def test_layers_of_docker_are_taken_as_they_are() -> None:
    _, manifest = composed("application/vnd.docker.image.rootfs.diff.tar.gzip")
    assert {layer["mediaType"] for layer in manifest["layers"]} == {image.LAYER}


def test_a_base_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="0 layers and 1 digests"):
        image.base(Reference("r", "base"), D, {"layers": []}, BASE_CONFIG)


# --- credentials ------------------------------------------------------------------------------------------------------


def config(folder: Path, value: Any) -> dict[str, str]:
    (folder / "config.json").write_text(json.dumps(value) if not isinstance(value, str) else value)
    return {"DOCKER_CONFIG": str(folder)}


def test_credentials_come_from_a_docker_config(tmp_path: Path) -> None:
    auth = base64.b64encode(b"me:pass:word").decode()
    auths = {
        "https://index.docker.io/v1/": {"auth": auth},
        "https://r.example/v2/": {"username": "u", "password": "p"},
        "10.0.0.1:5000": {"auth": auth, "identitytoken": "t"},
    }
    assert credentials.read(config(tmp_path, {"auths": auths})) == {
        "docker.io": Login("me", "pass:word"),
        "r.example": Login("u", "p"),
        "10.0.0.1:5000": Login("me", "pass:word", "t"),
    }


def test_no_config_is_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert credentials.read({}) == {}
    assert credentials.read(config(tmp_path, {})) == {}


@pytest.mark.parametrize(
    "value",
    ['{"auths": secret', '{"auths": ["secret"]}', '{"auths": {"r": {"auth": "secret!"}}}'],
    ids=["no JSON", "no map", "no base64"],
)
def test_a_broken_config_is_said_without_quoting_it(tmp_path: Path, value: str) -> None:
    with pytest.raises(TerminalError) as caught:
        credentials.read(config(tmp_path, value))
    assert "config.json is not a docker config.json" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_folder_without_a_config_is_said(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match=r"no config\.json in"):
        credentials.read({"DOCKER_CONFIG": str(tmp_path)})


def test_a_challenge_is_read() -> None:
    header = 'Bearer realm="https://auth.example/token",service="r.example",scope="repository:a,b:pull,push"'
    parameters = {"realm": "https://auth.example/token", "service": "r.example", "scope": "repository:a,b:pull,push"}
    assert credentials.challenge(header) == Challenge("bearer", parameters)
    assert credentials.challenge("") == Challenge("", {})


def test_a_login_does_not_show_its_secrets() -> None:
    assert "hidden" not in repr(Login("me", "hidden", "hidden"))
    assert Login().basic == ""


def test_a_layer_is_read_by_others(files: Path, tmp_path: Path) -> None:
    layer = layers.pack([(files, "opt/x")], tmp_path / "layer", 9)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer.file.read_bytes()))) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert (tmp_path / "out/opt/x/lib/link").read_text() == "#!/bin/sh\n"

"""Images as values: references, manifests, configurations. Pure.

A revision's image is a base image with layers on top; nothing is run to make it. Manifests and media types are OCI's,
which every registry, containerd and Docker since 2017 read; a base in Docker's own types is taken as it is, its
layers' bytes are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEXES = (INDEX, DOCKER_INDEX)
ACCEPT = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX))
FROM_DOCKER = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
}
EPOCH = "1970-01-01T00:00:00Z"  # when an image was made is no part of what it is
HUB = "docker.io"

_REFERENCE = re.compile(
    r"(?:(?P<host>localhost|[\w-]+(?:\.[\w-]+)+|[\w.-]+(?=:\d)|\[[0-9a-f:]+\])(?P<port>:\d+)?/)?"
    r"(?P<name>[a-z0-9]+(?:(?:[./]|_{1,2}|-+)[a-z0-9]+)*)(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    host: str  # with its port
    name: str
    tag: str = ""
    digest: str = ""

    @property
    def version(self) -> str:
        """What to ask the registry for."""
        return self.digest or self.tag or "latest"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob of an image."""

    media_type: str
    digest: str
    size: int
    diff_id: str = ""  # layers only: of the tar inside


@dataclass(frozen=True, slots=True)
class Base:
    """An image to build on, for one machine."""

    reference: Reference
    digest: str  # of its manifest
    layers: tuple[Descriptor, ...]
    config: Mapping[str, Any]


def parse(text: str) -> Reference:
    """Reads REGISTRY/NAME:TAG@DIGEST; without a registry it is Docker's hub. Raises ValueError."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not REGISTRY/NAME, with :TAG or @sha256:DIGEST")
    host = (found["host"] or HUB) + (found["port"] or "")
    name = found["name"]
    if host == HUB and "/" not in name:
        name = f"library/{name}"
    return Reference(host, name, found["tag"] or "", found["digest"] or "")


def for_machine(index: Mapping[str, Any], architecture: str) -> str:
    """The digest of an index's manifest for Linux on this architecture. Raises LookupError with those it has."""
    known: dict[str, str] = {}
    for one in index.get("manifests") or ():
        at = one.get("platform") or {}
        if at.get("os", "linux") == "linux":
            known.setdefault(str(at.get("architecture", "")), str(one["digest"]))
    if architecture not in known:
        raise LookupError(f"it is for {', '.join(sorted(filter(None, known))) or 'nothing'}, not for {architecture}")
    return known[architecture]


def base(reference: Reference, digest: str, manifest: Mapping[str, Any], config: Mapping[str, Any]) -> Base:
    """Raises ValueError: manifest and configuration do not fit together."""
    blobs, diff_ids = manifest["layers"], config["rootfs"]["diff_ids"]
    if len(blobs) != len(diff_ids):
        raise ValueError(f"{len(blobs)} layers and {len(diff_ids)} digests of their content")
    layers = tuple(
        Descriptor(FROM_DOCKER.get(b["mediaType"], b["mediaType"]), b["digest"], b["size"], diff_id)
        for b, diff_id in zip(blobs, diff_ids, strict=True)
    )
    return Base(reference, digest, layers, config)


def compose(
    on: Base, layers: Sequence[Descriptor], command: Sequence[str], annotations: Mapping[str, str]
) -> tuple[bytes, bytes]:
    """The configuration and the manifest of an image: the base, and these layers on top."""
    own = {key: value for key, value in on.config.get("config", {}).items() if key != "Entrypoint"}
    labels = {**(own.get("Labels") or {}), **annotations}
    history = list(on.config.get("history") or ())
    history += [{"created": EPOCH, "created_by": "headgate", "comment": layer.digest} for layer in layers]
    config = _bytes(
        {
            **{key: value for key, value in on.config.items() if key in ("architecture", "os", "variant")},
            "created": EPOCH,
            "config": {**own, "Cmd": list(command), "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in (*on.layers, *layers)]},
            **({"history": history} if on.config.get("history") else {}),
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": b.media_type, "digest": b.digest, "size": b.size} for b in (*on.layers, *layers)],
        "annotations": dict(annotations),
    }
    return config, _bytes(manifest)


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _bytes(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def load(content: bytes) -> dict[str, Any]:
    """Raises ValueError: not a JSON object."""
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def notes(manifest: bytes) -> Mapping[str, str]:
    """Raises ValueError."""
    found = load(manifest).get("annotations") or {}
    return {str(key): str(value) for key, value in found.items()}


def top_layer(manifest: bytes, diff_id: str) -> Descriptor:
    last = load(manifest)["layers"][-1]
    return Descriptor(last["mediaType"], last["digest"], last["size"], diff_id)

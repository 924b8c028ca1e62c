"""A small image registry that holds its clients to the protocol, with faults that can be switched on.

Enforced: a manifest's blobs are there before it; a digest is the content's; an upload goes on where it stands; who has
no right to a repository gets 401 with a challenge; a store that a download is redirected to sees no credentials.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import platform
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

USER, PASSWORD, REFRESH = "builder", "correct horse", "refresh-me"
REALM = "/token"
DOCKER_PREFIX = "application/vnd.docker"
OCI, EMPTY = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
DOCKER = f"{DOCKER_PREFIX}.distribution.manifest.v2+json"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass
class Fault:
    method: str
    path: str  # a regular expression, searched
    status: int  # 0: the connection is dropped
    times: int
    headers: dict[str, str] = field(default_factory=dict)
    keep: int = 0  # of an upload that is dropped: bytes kept
    done: bool = False  # True: the request is served, and only the answer is this one


class Registry:
    """Runs in threads of its own; `host` is where it listens."""

    def __init__(self, auth: str = "", redirect: bool = False) -> None:
        self.auth = auth  # "" | basic | bearer
        self.redirect = redirect
        self.immutable = False  # True: a tag is written once
        self.mounts = True  # False: it never takes a blob over
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.faults: list[Fault] = []
        self.asked: list[str] = []  # METHOD path
        self.violations: list[str] = []
        self.tokens: dict[str, set[str]] = {}
        self.lock = threading.Lock()
        self.server = _Server(self)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def fault(self, method: str, path: str, status: int, times: int = 1, **more: Any) -> None:
        self.faults.append(Fault(method, path, status, times, **more))

    def push_artefact(self, name: str, tag: str, layers: list[tuple[str, str, bytes]]) -> None:
        """As `oras push` does it. A layer is (title, media type, content)."""
        with httpx.Client(base_url=f"http://{self.host}/v2/{name}", auth=(USER, PASSWORD), trust_env=False) as client:

            def pushed(kind: str, content: bytes) -> dict[str, Any]:
                where = client.post("/blobs/uploads/").headers["location"]
                url = httpx.URL(f"http://{self.host}").join(where).copy_merge_params({"digest": _digest(content)})
                assert client.put(url, content=content).status_code == 201
                return {"mediaType": kind, **_described(content)}

            listed = [
                {**pushed(kind, content), "annotations": {TITLE: title} if title else {}}
                for title, kind, content in layers
            ]
            manifest = {"schemaVersion": 2, "mediaType": OCI, "config": pushed(EMPTY, b"{}"), "layers": listed}
            done = client.put(f"/manifests/{tag}", content=json.dumps(manifest), headers={"Content-Type": OCI})
            assert done.status_code == 201, done.text

    def count(self, method: str, path: str) -> int:
        return sum(bool(re.fullmatch(f"{method} .*{path}.*", line)) for line in self.asked)


@contextmanager
def running(auth: str = "", redirect: bool = False) -> Iterator[Registry]:
    registry = Registry(auth, redirect)
    thread = threading.Thread(target=registry.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        thread.join()
        registry.server.server_close()
    assert not registry.violations, registry.violations


def set_up(host: str, monkeypatch: pytest.MonkeyPatch, base: str = "base/runner") -> str:
    """A base image of one layer in a registry, and the environment of a build that uses it; the base's reference."""
    layer = gzip.compress(b"\0" * 10_240, mtime=0)
    config = {"architecture": ARCHITECTURE, "os": "linux", "config": {"User": "10001:10001", "Env": ["PATH=/bin"]}}
    config["rootfs"] = {"type": "layers", "diff_ids": [_digest(b"\0" * 10_240)]}
    content = json.dumps(config).encode()
    with httpx.Client(base_url=f"http://{host}/v2/{base}", trust_env=False) as client:
        for blob in (layer, content):
            where = client.post("/blobs/uploads/").headers["location"]
            url = httpx.URL(f"http://{host}").join(where).copy_merge_params({"digest": _digest(blob)})
            assert client.put(url, content=blob).status_code == 201
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER,
            "config": {"mediaType": f"{DOCKER_PREFIX}.container.image.v1+json"} | _described(content),
            "layers": [{"mediaType": f"{DOCKER_PREFIX}.image.rootfs.diff.tar.gzip"} | _described(layer)],
        }
        body = json.dumps(manifest).encode()
        pushed = client.put("/manifests/1", content=body, headers={"Content-Type": DOCKER})
        assert pushed.status_code == 201, pushed.text
    reference = f"{host}/{base}@{_digest(body)}"
    settings = {"REGISTRY": f"{host}/team", "BASE_IMAGE": reference, "REGISTRY_INSECURE": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"HEADGATE_{name}", value)
    return reference


def _described(content: bytes) -> dict[str, Any]:
    return {"digest": _digest(content), "size": len(content)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that we or the client dropped is what the test asked for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    spoilt = 0  # the status to answer instead

    def log_message(self, format: str, *args: Any) -> None:
        """`asked` is the log."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

    @property
    def registry(self) -> Registry:
        return self.server.registry

    # --- one request ----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self.url, self.spoilt = urlsplit(self.path), 0
        self.query = {k: v[0] for k, v in parse_qs(self.url.query).items()}
        with self.registry.lock:
            self.registry.asked.append(f"{self.command} {self.path}")
            fault = self._fault()
        if fault is not None and not fault.status:
            return self._drop(fault)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault is not None and not fault.done:
            return self._answer(fault.status, b"", fault.headers)
        if fault is not None:
            self.spoilt = fault.status
        if self.url.path == REALM:
            return self._token()
        if self.url.path.startswith("/store/"):
            return self._store()
        if not self._allowed():
            return self._challenge()
        with self.registry.lock:
            return self._route()

    def _fault(self) -> Fault | None:
        for fault in self.registry.faults:
            if fault.times and fault.method == self.command and re.search(fault.path, self.path):
                fault.times -= 1
                return fault
        return None

    def _drop(self, fault: Fault) -> None:
        """Reads a part of an upload, keeps it, and is gone."""
        upload = self.registry.uploads.get(self.url.path.rpartition("/")[2])
        if upload is not None and fault.keep:
            upload += self.rfile.read(fault.keep)
        self.close_connection = True
        self.connection.close()

    def _route(self) -> None:
        kinds = {"manifests": self._manifest, "blobs": self._blob, "uploads": self._upload}
        if self.url.path == "/v2/_catalog":
            return self._list("repositories", {name for name, _ in self.registry.manifests})
        if listed := re.fullmatch(r"/v2/(?P<name>.+)/tags/list", self.url.path):
            name = listed["name"]
            tags = {tag for of, tag in self.registry.manifests if of == name and ":" not in tag}
            return self._list("tags", tags) if tags else self._error(404, "NAME_UNKNOWN")
        found = re.fullmatch(
            r"/v2/(?P<name>.+?)/(?P<kind>manifests|blobs/uploads|blobs)/(?P<rest>[^/]*)", self.url.path
        )
        if found is None:
            return self._error(404, "UNSUPPORTED")
        self.name, self.rest = found["name"], found["rest"]
        return kinds[found["kind"].rpartition("/")[2]]()

    def _list(self, key: str, names: set[str]) -> None:
        self._answer(200, json.dumps({key: sorted(names)}).encode(), {})

    def _manifest(self) -> None:
        key = (self.name, self.rest)
        if self.command == "PUT":
            value = json.loads(self.body)
            for blob in (value["config"], *value["layers"]):
                if len(self.registry.blobs.get((self.name, blob["digest"]), b"")) != blob["size"]:
                    return self._error(400, "MANIFEST_BLOB_UNKNOWN")
            if self.registry.immutable and key in self.registry.manifests:
                return self._error(400, "TAG_IMMUTABLE")
            digest = _digest(self.body)
            for version in (self.rest, digest):
                self.registry.manifests[(self.name, version)] = (self.body, self.headers["Content-Type"])
            return self._answer(201, b"", {"Docker-Content-Digest": digest})
        if key not in self.registry.manifests:
            return self._error(404, "MANIFEST_UNKNOWN")
        content, kind = self.registry.manifests[key]
        if kind not in self.headers.get("Accept", ""):
            self.registry.violations.append(f"{kind} is not accepted")
        return self._answer(200, content, {"Content-Type": kind, "Docker-Content-Digest": _digest(content)})

    def _blob(self) -> None:
        content = self.registry.blobs.get((self.name, self.rest))
        if content is None:
            return self._error(404, "BLOB_UNKNOWN")
        if self.command == "GET" and self.registry.redirect:
            # localhost is another origin than 127.0.0.1: credentials must not go there.
            port = self.server.server_address[1]
            where = f"http://localhost:{port}/store/{self.name}/{self.rest}"
            return self._answer(307, b"", {"Location": where})
        return self._answer(200, content, {"Docker-Content-Digest": self.rest})

    def _store(self) -> None:
        if self.headers.get("Authorization"):
            self.registry.violations.append("credentials were sent to the store")
        name, _, digest = self.url.path.removeprefix("/store/").rpartition("/")
        self._answer(200, self.registry.blobs[(name, digest)], {})

    def _upload(self) -> None:
        if self.command == "POST":
            return self._begin()
        upload = self.registry.uploads.get(self.rest)
        if upload is None:
            return self._error(404, "BLOB_UPLOAD_UNKNOWN")
        if self.command == "PATCH":
            start = int(self.headers.get("Content-Range", "0-0").partition("-")[0])
            if start != len(upload):
                return self._answer(416, b"", {"Range": f"0-{max(0, len(upload) - 1)}"})
            upload += self.body
        if self.command != "PUT":
            status = 204 if self.command == "GET" else 202
            return self._answer(status, b"", {"Location": self._where(), "Range": f"0-{max(0, len(upload) - 1)}"})
        upload += self.body
        digest = self.query.get("digest", "")
        if digest != _digest(bytes(upload)):
            return self._error(400, "DIGEST_INVALID")
        self.registry.blobs[(self.name, digest)] = bytes(upload)
        del self.registry.uploads[self.rest]
        return self._answer(201, b"", {"Docker-Content-Digest": digest})

    def _begin(self) -> None:
        known = self.registry.blobs.get((self.query.get("from", ""), self.query.get("mount", "")))
        if known is not None and self.registry.mounts:
            self.registry.blobs[(self.name, self.query["mount"])] = known
            return self._answer(201, b"", {"Docker-Content-Digest": self.query["mount"]})
        self.rest = secrets.token_hex(8)
        self.registry.uploads[self.rest] = bytearray()
        return self._answer(202, b"", {"Location": self._where(), "Range": "0-0"})

    def _where(self) -> str:
        return f"/v2/{self.name}/blobs/uploads/{self.rest}?_state={secrets.token_hex(4)}"

    # --- who asks -------------------------------------------------------------------------------------------------

    def _allowed(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.registry.auth == "basic":
            return given == _basic()
        if self.registry.auth == "bearer":
            return self._needed() <= self.registry.tokens.get(given.removeprefix("Bearer "), set())
        return True

    def _needed(self) -> set[str]:
        name = self.url.path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0]
        name = name.partition("/tags/")[0]
        write = self.command not in ("GET", "HEAD")
        needed = {f"{name}:push" if write else f"{name}:pull"}
        return needed | ({f"{self.query['from']}:pull"} if "from" in self.query else set())

    def _challenge(self) -> None:
        port = self.server.server_address[1]
        said = {
            "basic": 'Basic realm="here"',
            "bearer": f'Bearer realm="http://127.0.0.1:{port}{REALM}",service="here"',
        }
        errors = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        self._answer(401, json.dumps(errors).encode(), {"WWW-Authenticate": said[self.registry.auth]})

    def _token(self) -> None:
        form = parse_qs(self.body.decode())
        refreshed = form.get("refresh_token") == [REFRESH]
        if not refreshed and self.headers.get("Authorization") != _basic():
            return self._answer(401, b"{}", {})
        scopes = " ".join(form.get("scope", [])) or " ".join(parse_qs(self.url.query).get("scope", []))
        token = secrets.token_hex(8)
        granted = self.registry.tokens.setdefault(token, set())
        for one in scopes.split():
            _, name, actions = one.split(":")
            granted |= {f"{name}:{action}" for action in actions.split(",")}
        return self._answer(200, json.dumps({"token": token, "expires_in": 60}).encode(), {})

    # --- answering ------------------------------------------------------------------------------------------------

    def _error(self, status: int, code: str) -> None:
        self._answer(status, json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode(), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(self.spoilt or status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _basic() -> str:
    return "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

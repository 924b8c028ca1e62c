"""The registry client, against a registry that holds it to the protocol and breaks where it is told to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

import registryserver
from headgate.findings import TerminalError, TransientError
from headgate_kit.oci import registry as client
from headgate_kit.oci.credentials import Login
from headgate_kit.oci.registry import Missing, Registry
from registryserver import PASSWORD, REFRESH, USER

NAME = "team/models"
LOGIN = Login(USER, PASSWORD)


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def server() -> Iterator[registryserver.Registry]:
    with registryserver.running() as registry:
        yield registry


@pytest.fixture
def blob(tmp_path: Path) -> tuple[Path, str]:
    """Three pieces and a bit, not all the same."""
    content = os.urandom(1024) * 3_500
    file = tmp_path / "blob"
    file.write_bytes(content)
    return file, digest(content)


class Open(Protocol):
    def __call__(
        self, server: registryserver.Registry, login: Login | None = None, pauses: list[float] | None = None
    ) -> Registry: ...


@pytest.fixture
def open_() -> Iterator[Open]:
    with ExitStack() as opened:

        def one(
            server: registryserver.Registry, login: Login | None = None, pauses: list[float] | None = None
        ) -> Registry:
            pause = (pauses if pauses is not None else []).append
            return opened.enter_context(Registry(server.host, login, insecure=True, pause=pause))

        yield one


def image(registry: Registry, config: bytes = b"{}") -> bytes:
    registry.put(NAME, config, digest(config))
    return json.dumps({"config": {"digest": digest(config), "size": len(config)}, "layers": []}).encode()


def test_a_blob_arrives_whole_and_once(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str], tmp_path: Path
) -> None:
    registry, (file, name) = open_(server), blob
    registry.upload(NAME, file, name)
    registry.upload(NAME, file, name)
    assert server.count("PATCH", "uploads") == 1
    size = registry.fetch(NAME, name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    assert size == file.stat().st_size


def test_an_upload_goes_on_where_the_connection_broke(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str]
) -> None:
    file, name = blob
    server.fault("PATCH", "uploads", 0, keep=1_000_000)
    pauses: list[float] = []
    open_(server, pauses=pauses).upload(NAME, file, name)
    assert server.blobs[(NAME, name)] == file.read_bytes()
    assert server.count("POST", "uploads") == 1, "no second upload was begun"
    assert pauses == [client.PAUSES_S[0]]


def test_an_upload_the_registry_forgot_begins_again(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str]
) -> None:
    file, name = blob
    server.fault("PATCH", "uploads", 503)
    server.fault("GET", "uploads", 404)
    open_(server).upload(NAME, file, name)
    assert server.blobs[(NAME, name)] == file.read_bytes()
    assert server.count("POST", "uploads") == 2


@pytest.mark.parametrize("status", [404, 416])
def test_an_upload_that_stands_elsewhere_is_looked_at_again(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str], status: int
) -> None:
    file, name = blob
    server.fault("PATCH", "uploads", status)
    open_(server).upload(NAME, file, name)
    assert server.blobs[(NAME, name)] == file.read_bytes()


def test_an_upload_whose_last_answer_was_lost_is_done(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str]
) -> None:
    file, name = blob
    server.fault("PUT", "uploads", 502, done=True)
    open_(server).upload(NAME, file, name)
    assert server.count("PUT", "uploads") == 2
    assert server.blobs[(NAME, name)] == file.read_bytes()


def test_an_upload_that_is_forgotten_at_its_end_is_worth_another_try(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str]
) -> None:
    server.fault("PUT", "uploads", 404)
    with pytest.raises(TransientError, match="forgot an upload"):
        open_(server).upload(NAME, *blob)


def test_an_upload_holds_no_more_than_a_piece_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(b"x" * (3 * client.CHUNK + 5))
    sizes = [len(piece) for piece in client._pieces(file, 10)]
    assert max(sizes) <= client.CHUNK
    assert sum(sizes) == 3 * client.CHUNK - 5


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_registry_that_is_busy_is_asked_again(open_: Open, server: registryserver.Registry, status: int) -> None:
    registry = open_(server)
    content = image(registry)
    server.fault("PUT", "manifests", status, times=2)
    registry.put_manifest(NAME, "one", content)
    found = registry.manifest(NAME, "one")
    assert found is not None
    assert found.content == content


def test_it_waits_as_long_as_the_registry_says(open_: Open, server: registryserver.Registry) -> None:
    pauses: list[float] = []
    server.fault("GET", "manifests", 429, headers={"Retry-After": "7"})
    server.fault("GET", "manifests", 429, headers={"Retry-After": "86400"})
    assert open_(server, pauses=pauses).manifest(NAME, "none") is None
    assert pauses == [7.0, client.PATIENCE_S]


def test_a_registry_that_stays_away_is_worth_another_try_later(open_: Open, server: registryserver.Registry) -> None:
    server.fault("GET", "manifests", 503, times=100)
    with pytest.raises(TransientError, match=r"error\[registry-unreachable\].*answers 503"):
        open_(server).manifest(NAME, "one")


def test_nobody_listening_is_worth_another_try_later(open_: Open) -> None:
    with registryserver.running() as gone:
        pass
    with pytest.raises(TransientError, match="registry-unreachable"):
        open_(gone).manifest(NAME, "one")


def test_what_is_not_there_is_none_or_missing(open_: Open, server: registryserver.Registry, tmp_path: Path) -> None:
    registry = open_(server)
    assert registry.manifest(NAME, "one") is None
    assert not registry.has_blob(NAME, digest(b"?"))
    with pytest.raises(Missing):
        registry.fetch(NAME, digest(b"?"), tmp_path / "blob")


def test_a_manifest_comes_after_what_it_names(open_: Open, server: registryserver.Registry) -> None:
    content = json.dumps({"config": {"digest": digest(b"?"), "size": 1}, "layers": []}).encode()
    with pytest.raises(TerminalError, match="manifest_blob_unknown"):
        open_(server).put_manifest(NAME, "one", content)


def test_a_blob_is_taken_over_from_another_repository(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str]
) -> None:
    registry, (file, name) = open_(server), blob
    registry.upload("headgate-runner", file, name)
    assert registry.mount(NAME, name, "headgate-runner")
    assert server.blobs[(NAME, name)] == file.read_bytes()
    assert server.count("PATCH", NAME) == 0


def test_a_registry_that_does_not_mount_says_so(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str]
) -> None:
    registry, (file, name) = open_(server), blob
    server.mounts = False
    registry.upload("headgate-runner", file, name)
    assert not registry.mount(NAME, name, "headgate-runner")


@pytest.mark.parametrize(
    ("auth", "login"),
    [("basic", LOGIN), ("bearer", LOGIN), ("bearer", Login(refresh=REFRESH))],
    ids=["basic", "token", "identity token"],
)
def test_it_says_who_it_is_when_asked(
    open_: Open, auth: str, login: Login, blob: tuple[Path, str], tmp_path: Path
) -> None:
    with registryserver.running(auth) as server:
        registry, (file, name) = open_(server, login), blob
        registry.upload("headgate-runner", file, name)
        assert registry.mount(NAME, name, "headgate-runner")
        registry.put_manifest(NAME, "one", image(registry))
        assert registry.manifest(NAME, "one") is not None
        registry.fetch(NAME, name, tmp_path / "back")


def test_a_token_that_has_ended_is_asked_for_anew(open_: Open, blob: tuple[Path, str]) -> None:
    with registryserver.running("bearer") as server:
        registry, (file, name) = open_(server, LOGIN), blob
        assert not registry.has_blob(NAME, name)
        server.tokens.clear()
        assert not registry.has_blob(NAME, name)
        server.tokens.clear()
        registry.upload(NAME, file, name)
        assert server.blobs[(NAME, name)] == file.read_bytes()


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("login", [None, Login(USER, "wrong-secret")], ids=["nobody", "wrong password"])
def test_a_refusal_is_a_finding_without_credentials(open_: Open, auth: str, login: Login | None) -> None:
    with registryserver.running(auth) as server:
        with pytest.raises(TerminalError, match=r"error\[registry-refused\].*answers 401") as caught:
            open_(server, login).manifest(NAME, "one")
        assert "wrong-secret" not in str(caught.value)
        assert "fix: give the build a pull and push secret" in str(caught.value)


def test_a_redirected_download_takes_no_credentials_along(open_: Open, tmp_path: Path) -> None:
    with registryserver.running("bearer", redirect=True) as server:
        registry = open_(server, LOGIN)
        registry.put(NAME, b"content", digest(b"content"))
        assert registry.fetch(NAME, digest(b"content"), tmp_path / "back") == 7
        assert server.count("GET", "/store/") == 1


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_an_upload_goes_where_it_is_sent(
    open_: Open, server: registryserver.Registry, blob: tuple[Path, str], method: str
) -> None:
    file, name = blob
    registry = open_(server)
    server.fault(method, "uploads", 307, headers={"Location": f"?again=1&digest={name}"})
    registry.upload(NAME, file, name)
    assert server.blobs[(NAME, name)] == file.read_bytes()
    assert server.count(method, "again=1") == 1


def test_a_registry_that_sends_us_in_circles_is_left(open_: Open, server: registryserver.Registry) -> None:
    server.fault("GET", "manifests", 307, times=100, headers={"Location": ""})
    with pytest.raises(TerminalError, match="without end"):
        open_(server).manifest(NAME, "one")


def test_another_content_than_its_digest_is_not_taken(
    open_: Open, server: registryserver.Registry, tmp_path: Path
) -> None:
    server.blobs[(NAME, digest(b"good"))] = b"evil"
    with pytest.raises(TransientError, match="another content"):
        open_(server).fetch(NAME, digest(b"good"), tmp_path / "back")


def test_a_token_service_without_tls_gets_no_credentials() -> None:
    with Registry("registry.example", LOGIN) as registry, pytest.raises(TerminalError, match="without TLS"):
        registry._token({"realm": "http://tokens.example/"}, ("repository:x:pull",))

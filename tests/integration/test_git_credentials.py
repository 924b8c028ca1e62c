"""A private endpoints repo over HTTP: git reads the password from a mounted folder, and nobody else sees it."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from headgate_controllers.repo import EndpointsRepo
from headgate_controllers.repo.credentials import from_folder
from headgate_controllers.repo.gitdir import RepoError

USER, PASSWORD = "bot", "pa$$ 'word\" %s"


class Forge(SimpleHTTPRequestHandler):
    """Serves a bare repository's files to whoever knows the password (git's plain protocol over HTTP)."""

    password = PASSWORD

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"{USER}:{type(self).password}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="forge"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def git(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[str]:
    origin = tmp_path / "served" / "endpoints.git"
    origin.mkdir(parents=True)
    git(origin, "init", "-q", "-b", "main", ".")
    (origin / "headgate.yml").write_text("{}\n")
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "first")
    git(origin, "update-server-info")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Forge, directory=str(origin / ".git")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Forge.password = PASSWORD
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a mount"
    made.mkdir()
    (made / "username").write_text(USER + "\n")
    (made / "password").write_text(PASSWORD + "\n")
    return made


def test_a_private_repo_is_read_with_the_mounted_password(forge: str, folder: Path, tmp_path: Path) -> None:
    repo = EndpointsRepo(forge, tmp_path / "mirror.git", "main", folder)
    try:
        assert repo.fetch()
        assert "headgate.yml" in repo.tree(repo.head()).files()
    finally:
        repo.close()
    written = [file.read_bytes() for file in (tmp_path / "mirror.git").rglob("*") if file.is_file()]
    assert not any(b"pa$$" in content for content in written)


def test_a_rotated_password_counts_from_the_next_look(forge: str, folder: Path, tmp_path: Path) -> None:
    repo = EndpointsRepo(forge, tmp_path / "mirror.git", "main", folder)
    try:
        repo.fetch()
        Forge.password = "rotated"
        with pytest.raises(RepoError) as caught:
            repo.fetch()
        assert "pa$$" not in str(caught.value)
        (folder / "password").write_text("rotated")
        assert not repo.fetch()
        assert repo.problem is None
    finally:
        repo.close()


def test_without_the_folder_a_private_repo_is_unreachable(forge: str, tmp_path: Path) -> None:
    repo = EndpointsRepo(forge, tmp_path / "mirror.git", "main")
    try:
        with pytest.raises(RepoError):
            repo.fetch()
    finally:
        repo.close()


def test_an_ssh_key_needs_the_hosts_it_may_meet(tmp_path: Path) -> None:
    (tmp_path / "ssh-privatekey").write_text("key")
    with pytest.raises(RepoError) as caught:
        from_folder(tmp_path)
    assert caught.value.findings[0].code == "git-credentials"
    (tmp_path / "known_hosts").write_text("forge.example ssh-ed25519 AAAA")
    command = from_folder(tmp_path)["core.sshCommand"]
    assert "StrictHostKeyChecking=yes" in command
    assert f"-i {tmp_path}/ssh-privatekey" in command


def test_a_folder_with_neither_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(RepoError) as caught:
        from_folder(tmp_path)
    assert caught.value.findings[0].code == "git-credentials"

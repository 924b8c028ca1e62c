"""A private endpoints repo over HTTP and SSH: git reads what it needs from a mounted folder, nobody else sees it."""

from __future__ import annotations

import base64
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import ports
from headgate.findings import HeadgateError
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


# --- over ssh ---------------------------------------------------------------------------------------------------------

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") or ""


@pytest.fixture
def port() -> Iterator[int]:
    with ports.held() as found:
        yield found


@pytest.fixture
def ssh_forge(tmp_path: Path, port: int) -> Iterator[tuple[str, Path]]:
    """A bare repository behind a real sshd that takes one deploy key; its URL, and the folder with what is mounted."""
    if not SSHD:
        pytest.skip("no sshd: install openssh-server")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd does not start as root without /run/sshd: mkdir /run/sshd")
    made, mount = tmp_path / "sshd", tmp_path / "mount"
    for folder in (made, mount):
        folder.mkdir(mode=0o700)
    for file in (made / "host", mount / "ssh-privatekey"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    (mount / "ssh-privatekey.pub").rename(made / "authorized")
    origin = tmp_path / "endpoints.git"
    origin.mkdir()
    git(origin, "init", "-q", "--bare", "-b", "main", ".")
    work = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(origin), str(work))
    (work / "headgate.yml").write_text("{}\n")
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "first")
    git(work, "push", "-q", "origin", "HEAD:main")
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": made / "host",
        "AuthorizedKeysFile": made / "authorized",
        "PidFile": "none",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",  # the temporary folder may be anybody's
        "PermitRootLogin": "prohibit-password",
    }
    (made / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    with (made / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(made / "config")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _listens(port):
            assert server.poll() is None, (made / "log").read_text()
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.02)  # between two looks; the deadline is above
        kind, key = (made / "host.pub").read_text().split()[:2]
        (mount / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}{origin}", mount
    finally:
        server.terminate()
        server.wait(timeout=10)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


def test_a_repo_is_read_and_reverted_over_ssh_with_the_mounted_deploy_key(
    ssh_forge: tuple[str, Path], tmp_path: Path
) -> None:
    url, mount = ssh_forge
    repo = EndpointsRepo(url, tmp_path / "mirror.git", credentials=mount)
    try:
        repo.fetch()
        first = repo.head()
        made = repo.commit_files(first, {"headgate.yml": b"capacity: elastic\n"}, "ours", at=0.0)
        repo.push(made, "main", first)
        assert git(tmp_path / "endpoints.git", "rev-parse", "main") == made
    finally:
        repo.close()


def test_a_host_that_is_not_known_is_not_spoken_to(ssh_forge: tuple[str, Path], tmp_path: Path) -> None:
    url, mount = ssh_forge
    known = (mount / "known_hosts").read_text().split()
    (mount / "known_hosts").write_text(f"{known[0]} {known[1]} {known[2][:-8]}AAAAAAAA\n")
    repo = EndpointsRepo(url, tmp_path / "mirror.git", credentials=mount)
    try:
        with pytest.raises(HeadgateError):
            repo.fetch()
    finally:
        repo.close()

"""What `headgate up` stands on: which repo, which data folder, which address. Defaults are filled in here only."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headgate.findings import Finding, FindingsError, Place
from headgate_kit.files import write_json
from headgate_kit.layout import NAME, DataFolder

DEFAULT_PORT = 8400
DEFAULT_BRANCH = "main"
BUILTIN, ENVOY = "builtin", "envoy"
DATAPLANES = (BUILTIN, "asgi", ENVOY)  # as a router worker's own option has them
TUNNEL_IDLE_S, TUNNEL_LIFE_S = 120.0, 4 * 3600.0  # as a router worker's own defaults
LOOPBACK = ("127.0.0.1", "::1", "localhost")
URL = re.compile(r"[a-z][a-z0-9+.-]*://|[^/\s]+@[^/\s]+:")
PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/@]*:[^/@]*@")


@dataclass(frozen=True)
class Ground:
    repo: str  # absolute folder, or URL
    branch: str  # empty: the one the repo's HEAD names
    data: Path  # absolute
    host: str
    port: int  # 0: any free one
    workers: int
    tls_cert: str = ""  # absolute; empty: plain HTTP
    tls_key: str = ""
    dataplane: str = BUILTIN
    tunnel_idle_s: float = TUNNEL_IDLE_S
    tunnel_life_s: float = TUNNEL_LIFE_S

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert else "http"


def settle(
    repo: str | None,
    branch: str | None,
    data: str | None,
    host: str,
    port: int | None,
    workers: int,
    dataplane: str | None = None,
) -> Ground:
    """Fills in what was not said: as last time in this data folder, else our defaults.

    Raises: FindingsError `no-repo`, `secret-in-url`, `repo-no-branch`.
    """
    folder = data_folder(repo, data)
    last = remembered(folder)
    located = locate(repo or str(last.get("repo") or "."))
    if branch:
        check_branch(located, branch)
    return Ground(
        repo=located,
        branch=branch or str(last.get("branch") or ""),
        data=folder,
        host=host,
        port=port if port is not None else int(last.get("port") or DEFAULT_PORT),
        workers=workers,
        dataplane=dataplane or _last_of(last, DATAPLANES),
    )


def data_folder(repo: str | None, data: str | None) -> Path:
    """--data, $HEADGATE_DATA, `.headgate` in the work tree; here for a bare repo or a URL."""
    named = data or os.environ.get("HEADGATE_DATA")
    if named:
        return Path(named).absolute()
    local = Path(repo or ".")
    home = local if (local / ".git").exists() else Path()
    return (home / NAME).absolute()


def remembered(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "up.json").read_bytes())
    except (OSError, ValueError):  # none yet, or not ours: then nothing is remembered
        return {}
    return found if isinstance(found, dict) else {}


def _last_of(last: dict[str, Any], known: Sequence[str]) -> str:
    said = str(last.get("dataplane") or "")
    return said if said in known else known[0]


def remember(data: DataFolder, ground: Ground, port: int) -> None:
    write_json(data.root / "up.json", {**asdict(ground), "data": str(ground.data), "port": port})


def locate(repo: str) -> str:
    """A URL as it is, a folder as its absolute path."""
    if PASSWORD.match(repo):
        raise FindingsError(_secret_in_url(repo))
    if URL.match(repo):
        return repo
    folder = Path(repo).absolute()
    if (folder / ".git").exists() or ((folder / "HEAD").is_file() and (folder / "objects").is_dir()):
        return str(folder)
    raise FindingsError(_no_repo(folder))


def check_branch(repo: str, branch: str) -> None:
    """Refuses a name that no branch of a local repo has, before it is remembered. Of a URL the controller says it.

    Raises: FindingsError `repo-no-branch`.
    """
    if URL.match(repo):
        return
    listed = ("git", "-C", repo, "for-each-ref", "--format=%(refname:short)", "refs/heads")
    asked = subprocess.run(listed, capture_output=True, text=True, check=False)
    known = asked.stdout.split()
    if branch in known or not known:  # none yet: the first commit makes it
        return
    near = difflib.get_close_matches(branch, known, n=1)
    raise FindingsError(
        Finding(
            code="repo-no-branch",
            message=f"{repo} has no branch {branch}",
            why="it would be waited for, and nothing would change meanwhile",
            fix=f"did you mean {near[0]}?" if near else f"name one of {', '.join(known[:12])}, or make it first",
            place=Place("--branch"),
        )
    )


def check_host(host: str, insecure: bool, tls_cert: str = "", tls_key: str = "") -> None:
    """Raises: FindingsError `plain-http`, `tls-files`: one without the other, or not there."""
    if tls_cert or tls_key:
        missing = [path or "(not given)" for path in (tls_cert, tls_key) if not Path(path).is_file()]
        if missing:
            raise FindingsError(_tls_files(missing))
        return
    if host in LOOPBACK or insecure:
        return
    raise FindingsError(
        Finding(
            code="plain-http",
            message=f"{host} can be reached by others, and the router speaks plain HTTP",
            why="callers' keys and requests could be read on the way",
            fix="give --tls-cert and --tls-key, or say --insecure where something before it ends TLS",
            place=Place("--host"),
        )
    )


def _tls_files(missing: Sequence[str]) -> Finding:
    return Finding(
        code="tls-files",
        message=f"no file: {', '.join(missing)}",
        why="callers could not be greeted with TLS",
        fix="give the certificate's chain with --tls-cert and its key with --tls-key, both PEM",
        place=Place("--tls-cert"),
    )


def _secret_in_url(repo: str) -> Finding:
    return Finding(
        code="secret-in-url",
        message="the repo's URL holds a password",
        why="command lines and logs can be read by others on this machine",
        fix="leave it out and let a git credential helper or an SSH key answer",
        place=Place(re.sub(r"//.*@", "//***@", repo)),
    )


def above(folder: Path, name: str) -> Path | None:
    """The nearest folder from here up that has an entry of this name."""
    return next((place for place in (folder, *folder.parents) if (place / name).exists()), None)


def _no_repo(folder: Path) -> Finding:
    top = above(folder, ".git")
    return Finding(
        code="no-repo",
        message=f"{folder} is not the top of a git repo" if top else f"{folder} is no git repo",
        why="what serves is what an endpoints repo says",
        fix=f"run it in {top}" if top else "make one with `headgate init DIR`, or name one with --repo DIR|URL",
        place=Place("--repo"),
    )

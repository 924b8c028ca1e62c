"""What a controller is started with: its command line, its token, and where it listens. Decides nothing else.

On one machine it listens on loopback with a token of its own. In a pod it is told: `--listen`, a token from a file or
from a Secret (made on the first start), and the URL at which ops and routers find it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets as randomness
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from headgate.findings import Finding, FindingsError, Place
from headgate_kit.files import write_atomic
from headgate_kit.layout import DataFolder

REPO_VARIABLE = "HEADGATE_REPO"  # a URL may hold a password, which argv would show to every user of the machine
BUILDER_VARIABLE = "HEADGATE_BUILDER"  # the op `build` reads it too
# Set on the controller, meant for the builds it starts: no credentials are among them.
BUILD_VARIABLES = (
    *(BUILDER_VARIABLE, "HEADGATE_REGISTRY", "HEADGATE_REGISTRY_ADDRESS", "HEADGATE_REGISTRY_INSECURE"),
    *("HEADGATE_BASE_IMAGE", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_OFFLINE"),  # where packages are
)
MODELS_TLS = "HEADGATE_MODELS_TLS"  # folder of the certificate that models which ask for one are shown
LOOPBACK = "127.0.0.1"
TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Options:
    data: DataFolder
    repo: str
    branch: str | None = None  # None: the repo's own
    platform: str = "process"
    engine: str = "local"
    secrets: str = "file"
    listen: str = ""  # HOST:PORT; empty: loopback, the last port or any free one
    token_file: Path | None = None  # None: `data.token`, made on the first start
    token_secret: str = ""  # name of the Secret that holds the token, made on the first start; empty: none
    control_url: str = ""  # where ops in pods find us; empty: they are processes that read `data.control`
    router_url: str = ""  # where callers go; empty: what `data.router` says
    credentials: Path | None = None  # folder with `username` and `password`, or `ssh-privatekey` and `known_hosts`
    lease: str = ""  # name of the Lease that only one controller holds; empty: nobody else may be there
    resources: bool = False  # shows the record as OnlineEndpoint and EndpointRollout objects


def parse(arguments: Sequence[str] | None, summary: str) -> Options:
    """Ends the process with 2 and a line of usage when they make no sense."""
    parser = argparse.ArgumentParser(prog="headgate-controller", description=summary)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the data folder")
    add("--repo", help=f"the endpoints repo: a folder or a URL; default: ${REPO_VARIABLE}")
    add("--branch", help="the branch to follow; default: the repo's own")
    add("--git-credentials", type=Path, metavar="DIR", help="username and password, or ssh-privatekey and known_hosts")
    add("--platform", default="process", help="entry point of group headgate.platform")
    add("--engine", default="local", help="entry point of group headgate.engine")
    add("--secrets", default="file", help="entry point of group headgate.secrets")
    add("--listen", default="", metavar="HOST:PORT", help="of the control API; default: loopback, any free port")
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--token-file", type=Path, metavar="FILE", help="the control API's token; default: its own")
    token.add_argument("--token-secret", default="", metavar="NAME", help="Secret to keep the token in, key `token`")
    add("--control-url", default="", metavar="URL", help="where ops in pods find the control API")
    add("--router-url", default="", metavar="URL", help="where callers find the router")
    add("--lease", default="", metavar="NAME", help="wait for this Lease, and stop when it is lost")
    add("--resources", action="store_true", help="show endpoints and rollouts as custom resources")
    asked = parser.parse_args(arguments)
    repo = asked.repo or os.environ.get(REPO_VARIABLE)
    if not repo:
        parser.error(f"--repo or ${REPO_VARIABLE} must name the endpoints repo")
    if asked.listen and not _address(asked.listen)[1]:
        parser.error("--listen is HOST:PORT")
    return Options(
        data=DataFolder(asked.data.resolve()),
        repo=repo,
        branch=asked.branch,
        platform=asked.platform,
        engine=asked.engine,
        secrets=asked.secrets,
        listen=asked.listen,
        token_file=asked.token_file,
        token_secret=asked.token_secret,
        control_url=asked.control_url.rstrip("/"),
        router_url=asked.router_url.rstrip("/"),
        credentials=asked.git_credentials,
        lease=asked.lease,
        resources=asked.resources,
    )


def token(options: Options) -> str:
    """The operator token. Raises FindingsError: the file it is to be in cannot be read."""
    if options.token_secret:
        from headgate_controllers.token import secret_token

        return secret_token(options.token_secret)
    if options.token_file is not None:
        return _given(options.token_file)
    return _own(options.data)


def new_token() -> str:
    return randomness.token_urlsafe(TOKEN_BYTES)


def _own(data: DataFolder) -> str:
    """Made on the first start, kept over restarts so that ops and routers go on."""
    if data.token.exists():
        return data.token.read_text().strip()
    made = new_token()
    write_atomic(data.token, made.encode(), mode=0o600)
    return made


def _given(file: Path) -> str:
    why = "it is empty"
    try:
        if found := file.read_text().strip():
            return found
    except OSError as error:
        why = error.strerror or type(error).__name__
    raise FindingsError(
        Finding(
            code="token-file",
            message=f"the control API's token cannot be read from {file.name}",
            why=why,
            fix="mount the Secret that holds it, or leave --token-file out and one is made",
            place=Place(str(file)),
        )
    )


def bind(options: Options) -> socket.socket:
    """The control API's listening socket. Raises FindingsError `listen`."""
    host, port = _address(options.listen) if options.listen else (LOOPBACK, _last_port(options.data))
    try:
        return socket.create_server((host, port), reuse_port=False)
    except OSError as error:
        raise FindingsError(
            Finding(
                code="listen",
                message=f"cannot listen on {host}:{port}: {error.strerror or error}",
                why="neither ops nor routers could reach the control API",
                fix="stop what uses it, or give another --listen",
                place=Place("control API"),
            )
        ) from error


def announce(options: Options, listening: socket.socket) -> str:
    """Writes where the control API answers, for whoever shares the data folder, and answers it."""
    host, port = listening.getsockname()[:2]
    url = f"http://{LOOPBACK if host in ('0.0.0.0', '::') else host}:{port}"
    write_atomic(options.data.control, json.dumps({"url": url, "pid": os.getpid()}).encode())
    return url


def router_url(options: Options) -> str:
    """Where callers go; empty: not known yet."""
    if options.router_url:
        return options.router_url
    try:
        return str(json.loads(options.data.router.read_text())["url"])
    except (OSError, ValueError, KeyError):
        return ""


def certificate() -> Path | None:
    """What replicas that ask for mutual TLS are shown; None: there are none."""
    return Path(os.environ[MODELS_TLS]) if os.environ.get(MODELS_TLS) else None


def build_variables() -> Mapping[str, str]:
    """What builds are told. Raises FindingsError `secret-in-url`: everybody who may read a pod would read it."""
    given = {name: os.environ[name] for name in BUILD_VARIABLES if name in os.environ}
    for name, value in given.items():
        if any(urlsplit(part).password for part in value.split()):
            raise FindingsError(
                Finding(
                    code="secret-in-url",
                    message=f"{name} holds a password",
                    why="it is handed to the pods of builds, whose specification many may read",
                    fix="use an index that this network may read, or a proxy that adds the credentials",
                    place=Place("controller environment"),
                )
            )
    return given


def op_environment(options: Options, token: str) -> Mapping[str, str]:
    """What an op needs to reach us. In a pod it is told our URL; it never sees this data folder."""
    given = build_variables()
    if options.control_url:
        return {**given, "HEADGATE_CONTROL": options.control_url, "HEADGATE_TOKEN": token}
    return {
        **given,
        "HEADGATE_DATA": str(options.data.root),
        "HEADGATE_CONTROL_FILE": str(options.data.control),
        "HEADGATE_TOKEN": token,
    }


def _address(text: str) -> tuple[str, int]:
    """Port 0: this is none."""
    host, _, port = text.rpartition(":")
    return (host or "0.0.0.0", int(port)) if port.isdigit() and int(port) < 65_536 else ("", 0)


def _last_port(data: DataFolder) -> int:
    """The port of the last start, so that whoever talks to us need not look it up again; 0 when it is taken."""
    try:
        port = int(json.loads(data.control.read_text())["url"].rsplit(":", 1)[1])
        with socket.create_server((LOOPBACK, port)):
            return port
    except (OSError, ValueError, KeyError, IndexError):
        return 0

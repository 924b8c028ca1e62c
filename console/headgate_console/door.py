"""Where callers come in: the address that router workers serve on, and how they are started there.

Workers with a data path of ours inherit one listening socket. An Envoy opens its own: then the supervisor only keeps
the address, and there is one worker, whose Envoy has as many threads as workers were asked for.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from headgate.findings import Finding, FindingsError, Place
from headgate_console import supervisor
from headgate_console.ground import ENVOY, Ground
from headgate_console.supervisor import Service
from headgate_kit import listen
from headgate_kit.files import read_json
from headgate_kit.layout import DataFolder

WILDCARDS = ("0.0.0.0", "::")  # addresses to listen on that nobody can call
CONNECT_S = 2.0


def listening(data: DataFolder, asked: Ground) -> socket.socket:
    """The socket that running router workers serve on; a new one when none runs. With Envoy: the address, kept.

    Raises: FindingsError `port-taken`, `port-changed`, `dataplane-changed`, `no-envoy`.
    """
    workers = [folder for folder in supervisor.running(data.services) if folder.name.startswith("router-")]
    for folder in workers:
        plane = _dataplane(folder)
        if plane != asked.dataplane:
            raise FindingsError(_dataplane_changed(asked.dataplane, plane))
    if asked.dataplane == ENVOY:
        return _kept(data, asked, adopted=bool(workers))
    for folder in workers:
        sock = listen.take(folder / "listen.sock")
        if sock is not None:
            port = sock.getsockname()[1]
            if asked.port not in (0, port):
                sock.close()
                raise FindingsError(_port_changed(asked.port, port))
            return sock
    try:
        return listen.bind(asked.host, asked.port)
    except OSError as error:
        raise FindingsError(_port_taken(asked, error)) from error


def routers(data: DataFolder, asked: Ground, sock: socket.socket, environment: Mapping[str, str]) -> list[Service]:
    flags = ["--data", str(data.root)]
    flags += ["--tls-cert", asked.tls_cert, "--tls-key", asked.tls_key] if asked.tls_cert else []
    flags += ["--tunnel-idle", f"{asked.tunnel_idle_s:g}", "--tunnel-life", f"{asked.tunnel_life_s:g}"]
    flags += ["--dataplane", asked.dataplane]
    if asked.dataplane == ENVOY:
        host, port = sock.getsockname()[:2]
        # `up` has asked whether plain HTTP is meant; a worker with a descriptor of ours is not asked again either.
        flags += ["--host", host, "--port", str(port), "--envoy-threads", str(asked.workers), "--insecure"]
    fds = () if asked.dataplane == ENVOY else (sock.fileno(),)
    flags += [word for fd in fds for word in ("--fd", str(fd))]
    argv = (sys.executable, "-m", "headgate_router", *flags)
    return [Service(name, (*argv, "--worker", name), environment, fds) for name in names(asked)]


def names(asked: Ground) -> list[str]:
    return [f"router-{index}" for index in range(1 if asked.dataplane == ENVOY else asked.workers)]


def url_of(asked: Ground, port: int) -> str:
    named = socket.gethostname() if asked.host in WILDCARDS else asked.host
    return f"{asked.scheme}://[{named}]:{port}" if ":" in named else f"{asked.scheme}://{named}:{port}"


def answers(data: DataFolder) -> bool:
    """Whether somebody listens where callers are told to go."""
    where = urlsplit(str(read_json(data.router)["url"]))
    with suppress(OSError), socket.create_connection((where.hostname, where.port or 0), CONNECT_S):
        return True
    return False


def _kept(data: DataFolder, asked: Ground, *, adopted: bool) -> socket.socket:
    from headgate_router.dataplanes.envoy import process, side  # with Envoy only: not what every start needs

    process.find()
    try:
        if not adopted:
            return side.reserve(asked.host, asked.port)
        port = urlsplit(str(read_json(data.router)["url"])).port or asked.port
        if asked.port not in (0, port):
            raise FindingsError(_port_changed(asked.port, port))
        return side.keep(asked.host, port)
    except OSError as error:
        raise FindingsError(_port_taken(asked, error)) from error


def _dataplane(folder: Path) -> str:
    """What a worker that runs was started with."""
    argv = [str(word) for word in read_json(folder / "command.json")["argv"]]
    return argv[argv.index("--dataplane") + 1] if "--dataplane" in argv else "builtin"


def _dataplane_changed(asked: str, running: str) -> Finding:
    return Finding(
        code="dataplane-changed",
        message=f"router workers run with `--dataplane {running}`, not `{asked}`",
        why="two data paths cannot share one address, and ending the one that serves would cut callers off",
        fix=f"leave --dataplane {asked} out, or `headgate down` first",
        place=Place("--dataplane"),
    )


def _port_changed(asked: int, port: int) -> Finding:
    return Finding(
        code="port-changed",
        message=f"callers use port {port}, not {asked}",
        why="router workers of the last `headgate up` serve there, and moving them would break callers",
        fix=f"leave --port {asked} out, or `headgate down` first",
        place=Place("--port"),
    )


def _port_taken(asked: Ground, error: OSError) -> Finding:
    return Finding(
        code="port-taken",
        message=f"cannot listen on {asked.host}:{asked.port}",
        why=str(error.strerror or error),
        fix="name another one with --port, or 0 for any free one",
        place=Place("--port"),
    )

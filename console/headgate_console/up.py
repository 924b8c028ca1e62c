"""`headgate up` and `headgate down`: one machine's whole system, started, adopted, watched over, stopped.

Owns the listening socket, so that a router worker that restarts resets no connection: callers wait in its backlog.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import click

from headgate.findings import Finding, FindingsError, Place
from headgate_console import door, ground, live, options, supervisor
from headgate_console.connect import Control, open_folder
from headgate_console.durations import Duration
from headgate_console.exits import Exit
from headgate_console.ground import DATAPLANES, DEFAULT_PORT, TUNNEL_IDLE_S, TUNNEL_LIFE_S, Ground
from headgate_console.options import note
from headgate_console.supervisor import Service, Supervisor
from headgate_kit import child
from headgate_kit.files import AlreadyLocked, Locked, write_atomic, write_json
from headgate_kit.layout import DataFolder

DEFAULT_WORKERS = 2
UP_WITHIN_S = 300.0  # a detached start is waited for so long while its processes live
SAY_EVERY_S = 5.0  # meanwhile, what it waits for
DOWN_WITHIN_S = 90.0  # the routers' drain, then three grace periods
POLL_S = 0.1
NARRATE_EVERY_S = 0.3


@options.verb()
@click.option("--repo", metavar="DIR|URL", help="The endpoints repo. Default: the one of last time, else this folder.")
@click.option("--branch", help="What serves. Default: the one of last time, else the repo's own.")
@click.option("--data", metavar="DIR", help="Where all state lives. Default: .headgate in the work tree, else here.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where callers reach the router.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help=f"Default: the one of last time, else {DEFAULT_PORT}. 0: any free one.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=DEFAULT_WORKERS,
    show_default=True,
    help="Of the router; with Envoy: its threads.",
)
@click.option(
    "--dataplane",
    type=click.Choice(DATAPLANES),
    help="How routers pass requests on (docs/envoy.md). Default: the one of last time, else builtin.",
)
@click.option("--tunnel-idle", type=Duration(), default=TUNNEL_IDLE_S, help="A WebSocket without a byte ends (120s).")
@click.option("--tunnel-life", type=Duration(), default=TUNNEL_LIFE_S, help="Any WebSocket ends (4h).")
@click.option("--detach", is_flag=True, help="Return once it is up; `headgate down` stops it.")
@click.option("--keep", is_flag=True, help="Ctrl-C ends only this supervisor; the next `headgate up` adopts the rest.")
@click.option("--tls-cert", metavar="FILE", default="", help="Speak HTTPS with this certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", default="", help="Its key (PEM). Both are read again when they change.")
@click.option("--insecure", is_flag=True, help="Allow plain HTTP on a --host that others can reach.")
def up(
    repo: str | None,
    branch: str | None,
    data: str | None,
    host: str,
    port: int | None,
    workers: int,
    dataplane: str | None,
    tunnel_idle: float,
    tunnel_life: float,
    detach: bool,
    keep: bool,
    tls_cert: str,
    tls_key: str,
    insecure: bool,
) -> Exit:
    """Serve an endpoints repo on this machine. Killed and run again, it adopts what still runs."""
    ground.check_host(host, insecure, tls_cert, tls_key)
    asked = ground.settle(repo, branch, data, host, port, workers, dataplane)
    asked = replace(asked, tunnel_idle_s=tunnel_idle, tunnel_life_s=tunnel_life)
    if tls_cert:
        asked = replace(asked, tls_cert=str(Path(tls_cert).absolute()), tls_key=str(Path(tls_key).absolute()))
    return in_background(asked, insecure) if detach else in_foreground(asked, keep)


@options.verb()
@options.data()
def down(data: str | None) -> Exit:
    """Stop everything: open requests are answered first, then the routers, the controller and the models stop."""
    folder = open_folder(data)
    try:
        with Locked(folder.lock, f"headgate down, process {os.getpid()}"):
            supervisor.stop_everything(folder, note)
    except AlreadyLocked as error:
        ask_supervisor_to_stop(folder, error.holder)
    note("down")
    return Exit.OK


def in_foreground(asked: Ground, keep: bool) -> Exit:
    """Until Ctrl-C or SIGTERM."""
    data = DataFolder(asked.data)
    data.prepare()
    child.allow_open_files()
    with alone(data):
        sock = door.listening(data, asked)
        port = write_down(data, asked, sock)
        stop_surplus(data, door.names(asked))
        supervisor.forget_control(data)
        watched = Supervisor(data, services(data, asked, sock), note)
        stop = stop_on_signals()
        watched.begin()
        note(f"callers: {door.url_of(asked, port)}/endpoints/NAME/score   stop: Ctrl-C")
        if not options.quiet():
            threading.Thread(target=narrate, args=(Control(data), stop), name="narrate", daemon=True).start()
        watched.run(stop)
        if keep:
            note("everything runs on: `headgate up` adopts it, `headgate down` stops it")
        else:
            supervisor.stop_everything(data, note)
        sock.close()
    return Exit.OK


@contextmanager
def alone(data: DataFolder) -> Iterator[None]:
    """Holds the data folder. Raises: FindingsError `already-up`."""
    lock = Locked(data.lock, f"headgate up, process {os.getpid()}")
    try:
        lock.__enter__()
    except AlreadyLocked as error:
        raise FindingsError(
            Finding(
                code="already-up",
                message=f"this data folder is in use by {error.holder}",
                why="two supervisors on one data folder would start everything twice",
                fix="`headgate status` talks to the one that runs; `headgate down` stops it",
                place=Place(str(data.root)),
            )
        ) from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def services(data: DataFolder, asked: Ground, sock: socket.socket) -> list[Service]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    branch = ("--branch", asked.branch) if asked.branch else ()
    controller = (sys.executable, "-m", "headgate_controllers", "--data", str(data.root), *branch)
    # Not in argv: a URL may hold a password.
    first = Service(supervisor.CONTROLLER, controller, {**environment, "HEADGATE_REPO": asked.repo})
    return [first, *door.routers(data, asked, sock, environment)]


def write_down(data: DataFolder, asked: Ground, sock: socket.socket) -> int:
    """Where callers go, what to do the same next time, and the token of the control API. Answers the port."""
    port = int(sock.getsockname()[1])
    if not data.token.exists():
        write_atomic(data.token, secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
    write_json(data.router, {"url": door.url_of(asked, port), "workers": len(door.names(asked))})
    ground.remember(data, asked, port)
    return port


def stop_surplus(data: DataFolder, wanted: Collection[str]) -> None:
    """Router workers of last time that this time has no use for."""
    routers = [folder for folder in supervisor.running(data.services) if folder.name.startswith("router-")]
    supervisor.stop_folders([folder for folder in routers if folder.name not in wanted], supervisor.DRAIN_S)


def stop_on_signals() -> threading.Event:
    """Set by Ctrl-C and SIGTERM; a second one ends this process at once and leaves the rest running."""
    stop = threading.Event()

    def end(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return stop


def narrate(control: Control, stop: threading.Event) -> None:
    """Says what happens from now on, as the record has it."""
    after: int | None = None
    while not stop.wait(NARRATE_EVERY_S):
        with suppress(FindingsError):  # the controller restarts: the supervisor says that
            if after is None:
                after = newest(control)
                continue
            found, after = control.events(after=after)
            for event in found:
                note(live.event_line(event))


def newest(control: Control) -> int:
    """The id of the newest event."""
    after = 0
    while True:
        found, following = control.events(after=after, limit=5_000)
        if not found:
            return after
        after = following


def in_background(asked: Ground, insecure: bool) -> Exit:
    """Starts the supervisor under a shim of its own and waits until the system answers."""
    data = DataFolder(asked.data)
    data.prepare()
    folder = data.services / supervisor.SUPERVISOR
    with alone(data):  # refuses before anything is started; the supervisor takes lock and port itself
        door.listening(data, asked).close()
        child.reset(folder)
    said_before = supervisor.size(folder / "stderr")
    argv = [sys.executable, "-m", "headgate_console.main", "up", "--repo", asked.repo, "--branch", asked.branch]
    argv += [
        "--data",
        str(asked.data),
        "--host",
        asked.host,
        "--port",
        str(asked.port),
        "--workers",
        str(asked.workers),
        "--dataplane",
        asked.dataplane,
        "--tunnel-idle",
        f"{asked.tunnel_idle_s:g}s",
        "--tunnel-life",
        f"{asked.tunnel_life_s:g}s",
    ]
    argv += ["--insecure"] if insecure else []
    argv += ["--tls-cert", asked.tls_cert, "--tls-key", asked.tls_key] if asked.tls_cert else []
    child.start(folder, argv, env=dict(os.environ))
    wait_until_up(data, folder, said_before)
    url = json.loads(data.router.read_bytes())["url"]
    note(f"callers: {url}/endpoints/NAME/score   follow: headgate events -f   stop: headgate down")
    return Exit.OK


def wait_until_up(data: DataFolder, folder: Path, said_before: int = 0, within_s: float = UP_WITHIN_S) -> None:
    """While the supervisor lives: it ends by itself when a part of it never gets up.

    Raises: FindingsError `not-up`, with the supervisor's last words of this start, and what still runs.
    """
    began = said = time.monotonic()
    control = Control(data)
    while isinstance(child.state(folder), child.Running):
        missing = not_yet(data, control)
        if not missing:
            return
        now = time.monotonic()
        if now >= began + within_s:
            raise FindingsError(_slow(data, folder, missing, supervisor.tail(folder / "stderr", after=said_before)))
        if now >= said + SAY_EVERY_S:
            note(f"{missing}, for {now - began:.0f} s")
            said = now
        time.sleep(POLL_S)
    raise FindingsError(
        Finding(
            code="not-up",
            message="the system does not answer: its supervisor ended",
            why="the supervisor's last words:\n" + supervisor.tail(folder / "stderr", after=said_before),
            fix="run `headgate up` in the foreground to watch it start",
            place=Place(str(folder)),
        )
    )


def not_yet(data: DataFolder, control: Control) -> str:
    """What a start still waits for; empty: callers are answered. A lease alone may be that of a worker just killed."""
    try:
        workers = control.system().workers
    except FindingsError:  # it is only starting
        return "waiting for the controller"
    if all(worker.lost for worker in workers):
        return "waiting for a router worker"
    return "" if door.answers(data) else "waiting for the router to listen"


def _slow(data: DataFolder, folder: Path, missing: str, last_words: str) -> Finding:
    parts = [path.name for path in supervisor.running(data.services) if path.name != supervisor.SUPERVISOR]
    runs = f"what runs: {', '.join(parts)}" if parts else "none of its parts runs"
    return Finding(
        code="not-up",
        message=f"the system does not answer: still {missing}",
        why=f"{runs}. The supervisor's last words:\n{last_words}",
        fix=f"it goes on starting: look with `headgate status --data {data.root}`, read the logs beside this folder, "
        "or stop it with `headgate down`",
        place=Place(str(folder)),
    )


def ask_supervisor_to_stop(data: DataFolder, holder: str) -> None:
    """SIGTERM to the process that holds the lock, then waits until it is let go of.

    Raises: FindingsError `still-up`.
    """
    named = re.search(r"headgate up, process (\d+)", holder)
    if named:
        with suppress(ProcessLookupError):  # it ended just now
            os.kill(int(named[1]), signal.SIGTERM)
    deadline = time.monotonic() + DOWN_WITHIN_S
    while time.monotonic() < deadline:
        with suppress(AlreadyLocked), Locked(data.lock):
            return
        time.sleep(POLL_S)
    raise FindingsError(
        Finding(
            code="still-up",
            message=f"{holder} did not stop within {DOWN_WITHIN_S:g} s",
            why="requests may still be open, or it hangs",
            fix="its last words are in services/supervisor, or on the terminal it runs in; try again",
            place=Place(str(data.root)),
        )
    )

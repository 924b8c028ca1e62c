"""The router's own process beside Envoy, wired: it leads Envoy by the tables, admits callers, counts what they got."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headgate.findings import Finding, FindingsError, Place
from headgate_kit import listen
from headgate_router.count import Book
from headgate_router.dataplanes.envoy import lines, mutual
from headgate_router.dataplanes.envoy.bootstrap import Door, Places, bootstrap
from headgate_router.dataplanes.envoy.control import ASGIApp, Hosts, build
from headgate_router.dataplanes.envoy.discovery import Discovery
from headgate_router.dataplanes.envoy.plane import Plane
from headgate_router.dataplanes.envoy.probes import Probes
from headgate_router.dataplanes.envoy.process import BEGUN, COPIES_RUNNING, RUNNING, SILENT, Command, Envoy, find
from headgate_router.routes import Routes
from headgate_router.tunnels import Limits

log = logging.getLogger("headgate.router")

LOOK_S = 0.5  # between two looks at how many requests run


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line."""

    binary: str
    threads: int
    door: Door


def reserve(host: str, port: int) -> socket.socket:
    """An address as `keep` does, that nobody else listens on. Raises OSError: it is taken, or not of this machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as alone:  # who listens there without sharing is found out here
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind(address)
        bound = alone.getsockname()
    return keep(*bound[:2])


def keep(host: str, port: int) -> socket.socket:
    """A TCP address that is taken and not listened on: Envoy shares it, and finds it free again after a restart.

    Raises OSError: it is taken by others who do not share it, or not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class Side:
    """Not thread-safe: one event loop."""

    def __init__(self, worker: str, asked: Asked, routes: Routes, book: Book, tunnels: Limits) -> None:
        self._book = book
        self._folder = Path(tempfile.mkdtemp(prefix="headgate-envoy-"))  # short: the systems' limit is 104 bytes
        places = Places(*(str(self._folder / name) for name in ("control", "admin", "probe", "copies")))
        self.lines = 0  # of the log of requests of the Envoy of now
        self.unread = 0
        self.discovery = Discovery()
        self._probes = Probes(places.probe, asked.threads)
        shown, secrets = routes.trust.identity, ""
        if shown is not None:
            mutual.tell(self._folder, shown.folder)
            secrets = str(self._folder)
        self.plane = Plane(self.discovery, self._probes, lambda: routes.table, routes.addresses.of, tunnels, secrets)
        self._routes = routes
        self._tunnels = tunnels
        command = Command(asked.binary, asked.threads, self._folder, places.admin)
        self.envoy = Envoy(command, bootstrap(worker, asked.door, places), self._starting, self._count)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(places.control)
        os.chmod(places.control, 0o600)
        self.socket.listen(listen.BACKLOG)
        self.socket.setblocking(False)

    def app(self, pages: ASGIApp) -> ASGIApp:
        return Hosts(pages, build(self.discovery, self._routes))

    def _starting(self, node: str) -> None:
        for name in ("admin", "probe", "copies"):
            (self._folder / name).unlink(missing_ok=True)
        self._probes.close()
        self.lines = 0
        self.discovery.expect(node)

    def _count(self, line: bytes) -> None:
        self.lines += 1
        try:
            lines.count(self._book, line)
        except ValueError as error:
            self.unread += 1
            log.error("a line of Envoy's log cannot be read: %s", error)

    async def run(self) -> None:
        """Until cancelled, or `end`."""
        self._routes.changed = self.plane.push
        self.plane.push()
        looking = asyncio.get_running_loop().create_task(self._look())
        try:
            await self.envoy.run()
        finally:
            looking.cancel()
            self.plane.stop()
            self._probes.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self.envoy.running:
                with suppress(*SILENT):
                    self._book.in_flight = (await self.envoy.stats()).get(RUNNING, 0)

    async def counted(self) -> bool:
        """Whether no request and no copy runs, and each has its line. Raises as `Envoy.stats`."""
        found = await self.envoy.stats()
        running = found.get(RUNNING, 0) + found.get(COPIES_RUNNING, 0)
        return not running and self.lines >= sum(found.get(name, 0) for name in BEGUN)

    def unready(self) -> str:
        return "" if self.envoy.running else "Envoy is not running"

    async def end(self, seconds: float) -> None:
        """Drains and ends Envoy; every line that it wrote is counted when `run` has ended."""
        await self.envoy.end(seconds, self._tunnels.drain_s)
        self.discovery.close()

    def clean(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def figures(self) -> Iterable[tuple[str, str, float]]:
        yield "envoy_starts", "Times that Envoy was started", self.envoy.starts
        yield "envoy_lines_unread", "Lines of Envoy's log of requests that could not be read", self.unread


def side_of(arguments: argparse.Namespace, sock: socket.socket) -> Asked:
    """From the command line. Raises FindingsError: Envoy is not here, or cannot do it."""
    for given, option, instead in (
        (arguments.fd is not None, "--fd", "give --host and --port: Envoy opens the socket itself"),
        (bool(arguments.access_log), "--access-log", "leave it out; what callers got is counted all the same"),
    ):
        if given:
            raise FindingsError(
                Finding(
                    code="envoy-option",
                    message=f"{option} is not for `--dataplane envoy`",
                    why="Envoy would serve as if it had not been said",
                    fix=instead,
                    place=Place(f"router {arguments.worker}"),
                )
            )
    host, port = sock.getsockname()[:2]
    door = Door(
        host, port, arguments.domain, arguments.max_body, arguments.connections, arguments.tls_cert, arguments.tls_key
    )
    return Asked(find(arguments.envoy), threads(arguments.envoy_threads), door)


def threads(asked: int) -> int:
    """As asked; 0: one for each core that this process may use."""
    if asked:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

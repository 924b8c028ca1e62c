"""One router worker: puts the parts together, serves on one listening socket, ends without losing an answer.

`python -m headgate_router --data DIR --worker router-0 (--fd N | --host H --port P)`. SIGTERM and SIGINT drain: no
new connections, running answers end, the last counts are delivered; with `--drain-delay S` that begins S seconds after
readiness says no. Exit 0.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvicorn

from headgate.findings import Finding, FindingsError, Place
from headgate.ports import Resolver
from headgate.table import dialled
from headgate_kit import identity, listen
from headgate_kit.identity import Identity
from headgate_kit.layout import DataFolder
from headgate_router import app, turns
from headgate_router.access_log import AccessLog
from headgate_router.copies import Mirrors
from headgate_router.count import Book
from headgate_router.dataplanes.builtin.asgi import DataPath
from headgate_router.dataplanes.builtin.doors import CONNECTIONS, Doors
from headgate_router.dataplanes.builtin.ending import STALL_S
from headgate_router.dataplanes.builtin.guard import Expires, Guarded, bound, sweep
from headgate_router.dataplanes.builtin.protocol import protocol
from headgate_router.dataplanes.envoy.side import Asked, Side, reserve, side_of
from headgate_router.feed import Announced, Feed
from headgate_router.metrics import RouterCollector
from headgate_router.place import suffix
from headgate_router.request import MAX_BODY, Desk
from headgate_router.routes import Routes
from headgate_router.server import Server
from headgate_router.tls import Certificate
from headgate_router.trust import Trust
from headgate_router.tunnels import Limits

log = logging.getLogger("headgate.router")

LOOPBACK = ("127.0.0.1", "::1", "localhost")

DRAIN_S = 30  # for running answers to end
COPIES_S = 1.0  # for running copies to end
FLUSH_S = 3.0  # for the last counts to be taken
BUILTIN = "builtin"  # scoring requests by our own protocol
ASGI = "asgi"  # by uvicorn's, as on any ASGI server
ENVOY = "envoy"  # by an Envoy beside this process
KEEP_ALIVE_S = 75  # longer than load balancers keep theirs, so that the caller's side is the one that closes


@dataclass(frozen=True, slots=True)
class Settings:
    data: DataFolder
    worker: str
    domain: str = "localhost"  # NAME.localhost is endpoint NAME; empty: by path only
    max_body: int = MAX_BODY  # bytes
    control: str = ""  # the control API's URL; empty: what the data folder says
    token_file: Path | None = None  # the control API's token; None: the data folder's
    dataplane: str = BUILTIN  # or ASGI, ENVOY
    envoy: Asked | None = None  # with ENVOY
    connections: int = CONNECTIONS  # of callers
    client_connections: int = CONNECTIONS // 2  # of one client address
    certificate: Certificate | None = None  # None: plain HTTP
    models: Identity | None = None  # shown to models that ask for it; None: those are not reached
    tunnels: Limits = Limits()
    access_log: str = ""  # a file, or `-`: standard output; empty: none
    access_log_share: float = 1.0  # of the requests
    drain_delay_s: float = 0.0  # served on, unready, before the drain begins: balancers need time to see it
    offer: Path | None = None  # where the listening socket is handed to a new supervisor; None: it is not


class Worker:
    """The parts of one worker, wired."""

    def __init__(self, settings: Settings, resolvers: Mapping[str, Resolver] | None = None) -> None:
        """`resolvers`: see `Addresses`; None: those installed."""
        draws = random.Random()  # seeded by the system: workers must not draw alike
        self.settings = settings
        known = settings.data.tables / f"{settings.worker}.addresses.json"
        keys = settings.data.tables / f"{settings.worker}.issuers.json"
        self.routes = Routes(draws, resolvers, known, keys, Trust(settings.models))
        self.book = Book(time.monotonic())
        self.mirrors = Mirrors(self.book)
        self.side = (
            Side(settings.worker, settings.envoy, self.routes, self.book, settings.tunnels) if settings.envoy else None
        )
        announced = Announced(settings.data, settings.control, settings.token_file)
        plane = self.side.plane if self.side else None
        self.feed = Feed(
            settings.data, settings.worker, self.routes, self.book, draws, announced=announced, plane=plane
        )
        collector = RouterCollector(
            settings.worker, self.routes, self.book, self.mirrors, self.feed, time.monotonic, self._at_the_doors,
            places=self.side is None,
        )  # fmt: skip
        self.log = (
            AccessLog(settings.access_log, settings.worker, settings.access_log_share, draws)
            if settings.access_log
            else None
        )
        desk = Desk(
            self.routes, self.book, self.mirrors, draws, settings.max_body, self.log, tunnel_limits=settings.tunnels
        )
        self.doors = Doors(desk, suffix(settings.domain), settings.connections, settings.client_connections)
        pages = app.build(self.routes, collector, self.unready)
        self.app = self.side.app(pages) if self.side else app.Front(DataPath(desk), pages, settings.domain)
        self._server = Server(self._config(), settings.certificate)
        self._ending = False
        self._draining: asyncio.Task[None] | None = None
        self._begun = False  # the replicas of the table on disk were looked for

    def _at_the_doors(self) -> Iterable[tuple[str, str, float]]:
        """All of them always: an alert needs no word on how a worker was started."""
        dropped = self.log.dropped if self.log else 0
        renewed = self.settings.certificate.renewed if self.settings.certificate else 0
        yield "connections_refused", "Connections beyond the limits", self.doors.refused
        yield "access_log_dropped", "Lines of the access log that were not written", dropped
        yield "handshakes_failed", "Connections that did not begin, or end, a handshake", self._server.unknown
        yield "certificates_renewed", "Certificates taken up", renewed
        trust = self.routes.trust
        taken_up = trust.identity.renewed if trust.identity else 0
        if self.side is None:  # Envoy does not say
            yield "upstream_tls_failed", "Handshakes with models that came to nothing", trust.failed
        yield "upstream_tls_renewed", "Certificates for models taken up", taken_up
        if self.side:
            yield from self.side.figures()

    def unready(self) -> str:
        """Why no new caller should come here; empty: they may."""
        if self._ending:
            return "draining"
        if not self._begun:
            return "replicas are still looked for"
        return self.side.unready() if self.side else ""

    def end(self) -> None:
        """Begins to drain: at once, or when balancers had time to see that it is unready. Called again: at once."""
        delay_s = 0.0 if self._ending else self.settings.drain_delay_s
        self._ending = True
        asyncio.get_running_loop().call_later(delay_s, self._stop)

    def _stop(self) -> None:
        if self.side is None:
            self._server.should_exit = True
        elif self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(self.side))

    async def _drain(self, side: Side) -> None:
        """Callers are admitted until the last of them has been answered."""
        await side.end(DRAIN_S)
        self._server.should_exit = True

    async def begin(self) -> None:
        """Looks for the replicas of the table on disk; until then the worker is not ready."""
        if self.routes.table is not None:
            await self.routes.addresses.known(self.routes.table)
        self._begun = True

    async def serve(self, sock: socket.socket) -> None:
        """Serves until SIGTERM or SIGINT, then drains. With Envoy `sock` is only kept: see `side.reserve`."""
        self.feed.load()
        server = self._server
        if self.log is not None:
            self.log.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        tasks = [
            loop.create_task(self.begin()),
            loop.create_task(self.feed.run()),
            loop.create_task(sweep(lambda: cast(set[Expires], server.server_state.connections))),
        ]
        if self.settings.certificate is not None:
            tasks.append(loop.create_task(self.settings.certificate.keep()))
        if self.settings.models is not None:
            tasks.append(loop.create_task(self.settings.models.keep()))
        gc.collect()
        gc.freeze()  # what lives for ever is not looked at again: shorter pauses
        offered = None
        if self.side is not None:
            tasks.append(loop.create_task(self.side.run()))
        else:
            bound(sock, STALL_S)
            offered = self._offer(sock)
        try:
            await server.serve(sockets=[sock if self.side is None else self.side.socket])
        finally:
            if offered is not None:
                offered.close()
            await self._end(tasks)
            if self.side is not None:
                sock.close()

    def _offer(self, sock: socket.socket) -> listen.Offer | None:
        """Serving comes first: without an offer only the hand-over to a new supervisor is lost."""
        if self.settings.offer is None:
            return None
        try:
            return listen.offer(sock, self.settings.offer)
        except OSError as error:
            log.error("the listening socket is not offered at %s: %s", self.settings.offer, error)
            return None

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self.app,
            http=protocol(self.doors) if self.settings.dataplane == BUILTIN else Guarded,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
            backlog=listen.BACKLOG,
        )

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        if self.side is not None:
            await self.side.end(0)
            await tasks[-1]  # the last lines are counted
            self.side.clean()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.mirrors.drain(COPIES_S)
        if not await self.feed.flush(FLUSH_S):
            log.warning("the last counts of %s were not delivered", self.settings.worker)
        self.routes.close()
        await self.routes.addresses.close()
        await self.routes.issuers.close()
        if self.log is not None:
            await asyncio.to_thread(self.log.close)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m headgate_router", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--control", default="", metavar="URL", help="the control API; default: the data folder's")
    parser.add_argument("--token-file", type=Path, help="the control API's token; default: the data folder's")
    parser.add_argument("--worker", default="router-0", help="this worker's stable name")
    parser.add_argument("--fd", type=int, help="an inherited listening socket")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0: any free one, printed on the first line")
    parser.add_argument("--access-log", default="", metavar="FILE", help="JSON lines; -: standard output; default: off")
    parser.add_argument("--access-log-share", type=_share, default=1.0, metavar="P", help="of the requests, 0 to 1")
    parser.add_argument("--tls-cert", type=Path, help="certificate chain, PEM; with --tls-key")
    parser.add_argument("--tls-key", type=Path, help="its key, PEM, without a password")
    parser.add_argument(
        "--models-tls", type=Path, metavar="DIR", help="tls.crt, tls.key and ca.crt for models that ask for mutual TLS"
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=os.environ.get("HEADGATE_INSECURE", "") == "true",
        help="plain HTTP on a --host that others can reach; also HEADGATE_INSECURE=true",
    )
    parser.add_argument("--domain", default="localhost", help="NAME.DOMAIN is endpoint NAME; empty: by path only")
    parser.add_argument("--max-body", type=int, default=MAX_BODY, help="bytes of a request body")
    parser.add_argument(
        "--dataplane", choices=(BUILTIN, ASGI, ENVOY), default=BUILTIN, help="how scoring requests are passed on"
    )
    parser.add_argument("--envoy", default="", metavar="PATH", help="its binary; default: see docs/envoy.md")
    parser.add_argument("--envoy-threads", type=int, default=0, metavar="N", help="0: one for each core")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="of callers, at once")
    parser.add_argument("--client-connections", type=int, default=CONNECTIONS // 2, help="of one client address")
    parser.add_argument(
        "--drain-delay", type=float, default=0.0, metavar="S", help="serve on for so long after SIGTERM, unready"
    )
    limits = Limits()
    parser.add_argument("--tunnel-idle", type=_seconds, default=limits.idle_s, metavar="S", help="without a byte")
    parser.add_argument("--tunnel-life", type=_seconds, default=limits.life_s, metavar="S", help="of any WebSocket")
    parser.add_argument("--offer", type=Path, help="Unix socket that hands out the listening socket")
    return parser.parse_args(argv)


def _share(text: str) -> float:
    """Raises ValueError, which argparse makes a message of."""
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


def _seconds(text: str) -> float:
    """Raises ValueError, which argparse makes a message of."""
    seconds = float(text)
    if not seconds > 0:
        raise ValueError(text)
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what it says of single requests is the callers' doing
    data = DataFolder(arguments.data)
    try:
        check_control(arguments.control)
        certificate = certificate_of(arguments)
        models = Identity(arguments.models_tls, identity.client) if arguments.models_tls else None
        data.prepare()
        sock = _listening(arguments)
        asked = side_of(arguments, sock) if arguments.dataplane == ENVOY else None
    except FindingsError as error:
        sys.exit(str(error))
    offer = arguments.offer or data.services / arguments.worker / "listen.sock"
    worker = Worker(
        Settings(
            data=data,
            worker=arguments.worker,
            domain=arguments.domain,
            max_body=arguments.max_body,
            dataplane=arguments.dataplane,
            connections=arguments.connections,
            client_connections=arguments.client_connections,
            control=arguments.control,
            token_file=arguments.token_file,
            certificate=None if asked else certificate,
            models=models,
            envoy=asked,
            access_log=arguments.access_log,
            access_log_share=arguments.access_log_share,
            drain_delay_s=max(0.0, arguments.drain_delay),
            tunnels=Limits(arguments.tunnel_idle, arguments.tunnel_life),
            offer=offer,
        )
    )
    host, port = sock.getsockname()[:2]
    print(f"listening on {'https' if certificate else 'http'}://{host}:{port}", flush=True)
    turns.shorten()
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(worker.serve(sock))


def check_control(url: str) -> None:
    """Raises FindingsError: this is no URL to dial."""
    try:
        parts = urlsplit(url)
        named = f"{parts.scheme}://{parts.hostname or ''}"
        good = parts.scheme == "http" and not parts.username and dialled(f"http://{parts.netloc}")
    except ValueError:  # brackets that do not pair
        named, good = url.rpartition("@")[2], False
    if url and not good:
        raise FindingsError(
            Finding(
                code="control-url",
                message=f"`{named}` is no control API to dial",
                why="a router dials plain HTTP inside one network; its token is in a file, never in the URL",
                fix="give --control http://headgate-controller.NAMESPACE:7070",
                place=Place("router"),
            )
        )


def certificate_of(arguments: argparse.Namespace) -> Certificate | None:
    """None: plain HTTP. Raises FindingsError: others could read it on the way, or the files cannot be used."""
    if arguments.tls_cert and arguments.tls_key:
        return Certificate(arguments.tls_cert, arguments.tls_key)
    halves = bool(arguments.tls_cert or arguments.tls_key)
    if not halves and (arguments.insecure or arguments.fd is not None or arguments.host in LOOPBACK):
        return None
    raise FindingsError(
        Finding(
            code="tls-files" if halves else "plain-http",
            message="--tls-cert and --tls-key come together"
            if halves
            else f"{arguments.host} can be reached by others, and this would be plain HTTP",
            why="callers' credentials and requests could be read on the way",
            fix="give --tls-cert and --tls-key, or say --insecure where something before it ends TLS",
            place=Place(f"router {arguments.worker}"),
        )
    )


def _listening(arguments: argparse.Namespace) -> socket.socket:
    """Raises FindingsError: there is no such address to listen on."""
    asked = f"descriptor {arguments.fd}" if arguments.fd is not None else f"{arguments.host}:{arguments.port}"
    try:
        if arguments.dataplane == ENVOY and arguments.fd is None:
            return reserve(arguments.host, arguments.port)
        return listen.adopt(arguments.fd) if arguments.fd is not None else listen.bind(arguments.host, arguments.port)
    except (OSError, ValueError, OverflowError) as error:  # also a name that DNS cannot hold, a port that is none
        finding = Finding(
            code="listen",
            message=f"cannot listen on {asked}: {getattr(error, 'strerror', None) or error}",
            why="callers would have nowhere to go",
            fix="stop what uses it, or give another --host and --port",
            place=Place(f"router {arguments.worker}"),
        )
        raise FindingsError(finding) from error


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()

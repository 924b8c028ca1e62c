"""One replica's front: listens, starts the workers in the model's interpreter, ends when they end.

    HEADGATE_REPLICA=FOLDER HEADGATE_SERVE={...} python -m headgate_serving.front

Writes FOLDER/address once it listens. Exit 0: drained after SIGTERM · 3: the script did not import, init() raised, or
the bundle cannot be used · 4: a worker process ended · NOT_SET_UP: the certificate cannot be used. The last line of the
log says why. Refuses to start anything twice: who starts it again decides about back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import uvicorn

from headgate.codec import CodecError
from headgate.findings import FindingsError
from headgate.workload import ADDRESS, CPU_SET, HEALTH, NOT_SET_UP, REPLICA, TLS
from headgate_kit import identity
from headgate_kit.files import write_atomic
from headgate_kit.identity import Identity
from headgate_serving.inference import Inference, Receive, Scope, Send
from headgate_serving.placed import placed
from headgate_serving.settings import (
    Bundle,
    ServeSettings,
    read_bundle,
    settings_from,
    worker_environment,
    workers_from,
)
from headgate_serving.workers import Crew, InitFailed, WorkerLost

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

DRAINED, NOT_STARTED, WORKER_ENDED = 0, 3, 4
BACKLOG = 512  # connections that may wait while we are busy; the router limits before that
IDLE_S = (
    120  # an idle connection lives this long: longer than the router keeps it, so that it is never the one surprised
)


class Server(uvicorn.Server):
    """Uvicorn that says when it listens, and has a second door for health alone."""

    def __init__(self, config: uvicorn.Config, listening: asyncio.Event) -> None:
        super().__init__(config)
        self._listening = listening
        self.health: tuple[uvicorn.Config, socket.socket] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.health is not None:
            config, sock = self.health
            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_server(lambda: self._protocol(config), sock=sock, backlog=BACKLOG))
        self._listening.set()

    def _protocol(self, config: uvicorn.Config) -> asyncio.Protocol:
        """Its connections are drained as all others are."""
        made: asyncio.Protocol = cast(Any, config.http_protocol_class)(
            config=config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


class Front:
    def __init__(self, folder: Path, settings: ServeSettings, bundle: Bundle, environ: Mapping[str, str]) -> None:
        env = worker_environment(settings, bundle, environ)
        workers = workers_from(env)
        self._folder = folder
        self._crew = Crew(
            settings.interpreter,
            env,
            cwd=(Path(settings.bundle) / bundle.code).parent,  # as on Azure: the folder that holds the code folder
            count=workers.count,
            preload=workers.preload,
        )
        self._identity = Identity(Path(environ[TLS]), identity.server) if environ.get(TLS) else None
        self._app = app = Inference(
            self._crew,
            scoring_path=settings.scoring_path,
            body_limit=settings.body_limit,
            run_limit_s=workers.run_limit_s,
        )
        self._drain_s = settings.drain_s
        self._listening = asyncio.Event()
        self._server = Server(server_config(app, settings.drain_s, self._identity), self._listening)

    async def run(self, listener: socket.socket, health: socket.socket | None = None) -> int:
        """`health`: see `Inference.health`."""
        if health is not None:
            self._server.health = server_config(self._app.health, self._drain_s), health
        serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        working = asyncio.create_task(self._work())
        await self._listening.wait()
        keeping = asyncio.create_task(self._identity.keep()) if self._identity else None
        host, port = listener.getsockname()[:2]
        write_atomic(self._folder / "address", f"{'https' if self._identity else 'http'}://{host}:{port}\n".encode())
        await asyncio.wait({serving, working}, return_when=asyncio.FIRST_COMPLETED)
        self.stop()
        await serving  # answers what it still can, also when a worker ended
        if keeping is not None:
            keeping.cancel()
        ended = working.result() if working.done() else DRAINED
        working.cancel()
        await self._crew.close()
        return ended

    def stop(self) -> None:
        """Drains, then ends."""
        self._server.should_exit = True

    async def _work(self) -> int:
        """Ends only when the workers do."""
        try:
            await self._crew.start()
        except InitFailed as failure:
            say(f"the model did not start: {failure}")
            return NOT_STARTED
        except WorkerLost:
            say(f"the model did not start: its process {await self._crew.wait_lost()}")
            return NOT_STARTED
        except OSError as error:
            say(f"the model did not start: cannot run its interpreter: {error}")
            return NOT_STARTED
        say("the model is ready")
        say(f"a worker process {await self._crew.wait_lost()}: the replica ends with it")
        return WORKER_ENDED


def server_config(app: ASGIApp, drain_s: float, tls: Identity | None = None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        interface="asgi3",  # of a bound method it cannot be found out
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    config.load()
    config.ssl = tls.door() if tls is not None else None  # uvicorn's own would read its files once
    return config


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk is no reason not to serve
        print(f"headgate: {text}", file=sys.stderr, flush=True)


def listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_server((host, int(port)), backlog=BACKLOG)


def stay_on(cores: str) -> None:
    """Before any thread or worker exists, so that all inherit it. Not every system can."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(c) for c in cores.split(",")})


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def main(environ: Mapping[str, str]) -> int:
    folder = Path(environ[REPLICA])
    try:
        settings = settings_from(environ)
        bundle = read_bundle(Path(settings.bundle))
        with (folder / "storage-initializer").open("a", encoding="utf-8") as log:
            missing = placed(settings, bundle, log)
        if missing:
            raise ValueError(missing)
        stay_on(environ.get(CPU_SET, ""))
        front = Front(folder, settings, bundle, environ)
    except FindingsError as error:
        say(f"not started: {error.findings[0].message}; {error.findings[0].fix}")
        return NOT_SET_UP
    except (CodecError, OSError, ValueError) as error:
        say(f"not started: {error}")
        return NOT_STARTED
    # Uvicorn drains on SIGTERM and then raises it again, for us: an orderly end is not a death by signal.
    signal.signal(signal.SIGTERM, lambda *_: front.stop())
    health = environ.get(HEALTH, "")
    with listen(environ.get(ADDRESS, "127.0.0.1:0")) as listener, listen(health) if health else nullcontext() as second:
        return run_loop(front.run(listener, second))


if __name__ == "__main__":
    sys.exit(main(os.environ))

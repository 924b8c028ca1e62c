"""One replica's front: listens, starts the workers in the model's interpreter, ends when they end.

    HEADGATE_REPLICA=FOLDER HEADGATE_SERVE={...} python -m headgate_serving.front

Writes FOLDER/address once it listens. Exit 0: drained after SIGTERM · 3: the script did not import, init() raised, or
the bundle is not whole · 4: a worker process ended. The last line of the log says why. Refuses to start anything
twice: who starts it again decides about back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from headgate.codec import CodecError
from headgate.workload import ADDRESS, CPU_SET, REPLICA
from headgate_kit.files import write_atomic
from headgate_serving.inference import Inference
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

DRAINED, NOT_STARTED, WORKER_ENDED = 0, 3, 4
BACKLOG = 512  # connections that may wait while we are busy; the router limits before that
IDLE_S = (
    120  # an idle connection lives this long: longer than the router keeps it, so that it is never the one surprised
)


class Server(uvicorn.Server):
    """Uvicorn that says when it listens."""

    def __init__(self, config: uvicorn.Config, listening: asyncio.Event) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()


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
        app = Inference(
            self._crew,
            scoring_path=settings.scoring_path,
            body_limit=settings.body_limit,
            run_limit_s=workers.run_limit_s,
        )
        self._listening = asyncio.Event()
        self._server = Server(server_config(app, settings.drain_s), self._listening)

    async def run(self, listener: socket.socket) -> int:
        serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        working = asyncio.create_task(self._work())
        await self._listening.wait()
        host, port = listener.getsockname()[:2]
        write_atomic(self._folder / "address", f"http://{host}:{port}\n".encode())
        await asyncio.wait({serving, working}, return_when=asyncio.FIRST_COMPLETED)
        self.stop()
        await serving  # answers what it still can, also when a worker ended
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


def server_config(app: Inference, drain_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
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
    except (CodecError, OSError, ValueError) as error:
        say(f"not started: {error}")
        return NOT_STARTED
    # Uvicorn drains on SIGTERM and then raises it again, for us: an orderly end is not a death by signal.
    signal.signal(signal.SIGTERM, lambda *_: front.stop())
    with listen(environ.get(ADDRESS, "127.0.0.1:0")) as listener:
        return run_loop(front.run(listener))


if __name__ == "__main__":
    sys.exit(main(os.environ))

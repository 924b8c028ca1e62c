"""The port `Platform` on one machine. What is asked for is written down before anything starts.

Runs a thread with a loop: a keeper per replica, and whoever is being ended. Closing it ends the looking, never a
replica.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from headgate.codec import CodecError
from headgate.findings import HeadgateError
from headgate.workload import Purpose, Replica, Workload
from headgate_controllers.platforms.process import ending, memory
from headgate_controllers.platforms.process.folder import (
    LOGS,
    bound_logs,
    read_workload,
    write_workload,
)
from headgate_controllers.platforms.process.keeper import READY_S, Keeper
from headgate_kit import child
from headgate_kit.files import FULL, DiskFull
from headgate_kit.layout import DataFolder

log = logging.getLogger(__name__)
Key = tuple[str, str, Purpose, int]
MEMORY_S = 1.0  # how often memory is sampled
LOGS_S = 30.0  # how often the length of logs is looked at
FOLLOW_S = 0.2
CLOSE_S = 5.0  # an idle replica ends in 0.2 s
CHUNK = 65_536
PROBES_PER_S = 100  # of all replicas together, once they are ready: more of them are asked less often


class ProcessPlatform:
    """Args:
    on_change: called with an endpoint's name whenever one of its replicas changed, from our thread; must be quick.
    environ: where the few inherited variables come from; None is our own environment.
    """

    def __init__(
        self,
        data: DataFolder,
        *,
        on_change: Callable[[str], None] = lambda endpoint: None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._root = data.replicas
        self._on_change = on_change
        self._environ = dict(os.environ if environ is None else environ)
        self._lock = threading.RLock()
        self._keepers: dict[Key, Keeper] = {}
        self._tasks: dict[Keeper, asyncio.Task[None]] = {}  # used on the loop only
        self._leaving: dict[Path, asyncio.Event] = {}  # folders whose last replica is not set aside yet
        self._endings: set[Future[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="process-platform", daemon=True)

    # --- life of the platform --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Adopts what runs, ends what nobody asks for any more, starts what is missing."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()
        for folder in sorted((self._root / ".ending").glob("*")):
            self._keep_ending(ending.end(folder, linger=False))
        with self._lock:
            for workload in self._asked():
                self._make_so(workload)
            kept = {k.folder for k in self._keepers.values()}
            for folder in sorted(self._root.glob("[!.]*/*/*-*/")):
                if folder not in kept:
                    self._end(folder, linger=True)
        self._spawn(self._sample_memory())
        self._spawn(self._bound_logs())

    def close(self) -> None:
        """Stops looking. Replicas run on; those that were removed are given a moment to end, then the next platform
        goes on ending them."""
        if self._thread.is_alive():
            wait(list(self._endings), timeout=CLOSE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        if not self._loop.is_closed():
            self._loop.close()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.add_done_callback(_report)
        return future

    def _keep_ending(self, work: Coroutine[Any, Any, None]) -> None:
        future = self._spawn(work)
        self._endings.add(future)
        future.add_done_callback(self._endings.discard)

    def _asked(self) -> Iterator[Workload]:
        for path in sorted(self._root.glob("[!.]*/*/*.json")):
            try:
                yield read_workload(path)
            except (OSError, CodecError) as error:
                log.error("%s: cannot be read, its replicas end: %s", path, error)

    # --- the port --------------------------------------------------------------------------------------------------

    def apply(self, workload: Workload) -> None:
        """Raises TransientError when the disk is full: nothing changed then."""
        path = self._folder(workload.endpoint, workload.revision) / f"{workload.purpose}.json"
        with self._lock:
            if workload.replicas == 0:
                path.unlink(missing_ok=True)
            else:
                _write(path, workload)
            self._make_so(workload)

    def observe(self, endpoint: str) -> Sequence[Replica]:
        with self._lock:
            found = [k.replica for k in self._keepers.values() if k.workload.endpoint == endpoint]
        return sorted(found, key=lambda r: (r.revision, r.purpose, r.index))

    def remove(self, endpoint: str, revision: str) -> None:
        folder = self._folder(endpoint, revision)
        with self._lock:
            for path in folder.glob("*.json"):
                path.unlink(missing_ok=True)
            for key in [k for k in self._keepers if k[:2] == (endpoint, revision)]:
                self._drop(key)
            for left in folder.glob("*-*/"):
                if left not in self._leaving:
                    self._end(left, linger=False)

    def logs(self, replica: Replica, *, follow: bool = False, kind: str = LOGS[0]) -> Iterator[bytes]:
        """What a log holds; with `follow` what it gets, until the replica is removed. An unknown kind has nothing."""
        path = Path(replica.logs.get(kind, ""))
        position = 0
        while True:
            try:
                with path.open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    position = file.seek(position if position <= size else 0)  # it was cut: from its new start
                    while chunk := file.read(CHUNK):
                        position += len(chunk)
                        yield chunk
            except (FileNotFoundError, IsADirectoryError):
                if not follow or not path.parent.exists() or not replica.logs.get(kind):
                    return
            if not follow:
                return
            time.sleep(FOLLOW_S)

    # --- making it so ----------------------------------------------------------------------------------------------

    def _folder(self, endpoint: str, revision: str) -> Path:
        for part in (endpoint, revision):
            if not part or "/" in part or part.startswith("."):
                raise ValueError(f"not a name of an endpoint or a revision: {part!r}")
        return self._root / endpoint / revision

    def _make_so(self, workload: Workload) -> None:
        wanted = [(workload.endpoint, workload.revision, workload.purpose, i) for i in range(workload.replicas)]
        for key in wanted:
            keeper = self._keepers.get(key)
            if keeper is None:
                self._keep(key, workload)
            else:
                self._loop.call_soon_threadsafe(keeper.poke, workload)
        for key in [k for k in self._keepers if k[:3] == (workload.endpoint, workload.revision, workload.purpose)]:
            if key not in wanted:
                self._drop(key, linger=workload.purpose is Purpose.SERVE)

    def _keep(self, key: Key, workload: Workload) -> None:
        folder = self._folder(*key[:2]) / f"{key[2]}-{key[3]}"
        keeper = Keeper(
            folder,
            workload,
            key[3],
            environ=self._environ,
            on_change=self._on_change,
            asked_every_s=self._asked_every_s,
            adopt=folder not in self._leaving,
        )
        self._keepers[key] = keeper
        self._loop.call_soon_threadsafe(self._begin, keeper)

    def _begin(self, keeper: Keeper) -> None:
        task = self._tasks[keeper] = self._loop.create_task(self._run_keeper(keeper))
        task.add_done_callback(_report)

    async def _run_keeper(self, keeper: Keeper) -> None:
        left = self._leaving.get(keeper.folder)
        if left is not None:
            await left.wait()  # the folder still belongs to the one before
        await keeper.run()

    def _asked_every_s(self) -> float:
        return max(READY_S, len(self._keepers) / PROBES_PER_S)

    def _drop(self, key: Key, *, linger: bool = False) -> None:
        """Out of sight at once; its keeper ends before its folder is touched."""
        keeper = self._keepers.pop(key)
        self._end(keeper.folder, linger=linger, keeper=keeper)
        self._on_change(key[0])

    def _end(self, folder: Path, *, linger: bool, keeper: Keeper | None = None) -> None:
        left = self._leaving[folder] = asyncio.Event()
        self._keep_ending(self._leave(folder, left, linger, keeper))

    async def _leave(self, folder: Path, left: asyncio.Event, linger: bool, keeper: Keeper | None) -> None:
        try:
            if keeper is not None:
                task = self._tasks.pop(keeper)
                task.cancel()
                await asyncio.wait({task})
            aside = ending.set_aside(folder, self._root)
        finally:
            with self._lock:
                if self._leaving.get(folder) is left:
                    del self._leaving[folder]
                _remove_empty(folder.parent)
            left.set()
        if aside is not None:
            await ending.end(aside, linger=linger)

    # --- looking after all of them ---------------------------------------------------------------------------------

    async def _sample_memory(self) -> None:
        while True:
            await asyncio.sleep(MEMORY_S)
            limited = [
                k for k in list(self._keepers.values()) if k.workload.memory_mb and k.life.started_at is not None
            ]
            if not limited:
                continue
            used = await asyncio.to_thread(memory.resident)
            for keeper in limited:
                await self._judge_memory(keeper, used)

    async def _judge_memory(self, keeper: Keeper, used: Mapping[int, float]) -> None:
        group = child.pid(keeper.folder)
        limit = keeper.workload.memory_mb
        if group is None or used.get(group, 0.0) <= limit:
            return
        exact = await asyncio.to_thread(memory.proportional, group) or used[group]
        if exact > limit:
            keeper.end(f"OOM: {exact:.0f} MiB used, {limit} MiB allowed")

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(LOGS_S)
            for keeper in list(self._keepers.values()):
                await asyncio.to_thread(bound_logs, keeper.folder)


def _write(path: Path, workload: Workload) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_workload(path, workload)
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(path) from error
        if error.errno == errno.EROFS:
            raise HeadgateError(f"{path.parent} cannot be written") from error
        raise


def _remove_empty(folder: Path) -> None:
    """A revision's folder, and its endpoint's, when nothing is in it."""
    for empty in (folder, folder.parent):
        try:
            empty.rmdir()
        except OSError:
            return  # other replicas or revisions are there


def _report(future: Future[None] | asyncio.Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("looking after replicas failed: %s", error, exc_info=error)

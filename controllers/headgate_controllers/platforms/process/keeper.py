"""Keeps one replica running: starts it, asks it, notices its death, starts it again or gives up, as `life.py` says.

Everything it knows is in the replica's folder: a keeper of a restarted controller picks up a running replica as it is.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headgate.findings import HeadgateError
from headgate.workload import READY_PATH, Replica, ReplicaState, Workload
from headgate_controllers.platforms.process import folder as files
from headgate_controllers.platforms.process import life as lives
from headgate_controllers.platforms.process.life import Life
from headgate_controllers.platforms.process.probe import Probing
from headgate_kit import child

log = logging.getLogger(__name__)
STARTING_S = 0.1  # how often a replica that is not ready is asked
READY_S = 1.0  # and one that is; its death is noticed at once, by the end of the connection
SOON_S = 0.02  # how soon we look again when it neither listens nor has ended
RETRY_S = 5.0  # after an error of the machine, such as a full disk


class Keeper:
    """Made on any thread; its methods run on the platform's loop, `replica` is read from anywhere.

    Args:
        adopt: False: what is in the folder still belongs to a replica that is leaving.
    """

    def __init__(
        self,
        folder: Path,
        workload: Workload,
        index: int,
        *,
        environ: Mapping[str, str],
        on_change: Callable[[str], None],
        asked_every_s: Callable[[], float] = lambda: READY_S,
        adopt: bool = True,
    ) -> None:
        self.folder = folder
        self.workload = workload
        self.index = index
        self.life = files.read_life(folder) if adopt else Life()
        self._environ = environ
        self._on_change = on_change
        self._asked_every_s = asked_every_s
        self._address = ""
        self._reason = ""  # why we ended it ourselves; empty: we did not
        self._saved = self.life
        self._unsaved = False
        self._alive_asked_at = 0.0
        self._wake = asyncio.Event()
        self._probing = Probing(self._wake.set)
        if adopt:
            self._adopt()
        self.replica = self._describe()

    def _adopt(self) -> None:
        """A running replica is ready where it was ready: a controller's restart must not empty a route."""
        state = child.state(self.folder)
        if isinstance(state, child.Running):
            self._address = files.read_address(self.folder)
        else:
            self._bury(state, time.time())

    def _bury(self, state: child.State, now: float) -> None:
        """It does not run. When it did, that was a death."""
        self._address = ""
        self._probing.close()
        if self.life.started_at is not None and not isinstance(state, child.Absent):
            why = files.why_ended(self.folder, state, self._reason)
            self.life, self._reason = lives.died(self.life, why, now), ""

    def _describe(self) -> Replica:
        w = self.workload
        return Replica(
            endpoint=w.endpoint,
            deployment=w.deployment,
            revision=w.revision,
            index=self.index,
            purpose=w.purpose,
            state=self.life.state,
            address=self._address,
            restarts=self.life.restarts,
            message=self.life.message,
            logs={name: str(self.folder / name) for name in files.LOGS},
        )

    async def run(self) -> None:
        """Until cancelled. The process runs on: that is what a controller's restart looks like."""
        try:
            while True:
                try:
                    pause = await self._pass()
                    await self._show()
                except (HeadgateError, OSError, ValueError) as error:
                    log.warning("%s: %s; looked at again in %g s", self.folder, error, RETRY_S)
                    pause = RETRY_S
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
        finally:
            self._probing.close()

    async def _pass(self) -> float:
        """One look, one action; returns how long to wait for the next, at most."""
        now = time.time()
        state = child.state(self.folder)
        if isinstance(state, child.Running):
            return await self._look(now)
        self._bury(state, now)
        if self.life.failed:
            return RETRY_S
        waits = self.life.retry_at - now
        if 0 < waits <= lives.BACKOFF_MOST_S:  # longer: the clock was set back
            return waits
        await self._start(now)
        return STARTING_S / 2

    async def _start(self, now: float) -> None:
        try:
            await _to_the_end(files.start, self.folder, self.workload, self.index, self._environ)
            self.life = lives.started(self.life, now)
        except (HeadgateError, OSError) as error:
            self.life = lives.not_started(self.life, str(error), now, RETRY_S)

    async def _look(self, now: float) -> float:
        if self.life.failed:  # on its way out
            child.send(self.folder, signal.SIGKILL)
            return STARTING_S
        if self.life.started_at is None:  # it was started, and we were killed before we wrote that down
            self.life = lives.started(self.life, now)
        self._address = self._address or files.read_address(self.folder)
        if not self._address:
            return STARTING_S / 2
        if not await self._ask_ready():
            return SOON_S
        await self._ask_alive()
        return STARTING_S if self.life.state is not ReplicaState.READY else self._asked_every_s()

    async def _ask_ready(self) -> bool:
        """False: nobody listens there any more."""
        probe = self.workload.readiness
        answer = await self._probing.ask(self._address, READY_PATH, probe.timeout_s)
        now = time.time()
        if answer.ok:
            self.life = lives.answered_ready(self.life, probe, now)
            return True
        if answer.refused:
            self.life = lives.gone(self.life)
            return False
        self.life = lives.answered_unready(self.life, probe, answer.text, now)
        if lives.too_late(self.life, probe):
            allowed = probe.initial_delay_s + probe.period_s * probe.failure_threshold
            why = "\n".join([f"not ready within {allowed} s: {answer.text}", *files.last_lines(self.folder)])
            if not self.life.ever_ready:
                self.life = lives.given_up(self.life, why)
            self.end(why)
        return True

    async def _ask_alive(self) -> None:
        probe = self.workload.liveness
        now = time.time()
        if now < self._alive_asked_at + probe.period_s:
            return
        self._alive_asked_at = now
        answer = await self._probing.ask(self._address, "/", probe.timeout_s)
        if answer.ok:
            self.life = lives.alive(self.life)
            return
        self.life = lives.silent(self.life, probe, f"liveness: {answer.text}", now)
        if lives.hangs(self.life, probe):
            self.end(f"ended: {self.life.silent} liveness probes in a row failed: {answer.text}")

    def end(self, why: str) -> None:
        """Kills the process because of what it does; it is started again."""
        self._reason = why
        child.send(self.folder, signal.SIGKILL)
        self._wake.set()

    def poke(self, workload: Workload) -> None:
        """The workload as asked now. A new launch is for the next start; a given-up replica gets another chance."""
        self.workload = workload
        self.life = lives.asked_again(self.life)
        self._wake.set()

    async def _show(self) -> None:
        """Tells whoever listens, and the disk, when something a reader can see has changed."""
        now = self._describe()
        if now != self.replica:
            self.replica = now
            self._on_change(self.workload.endpoint)
        kept = _lasting(self.life)
        if kept != self._saved:
            try:
                await asyncio.to_thread(files.write_life, self.folder, kept)
                self._saved = kept
                self._unsaved = False
            except (HeadgateError, OSError) as error:
                if not self._unsaved:  # tried with every pass, said once
                    log.warning("%s: its counters are not saved: %s", self.folder, error)
                self._unsaved = True


async def _to_the_end(work: Callable[..., None], *arguments: Any) -> None:
    """In a thread, waited for even when we are cancelled: a start that goes on unseen would leave an orphan."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _lasting(life: Life) -> Life:
    """What is worth a write: not every single probe."""
    return replace(life, succeeded=0, refused=0, refused_at=0.0, silent=0)

"""Keeps router workers and the controller running. Holds no state: what runs is known by its shim folder's lock.

Killed, everything it started runs on, and the next supervisor adopts it. It refuses to know what a service does: it
starts, looks, starts again, stops, and says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from headgate.findings import Finding, FindingsError, Place, TransientError
from headgate_kit import child
from headgate_kit.child import Absent, Exited, Lost, Running, State
from headgate_kit.layout import DataFolder

LOOK_EVERY_S = 0.05  # a dead router is noticed and started again within 0.2 s
FIRST_DELAY_S = 0.2  # after the second death in a row; the first one is answered at once
LONGEST_DELAY_S = 5.0
STEADY_S = 10.0  # alive this long, earlier deaths are forgotten
GIVE_UP_AFTER = 5  # deaths of a service that was never steady: it cannot start here
LOG_LIMIT = 64 * 1024 * 1024  # bytes of one log; then it starts again and one older part is kept
TRIM_EVERY_S = 30.0
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16_384
CONTROLLER = "controller"
SUPERVISOR = "supervisor"  # the folder of a detached supervisor: it ends by itself, after the others
DRAIN_S = 30.0  # for requests that a router worker has open
GRACE_S = 10.0  # for everything else, before SIGKILL


@dataclass(frozen=True)
class Service:
    """One process of ours. Its folder is `services/<name>`."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # the whole environment
    fds: tuple[int, ...] = ()  # inherited under the same numbers


def delay_s(deaths: int) -> float:
    """How long to wait before a service that died this many times in a row is started again."""
    return 0.0 if deaths <= 1 else float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (deaths - 2)))


class Keeper:
    """One service, looked at again and again. Times are of one monotonic clock, given by the caller."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.folder = folder
        self.deaths = 0  # in a row
        self.steady = False  # was alive for STEADY_S once, or was adopted
        self.ours = False  # started by this supervisor
        self._born = 0.0
        self._due: float | None = None  # when it is started again; None: it runs, as far as we know

    def begin(self, now: float) -> str:
        """Adopts it when it runs, starts it when not; says which."""
        if isinstance(child.state(self.folder), Running):
            self.steady = True
            self._born = now
            return f"{self.service.name} runs, adopted"
        self._start(now)
        return f"{self.service.name} started"

    def tend(self, now: float) -> str:
        """One look. Answers what a person should know; empty: nothing."""
        state = child.state(self.folder)
        if isinstance(state, Running):
            if now - self._born >= STEADY_S:
                self.deaths, self.steady = 0, True
            return ""
        said = ""
        if self._due is None:
            self.deaths = 1 if from_outside(state) else self.deaths + 1
            self._due = now + delay_s(self.deaths)
            said = f"{self.service.name} {ended(state)}; starts again in {self._due - now:.1f} s"
        return self._try_again(now) or said if now >= self._due else said

    def _try_again(self, now: float) -> str:
        """Answers why it could not be started, e.g. a full disk: that is no reason for the others to suffer."""
        try:
            self._start(now)
        except (TransientError, OSError) as error:
            self._due = now + LONGEST_DELAY_S
            return f"{self.service.name} cannot be started now: {error}"
        return ""

    def _start(self, now: float) -> None:
        child.reset(self.folder)
        child.start(self.folder, self.service.argv, env=self.service.env, fds=self.service.fds)
        self.ours, self._born, self._due = True, now, None

    @property
    def hopeless(self) -> bool:
        return self.deaths >= GIVE_UP_AFTER and not self.steady


def from_outside(state: State) -> bool:
    """SIGKILL is never a service's own doing: it says nothing about whether it can run, and is answered at once."""
    return isinstance(state, Lost) or (isinstance(state, Exited) and state.code == -signal.SIGKILL)


def ended(state: State) -> str:
    if isinstance(state, Exited):
        return f"was killed by signal {-state.code}" if state.code < 0 else f"ended with exit code {state.code}"
    return "was never started" if isinstance(state, Absent) else "is gone"


class Supervisor:
    def __init__(self, data: DataFolder, services: Sequence[Service], say: Callable[[str], None]) -> None:
        self.keepers = [Keeper(service, data.services / service.name) for service in services]
        self._say = say
        self._trouble: dict[str, str] = {}  # with looking after what -> as said last

    def begin(self) -> None:
        for keeper in self.keepers:
            self._say(keeper.begin(time.monotonic()))

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set.

        Raises: FindingsError `service-fails`, when one never got up; what this supervisor started is stopped then.
        """
        trimmed = time.monotonic()
        while not stop.wait(LOOK_EVERY_S):
            if time.monotonic() - trimmed >= TRIM_EVERY_S:
                self._guarded("logs", lambda: trim([keeper.folder for keeper in self.keepers]))
                trimmed = time.monotonic()
            for keeper in self.keepers:
                self._guarded(keeper.service.name, lambda k=keeper: self._tend(k))  # type: ignore[misc]
                if keeper.hopeless:
                    stop_folders([k.folder for k in self.keepers if k.ours], GRACE_S)
                    raise FindingsError(cannot_start(keeper))

    def _tend(self, keeper: Keeper) -> None:
        said = keeper.tend(time.monotonic())
        if said:
            self._say(said)

    def _guarded(self, what: str, work: Callable[[], None]) -> None:
        """A machine without a process or an open file to spare is waited for: nobody else looks after the services."""
        try:
            work()
            self._trouble.pop(what, None)
        except OSError as error:
            if self._trouble.get(what) != str(error):
                self._trouble[what] = str(error)
                self._say(f"{what} cannot be looked after now, tried again: {error}")


def trim(folders: Iterable[Path], limit: int = LOG_LIMIT) -> None:
    """Copies a long log aside and empties it. Its writer appends, so it goes on where the log now ends."""
    for log in (folder / name for folder in folders for name in ("stdout", "stderr")):
        if log.exists() and log.stat().st_size > limit:
            older = log.with_name(f"{log.name}.1")
            try:
                shutil.copyfile(log, older)
            except OSError:  # no room: then the older part goes, and the room comes back
                older.unlink(missing_ok=True)
            os.truncate(log, 0)


def cannot_start(keeper: Keeper) -> Finding:
    return Finding(
        code="service-fails",
        message=f"{keeper.service.name} does not stay up: it ended {keeper.deaths} times in a row",
        why="its last words:\n" + tail(keeper.folder / "stderr"),
        fix="the whole log is in this folder",
        place=Place(str(keeper.folder)),
    )


def size(log: Path) -> int:
    """Bytes; 0 when there is no log yet."""
    return log.stat().st_size if log.exists() else 0


def tail(log: Path, lines: int = LOG_TAIL_LINES, after: int = 0) -> str:
    """The last lines of a log, indented; a log that is not there is said to be so.

    Args:
        after: bytes that are old news. A log that was trimmed to less since is read whole.
    """
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(after if after <= end else 0, end - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (the log is empty)"


def running(folder: Path) -> list[Path]:
    """Every shim folder at or below this one whose process lives, by name."""
    found = sorted(path.parent for path in folder.rglob("command.json"))
    return [path for path in found if isinstance(child.state(path), Running)]


def stop_folders(folders: Iterable[Path], grace_s: float) -> None:
    """All at once: ten replicas take as long as the slowest, not as their sum."""
    folders = list(folders)
    if folders:
        with ThreadPoolExecutor(len(folders)) as pool:
            list(pool.map(lambda folder: child.stop(folder, grace_s=grace_s), folders))


def stop_everything(data: DataFolder, say: Callable[[str], None]) -> None:
    """Routers first, so that callers get their answers while the models still run; then who decides, then the rest."""

    def routers() -> list[Path]:
        return [folder for folder in running(data.services) if folder.name.startswith("router-")]

    def others() -> list[Path]:
        return [folder for folder in running(data.services) if folder.name != SUPERVISOR and folder not in routers()]

    for what, find, grace_s in (
        ("router workers, once their open requests are answered", routers, DRAIN_S),
        ("the controller", others, GRACE_S),
        # Looked for only now: until it ended, the controller may have started more.
        ("ops", lambda: running(data.ops), GRACE_S),
        ("model replicas", lambda: running(data.replicas), GRACE_S),
        ("model replicas that were just starting", lambda: running(data.replicas), GRACE_S),
    ):
        folders = find()
        if folders:
            say(f"stopping {what} ({len(folders)})")
            stop_folders(folders, grace_s)
    forget_control(data)


def forget_control(data: DataFolder) -> None:
    """Takes the address of a controller that is gone away, so that nobody dials who answers there now."""
    if not isinstance(child.state(data.services / CONTROLLER), Running):
        data.control.unlink(missing_ok=True)

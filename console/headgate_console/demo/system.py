"""Headgate as the demo's user runs it: the command line, the control API, and the caller, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from headgate import codec
from headgate.control import EndpointStatus
from headgate.findings import HeadgateError
from headgate_console.connect import Control
from headgate_console.demo.caller import Answered, Load
from headgate_console.demo.workdir import WorkTree
from headgate_kit.layout import DataFolder

COMMAND_TIMEOUT_S = 180.0
CALLER_ENDS_WITHIN_S = 120.0
LOG_TAIL = 3_000  # characters
ROUTER_WORKERS = 2


class CommandError(HeadgateError):
    """A command ended with a failure; the text has its last words."""


class System:
    def __init__(self, folder: Path) -> None:
        self.data = DataFolder(folder / "data")
        self.log = folder / "headgate.log"
        self.control = Control(self.data)
        self._up = False

    def command(self, *arguments: str) -> None:
        """Runs `headgate ...` to its end. Raises: CommandError."""
        environment = {k: v for k, v in os.environ.items() if k != "HEADGATE_DATA"}
        with self.log.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "headgate_console.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        if done.returncode:
            words = self.log.read_text("utf-8", "replace")[-LOG_TAIL:]
            raise CommandError(f"headgate {' '.join(arguments)} ended with {done.returncode}:\n{words}")

    def begin(self, tree: WorkTree) -> str:
        """Makes the endpoints repo and starts Headgate on it; answers what to tell about that."""
        self.command("init", str(tree.folder), "--bare-origin")
        self._up = True
        where = ("--repo", tree.origin, "--data", str(self.data.root))
        self.command("up", "--detach", *where, "--port", "0", "--workers", str(ROUTER_WORKERS))
        return f"Headgate runs; data folder {self.data.root}"

    def url(self, seen: EndpointStatus) -> str:
        """Where its callers go."""
        return seen.url

    def pushed_at(self, tree: WorkTree) -> float:
        """When the branch was last updated in the origin, in seconds since the epoch."""
        return tree.pushed_at()

    def down(self) -> None:
        """Stops everything that `begin` started. Nothing, when it never began."""
        if self._up:
            self.command("down", "--data", str(self.data.root))
            self._up = False


class Calling:
    """The caller's process and what it has logged so far. Every method raises CommandError when the caller is gone."""

    def __init__(self, load: Load) -> None:
        self._log = Path(load.log)
        self._words = self._log.with_suffix(".err")
        self._log.touch()
        self._read = 0
        with self._words.open("wb") as words:
            argv = [sys.executable, "-m", "headgate_console.demo.caller"]
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=words)
        self._write(codec.canonical(load))

    def tell(self, revision: str, answers: list[list[float]]) -> None:
        self._write(json.dumps({"revision": revision, "answers": answers}).encode())

    def new(self) -> list[Answered]:
        """Everything logged since the last call."""
        if self._process.poll():
            raise self._gone()
        with self._log.open("rb") as log:
            log.seek(self._read)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        return [codec.decode(Answered, line) for line in whole.splitlines()]

    def end(self) -> None:
        """No more requests; waits for the answers still out."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait(CALLER_ENDS_WITHIN_S):
            raise self._gone()

    def kill(self) -> None:
        """Ends it at once, whatever it does; an ended one: nothing."""
        self._process.kill()
        with suppress(BrokenPipeError):  # what it had not read is nobody's any more
            self._process.communicate()

    def _write(self, line: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(line + b"\n")
            pipe.flush()
        except BrokenPipeError as error:
            raise self._gone() from error

    def _gone(self) -> CommandError:
        words = self._words.read_text("utf-8", "replace")[-LOG_TAIL:]
        return CommandError(f"the caller ended with {self._process.poll()}:\n{words}")

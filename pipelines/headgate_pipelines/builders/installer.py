"""Model environments: a virtual environment per set of requirement lines, made by uv, once however many ask for it.

What is half made never counts: a marker file is written last, under a lock. Interpreters are found, never downloaded:
a model must not come to run on one that nobody chose.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import uv

from headgate.findings import Finding, Place, SpecError, TerminalError, TransientError
from headgate.target import EnvironmentPin
from headgate_kit.files import FULL, DiskFull, write_json

OURS = f"{sys.version_info.major}.{sys.version_info.minor}"
MARKER = "headgate.json"  # written last: the environment is whole
TAIL = 3_000  # characters of the installer's words that go into a finding
DISK_WORDS = ("No space left on device", "os error 28", "Disk quota exceeded")
# What an installer says when the network or the index failed rather than the request.
NETWORK_WORDS = (
    "error sending request", "dns error", "timed out", "Connection refused", "Connection reset", "connection closed",
    "500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable", "504 Gateway", "429 Too Many",
)  # fmt: skip
# And when the index does not let us in: nobody's commit.
REFUSAL_WORDS = ("could not be queried due to", "401 Unauthorized", "403 Forbidden", "407 Proxy", "invalid peer")


class Environments:
    """
    Args:
        relocatable: works at another place than where it was made: its scripts name no folder.
    """

    def __init__(self, root: Path, interpreters: Mapping[str, str], *, relocatable: bool = False) -> None:
        self._root = root
        self._interpreters = interpreters
        self._venv = ["venv", "--no-project", *(["--relocatable"] if relocatable else [])]

    def folder(self, pin: EnvironmentPin) -> Path | None:
        """Where it is, or will be; None: Headgate's own interpreter is used, as it needs no package."""
        if not pin.requirements and pin.python in ("", OURS):
            return None
        return self._root / pin.digest[:32]

    def ready(self, pin: EnvironmentPin) -> bool:
        folder = self.folder(pin)
        return folder is None or (folder / MARKER).exists()

    def make(self, pin: EnvironmentPin, log: Path) -> str:
        """Its folder, empty for none. Waits for another build of the same one.

        Raises:
            SpecError: no such interpreter, or the requirements cannot be met; with the installer's own words.
            TransientError: network or disk.
        """
        folder = self.folder(pin)
        if folder is None:
            return ""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._root / f".{folder.name}.lock"):
            if not (folder / MARKER).exists():
                shutil.rmtree(folder, ignore_errors=True)  # somebody died while making it
                try:
                    self._install(pin, folder, log)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
        return str(folder)

    def _install(self, pin: EnvironmentPin, folder: Path, log: Path) -> None:
        interpreter = self._interpreter(pin.python, log)
        _uv([*self._venv, "--python", interpreter, str(folder)], log, pin)
        if pin.requirements:
            lines = folder / "requirements.txt"
            lines.write_text("\n".join(pin.requirements) + "\n", encoding="utf-8")
            python = str(folder / "bin" / "python")
            _uv(["pip", "install", "--python", python, "--requirements", str(lines)], log, pin)
        write_json(folder / MARKER, {"python": pin.python or OURS, "requirements": list(pin.requirements)})

    def _interpreter(self, version: str, log: Path) -> str:
        named = self._interpreters.get(version, "")
        if named and os.access(named, os.X_OK):
            return named
        if named:
            raise SpecError(_no_interpreter(version, f"{named}, named for it in headgate.yml, can't be executed"))
        if version in ("", OURS):
            return sys.executable
        found = subprocess.run(
            [uv.find_uv_bin(), "python", "find", "--no-python-downloads", "--no-project", version],
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode != 0:
            _append(log, found.stderr)
            raise SpecError(_no_interpreter(version, found.stderr.strip()[-TAIL:]))
        return found.stdout.strip()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until nobody else holds it. The kernel lets go of it when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(path) from error
        raise
    finally:
        os.close(descriptor)


def _uv(arguments: Sequence[str], log: Path, pin: EnvironmentPin) -> None:
    """Runs uv; what it says goes to the log as it comes."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as file:
        began = file.tell()
        command = [uv.find_uv_bin(), *arguments, "--no-python-downloads", "--color", "never", "--no-progress"]
        ended = subprocess.run(
            command, env=_environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=log.parent, check=False
        )
    if ended.returncode == 0:
        return
    with log.open("rb") as file:
        file.seek(began)
        words = file.read().decode("utf-8", "replace").strip()[-TAIL:]
    if any(word in words for word in DISK_WORDS):
        raise DiskFull(log)
    if any(word in words for word in NETWORK_WORDS):
        raise TransientError(f"the package index could not be reached: {words}", retry_after_s=5.0)
    if any(word in words for word in REFUSAL_WORDS):
        raise TerminalError(f"the package index refuses this installation: {words}")
    raise SpecError(_unresolved(pin, words))


def _environment() -> dict[str, str]:
    """Ours without what is nobody's business: an installer may run code of packages."""
    return {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("HEADGATE_") and k not in ("VIRTUAL_ENV", "DOCKER_CONFIG")
    }


def _append(log: Path, text: str) -> None:
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


def _unresolved(pin: EnvironmentPin, words: str) -> Finding:
    return Finding(
        code="environment-unresolved",
        message=f"the packages cannot be installed: {', '.join(pin.requirements)[:200]}",
        why=f"the installer says: {words}",
        fix="correct the names and versions in the environment's conda file",
        place=Place("environment"),
    )


def _no_interpreter(version: str, words: str) -> Finding:
    return Finding(
        code="interpreter-missing",
        message=f"Python {version} is not on this machine",
        why=words or "no interpreter of that version was found",
        fix=f"install Python {version}, name it under `interpreters` in headgate.yml, or ask for Python {OURS}",
        place=Place("environment"),
    )

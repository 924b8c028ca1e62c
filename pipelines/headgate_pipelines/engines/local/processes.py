"""An attempt as a process of this machine: its folder, its process under the shim, its output files.

    OPS/<workflow>/<node>/<attempt>/   stdout, stderr, outputs/, work/ (its current folder), and what the shim keeps

Refuses to run anything twice: whether it runs, has ended or was lost is read from the folder, never remembered.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from headgate_kit import child
from headgate_kit.child import Absent, Exited, Lost
from headgate_kit.layout import DataFolder
from headgate_pipelines import contract
from headgate_pipelines.engines.local.attempt import Gone, Runs, State
from headgate_pipelines.engines.local.compile import Images
from headgate_pipelines.engines.local.operate import Start
from headgate_pipelines.engines.local.spec import Leaf, Spec
from headgate_pipelines.engines.local.state import Outcome

STOP_GRACE_S = 5.0  # between SIGTERM and SIGKILL
OUTPUT_LIMIT = 256 * 1024  # bytes of one output parameter, as on the cluster
TAIL = 4_096  # bytes of a log that its last words are looked for in

# What an op may inherit of our environment. All else stays out: an op's environment is written to a file of its folder.
INHERITED = {
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "NETRC", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
}  # fmt: skip
INHERITED_PREFIXES = ("LC_", "UV_", "PIP_")  # build installs packages as the person at the keyboard would


def default_images() -> dict[str, dict[str, tuple[str, ...]]]:
    """What containers mean on this machine: our runner and plain Python are the interpreter Headgate runs on."""
    python: dict[str, tuple[str, ...]] = {"python": (sys.executable,), "python3": (sys.executable,)}
    here = f"python:{sys.version_info.major}.{sys.version_info.minor}"
    return {contract.IMAGE: python, "python": python, here: python}


class Processes:
    """`Attempts` of this machine.

    Args:
        data: `data.ops` holds a folder for each attempt; every op is told where the data folder is.
        images: what each image's commands mean here; None: `default_images()`.
    """

    kept = 20
    polled = True

    def __init__(self, data: DataFolder, images: Images | None = None) -> None:
        self._data = data
        self.images: Images = default_images() if images is None else images

    def of(self, spec: Spec, leaf: Leaf, number: int) -> ProcessAttempt:
        return ProcessAttempt(self._data, spec.name, leaf, number)

    def start(self, wake: Callable[[], None]) -> None:
        """Nothing runs in between."""

    def close(self) -> None:
        """Ops run on."""

    def over(self, workflow: str, *, good: bool) -> None:
        """Logs stay; each attempt's secrets went when it ended."""

    def collect(self, workflow: str) -> None:
        shutil.rmtree(self._data.ops / workflow, ignore_errors=True)


class ProcessAttempt:
    def __init__(self, data: DataFolder, workflow: str, leaf: Leaf, number: int) -> None:
        self.leaf = leaf
        self.folder = data.ops / workflow / leaf.path / str(number)
        self.outputs = self.folder / "outputs"
        self._data = data

    @property
    def key(self) -> str:
        return str(self.folder)

    def look(self) -> State:
        match child.state(self.folder):
            case Exited(code):
                return self.outcome(code)
            case Absent() | Lost():
                return Gone()
        return Runs()

    def start(self, start: Start, env: Mapping[str, str]) -> None:
        """Has it running. Raises TransientError (a full disk too): nothing was started."""
        work = self.folder / "work"
        for folder in (self.outputs, work):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        argv = [self._here(word) for word in start.argv]
        if start.script is not None:
            script = self.folder / "script"
            script.write_text(self._here(start.script), encoding="utf-8")
            argv.append(str(script))
        own = {name: self._here(value) for name, value in start.env.items()}
        base = {
            contract.ENV_OUTPUTS: str(self.outputs),
            contract.ENV_DATA: str(self._data.root),
            contract.ENV_CONTROL_FILE: str(self._data.control),
            "PYTHONUNBUFFERED": "1",
        }
        child.start(self.folder, argv, env={**inherited(), **base, **env, **own}, cwd=work)

    def stop(self) -> None:
        child.stop(self.folder, grace_s=STOP_GRACE_S)

    def forget_secrets(self) -> None:
        """Once it has ended, nobody needs the token it was given."""
        (self.folder / "command.json").unlink(missing_ok=True)

    def outcome(self, code: int) -> Outcome:
        """How it ended, with what it left. One ended by a signal has a container's exit code: 128 and the signal."""
        if code < 0:
            code = 128 - code
        if code != 0:
            return Outcome(code, self._last_words())
        found: dict[str, str] = {}
        for output in self.leaf.outputs:
            try:
                value = self._read(output.path)
            except (OSError, ValueError) as error:
                return Outcome(code, error=f"output {output.name}: {error}")
            if value is None and output.default is None:
                return Outcome(code, error=f"output {output.name}: it left no file {output.path}")
            found[output.name] = value if value is not None else output.default or ""
        return Outcome(code, outputs=found)

    def _read(self, path: str) -> str | None:
        file = Path(self._here(path))
        if not file.resolve().is_relative_to(self.outputs.resolve()):
            raise ValueError(f"{path} leads out of its folder")
        try:
            with file.open("rb") as content:
                data = content.read(OUTPUT_LIMIT + 1)
        except FileNotFoundError:
            return None
        if len(data) > OUTPUT_LIMIT:
            raise ValueError(f"longer than {OUTPUT_LIMIT} bytes")
        return data.decode("utf-8", "replace").rstrip("\n")

    def _here(self, text: str) -> str:
        """A container's /tmp/outputs is this attempt's own folder: two ops at once never meet."""
        return text.replace(contract.OUTPUTS, str(self.outputs))

    def _last_words(self) -> str:
        return _last_line(self.folder / "stderr") or _last_line(self.folder / "stdout")


def inherited() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k in INHERITED or k.startswith(INHERITED_PREFIXES)}


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")

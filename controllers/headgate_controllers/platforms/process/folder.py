"""A replica's folder: what is in it, how its process is started and what its logs end with.

replicas/<endpoint>/<revision>/<purpose>.json              the workload asked for
replicas/<endpoint>/<revision>/<purpose>-<index>/          one replica: the shim's files, and
    address  life.json  inference-server  storage-initializer
replicas/.ending/<name>/                                   taken out of service, drained and removed from here
replicas/.ended/<name>/                                    the logs of the last ones removed
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from headgate import codec
from headgate.workload import ADDRESS, CPU_SET, CPUS, REPLICA, Workload
from headgate_controllers.platforms import lastwords
from headgate_controllers.platforms.process.life import Life, cores
from headgate_kit import child
from headgate_kit.files import read_json, write_atomic, write_json

LOGS = ("inference-server", "storage-initializer")
TAIL_BYTES = 8_192
LOG_LIMIT = 32 << 20  # bytes: a longer log starts over, its old content stays once under NAME.1
# What a replica inherits of our environment: where things are, nothing that could be a secret.
INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
)  # fmt: skip


def write_workload(path: Path, workload: Workload) -> None:
    write_atomic(path, codec.canonical(workload))


def read_workload(path: Path) -> Workload:
    """Raises OSError, codec.CodecError."""
    return codec.decode(Workload, path.read_bytes())


def read_life(folder: Path) -> Life:
    """A life that cannot be read starts over: it only holds counters."""
    try:
        return codec.decode(Life, json.dumps(read_json(folder / "life.json") or {}))
    except (ValueError, codec.CodecError):
        return Life()


def write_life(folder: Path, life: Life) -> None:
    write_json(folder / "life.json", asdict(life))


def read_address(folder: Path) -> str:
    """Empty: it does not listen yet."""
    try:
        return (folder / "address").read_text().strip()
    except FileNotFoundError:
        return ""


def start(folder: Path, workload: Workload, index: int, environ: Mapping[str, str]) -> None:
    """Starts the replica's process; one that runs is left alone. Raises TransientError, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    child.reset(folder)
    (folder / "address").unlink(missing_ok=True)
    child.start(
        folder,
        workload.launch.argv,
        env=environment(folder, workload, index, environ),
        stdout=LOGS[0],
        stderr=LOGS[0],
    )


def environment(folder: Path, workload: Workload, index: int, environ: Mapping[str, str]) -> dict[str, str]:
    env = {name: environ[name] for name in INHERITED if name in environ}
    env |= workload.launch.env
    env |= {REPLICA: str(folder), ADDRESS: "127.0.0.1:0"}
    if workload.cpus:
        env[CPUS] = f"{workload.cpus:g}"
        seed = int.from_bytes(workload.revision.encode()[:4]) + index
        chosen = cores(workload.cpus, seed, _available())
        if chosen:
            env[CPU_SET] = ",".join(str(c) for c in chosen)
    return env


def _available() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def last_lines(folder: Path) -> list[str]:
    """The end of the replica's own log, without empty lines."""
    try:
        with (folder / LOGS[0]).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return lastwords.told(text)


def why_ended(folder: Path, state: child.State, reason: str) -> str:
    """One line a person can act on, then the log's end.

    Args:
        reason: why we ended it ourselves; empty: we did not.
    """
    lines = last_lines(folder)
    match state:
        case child.Exited(code) if code < 0:
            how = f"killed by signal {-code}"
        case child.Exited(code):
            how = f"ended with code {code}"
        case _:
            how = "its process is gone"
    return "\n".join([reason, *lines]) if reason else lastwords.message(how, lines)


def bound_logs(folder: Path) -> None:
    """Keeps logs from filling the disk. Writers append, so cutting the file under them is safe."""
    for name in LOGS:
        path = folder / name
        with suppress(FileNotFoundError):
            if path.stat().st_size > LOG_LIMIT:
                shutil.copyfile(path, folder / f"{name}.1")
                os.truncate(path, 0)

"""What a replica of a scoring script is told: by the server's launch, read by the front. No secret is in argv."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headgate import codec
from headgate.workload import CPUS

SERVE = "HEADGATE_SERVE"  # these settings, JSON

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    bundle: str  # folder made by the bundle builder
    interpreter: str  # the model's Python
    environment: str = ""  # the model environment's folder; empty: Headgate's own
    variables: Mapping[str, str] = field(default_factory=dict)  # environment_variables of the deployment
    scoring_path: str = "/score"
    body_limit: int = 100_000_000  # bytes of a request; Azure's own limit is lower
    drain_s: float = 30.0  # requests in flight at SIGTERM may take this long


@dataclass(frozen=True, slots=True)
class Bundle:
    """bundle.json: paths inside the bundle."""

    code: str = ""  # code/<basename of the code folder>
    scoring_script: str = ""  # inside `code`
    model: str | None = None  # models/<name>/<version>


@dataclass(frozen=True, slots=True)
class Workers:
    """What a deployment's variables say about its workers, under the names of Azure's server."""

    count: int = 1  # WORKER_COUNT
    preload: bool = False  # WORKER_PRELOAD: init() once, then one fork per worker
    run_limit_s: float = 300.0  # WORKER_TIMEOUT: a run() that takes longer hangs


def workers_from(variables: Mapping[str, str]) -> Workers:
    """Raises ValueError with the variable's name."""
    found = Workers()
    return Workers(
        _number(variables, "WORKER_COUNT", found.count, most=64),
        variables.get("WORKER_PRELOAD", "").lower() == "true",
        _number(variables, "WORKER_TIMEOUT", round(found.run_limit_s), most=86_400),
    )


def _number(variables: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = variables.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise ValueError(f"{name} is {text!r}, not a whole number from 1 to {most}")
    return int(text)


def settings_from(environ: Mapping[str, str]) -> ServeSettings:
    """Raises codec.CodecError."""
    return codec.decode(ServeSettings, environ.get(SERVE, "").encode() or b"{}")


def read_bundle(folder: Path) -> Bundle:
    """Raises OSError, codec.CodecError."""
    return codec.decode(Bundle, (folder / "bundle.json").read_bytes())


def worker_environment(settings: ServeSettings, bundle: Bundle, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of the user's code: Azure's names, the deployment's variables, thread counts that fit."""
    root = Path(settings.bundle)
    script = root / bundle.code / bundle.scoring_script
    made = {k: v for k, v in inherited.items() if not k.startswith("HEADGATE_")}
    made["PYTHONUNBUFFERED"] = "1"
    if settings.environment:
        made["VIRTUAL_ENV"] = settings.environment
        made["PATH"] = f"{settings.environment}/bin{os.pathsep}{made.get('PATH', os.defpath)}"
    made |= {"AML_APP_ROOT": str(script.parent), "AZUREML_ENTRY_SCRIPT": script.name}
    if bundle.model:
        made["AZUREML_MODEL_DIR"] = str(root / bundle.model)
    made |= settings.variables
    cpus = inherited.get(CPUS)
    if cpus:
        for name in THREADS:
            made.setdefault(name, str(max(1, int(float(cpus)))))
    return made

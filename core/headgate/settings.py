"""rollout.yml and headgate.yml to the values of `process.py`. A field that is left out keeps the value below it:
first headgate.yml's `rollout:`, then the defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headgate import fields
from headgate.check import check, wrong
from headgate.findings import Finding
from headgate.process import CatalogueSource, InstanceType, Issuer, MetricSource, MirrorPhase, Process, Settings
from headgate.yamltext import Document, Path

UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"([0-9.]+)(ms|s|m|h|d)")


def read_process(document: Document, base: Process) -> tuple[Process, tuple[Finding, ...]]:
    """rollout.yml over the default. With errors the default is answered."""
    found = check(document, "rollout") or _process_findings(document, "rollout", document.value, (), base)
    return (base, found) if found else (process_of(document.value, base), ())


def read_settings(document: Document) -> tuple[Settings, tuple[Finding, ...]]:
    """headgate.yml. With errors the defaults are answered."""
    found = check(document, "headgate")
    values = document.value
    if not found:
        found = _process_findings(document, "headgate", values.get("rollout") or {}, ("rollout",), Process())
    if not found:
        found = (*_cases(document), *_keda(document))
    if found:
        return Settings(), found
    types = {name.lower(): _instance_type(item) for name, item in (values.get("instance_types") or {}).items()}
    settings = Settings(
        instance_types=types,
        environments={name: tuple(lines) for name, lines in (values.get("environments") or {}).items()},
        interpreters=values.get("interpreters") or {},
        catalogue=values.get("catalogue", ""),
        catalogues={name: _catalogue(item) for name, item in (values.get("catalogues") or {}).items()},
        models=values.get("models", Settings().models).lower(),
        capacity=values.get("capacity", Settings().capacity).lower(),
        keda=values.get("keda", ""),
        dataplane=(values.get("router") or {}).get("dataplane", Settings().dataplane).lower(),
        removal_grace_s=seconds(values.get("removal_grace", "10m")),
        oidc=_issuer(values["oidc"]) if values.get("oidc") else None,
        metrics={name: _source(item) for name, item in (values.get("metrics") or {}).items()},
        process=process_of(values.get("rollout") or {}, Process()),
    )
    return settings, ()


def process_of(values: Mapping[str, Any], base: Process) -> Process:
    """Checked values over a process."""
    changes: dict[str, Any] = {}
    if "mirror" in values:
        changes["mirror"] = _mirror(values["mirror"], base.mirror)
    if "smoke" in values:
        changes["smoke_request"] = values["smoke"].get("request", base.smoke_request)
    if "steps" in values:
        changes["steps"] = tuple(percent(step) for step in values["steps"])
    if "gates" in values:
        changes["gates"] = {name: _block(written) for name, written in values["gates"].items()}
    for key in ("soak", "max_soak", "keep_warm"):
        if key in values:
            changes[f"{key}_s"] = seconds(values[key])
    if "false_abort" in values:
        changes["false_abort"] = share(values["false_abort"])
    if "min_requests" in values:
        changes["min_requests"] = int(values["min_requests"])
    if "repeatable" in values:
        changes["repeatable"] = flag(values["repeatable"])
    if "on_failure" in values:
        changes["on_failure"] = values["on_failure"].lower()
    if "capacity" in values:
        changes["capacity"] = values["capacity"].lower()
    if "sticky" in values:
        changes["sticky"] = values["sticky"]
    if "redact" in values:
        changes["redact"] = tuple(values["redact"])
    if "websocket" in values:
        changes["websocket"] = tuple(values["websocket"])
    return replace(base, **changes)


def _block(written: Any) -> Mapping[str, Any]:
    """A gate's parameters; a text alone is its expression."""
    return {"expression": written} if isinstance(written, str) else written or {}


def _mirror(values: Mapping[str, Any], base: MirrorPhase) -> MirrorPhase:
    return MirrorPhase(
        percent=percent(values["percent"]) if "percent" in values else base.percent,
        soak_s=seconds(values["soak"]) if "soak" in values else base.soak_s,
        echo=share(values["echo"]) if "echo" in values else base.echo,
    )


def _issuer(values: Mapping[str, Any]) -> Issuer:
    return Issuer(
        issuer=values["issuer"],
        audience=tuple(values["audience"]),
        jwks=values.get("jwks", ""),
        claims={name: tuple(allowed) for name, allowed in (values.get("claims") or {}).items()},
    )


def _source(values: Mapping[str, Any]) -> MetricSource:
    longest = seconds(values["timeout"]) if "timeout" in values else MetricSource("", "").timeout_s
    return MetricSource(values["kind"], values["url"].rstrip("/"), longest)


def _catalogue(values: Mapping[str, Any]) -> CatalogueSource:
    url, endpoint = values["url"].rstrip("/") or "/", values.get("endpoint", "").rstrip("/")
    return CatalogueSource(values["kind"], url, values.get("region", ""), endpoint)


def _instance_type(values: Mapping[str, Any]) -> InstanceType:
    return InstanceType(
        cpus=float(values.get("cpus", 1)),
        memory_gb=float(values.get("memory_gb", 2)),
        gpus=int(values.get("gpus", 0)),
        gpu_resource=values.get("gpu_resource", InstanceType().gpu_resource),
        node_pool=values.get("node_pool", ""),
        price_per_hour=float(values.get("price_per_hour", 0)),
    )


def _process_findings(
    document: Document, kind: str, values: Mapping[str, Any], under: Path, base: Process
) -> tuple[Finding, ...]:
    """What no schema can say of a process."""
    found = [f for path, value in _shares(values) for f in _beyond(document, kind, (*under, *path), value)]
    if found:
        return tuple(found)
    if "steps" in values:
        found += _step_findings(document, (*under, "steps"), [percent(step) for step in values["steps"]])
    soak, longest = (seconds(values.get(key, f"{own}s")) for key, own in _soaks(base))
    if soak > longest:
        key = "max_soak" if "max_soak" in values else "soak"
        found.append(
            Finding(
                "rollout-soak",
                f"`soak` is {soak:g} s, longer than `max_soak`, {longest:g} s",
                "a step that must hold longer than it may can only fail",
                "raise `max_soak`",
                document.place((*under, key)),
            )
        )
    return tuple(found)


def _soaks(base: Process) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("soak", base.soak_s), ("max_soak", base.max_soak_s)


def _step_findings(document: Document, path: Path, steps: list[float]) -> list[Finding]:
    why = "each step opens the gate a little more, and the last one is the whole"
    for index, (before, step) in enumerate(zip([0.0, *steps], steps, strict=False)):
        if step <= before:
            message = f"step {step:g} does not come after {before:g}"
            fix = "list the steps in ascending order, above 0"
            return [Finding("rollout-steps", message, why, fix, document.place((*path, index)))]
    if not steps or steps[-1] != 100:
        last = f"the last step is {steps[-1]:g}" if steps else "there are no steps"
        place = document.place((*path, len(steps) - 1) if steps else path)
        return [Finding("rollout-steps", f"{last}, expected 100", why, "end the list with 100", place)]
    return []


def _shares(values: Mapping[str, Any]) -> list[tuple[Path, Any]]:
    """Percents as text: their range is not in the schema."""
    found: list[tuple[Path, Any]] = [(("steps", i), step) for i, step in enumerate(values.get("steps") or [])]
    found += [(("mirror", key), value) for key, value in (values.get("mirror") or {}).items()]
    found += [(("false_abort",), values.get("false_abort"))]
    return [(path, value) for path, value in found if isinstance(value, str) and value.endswith("%")]


def _beyond(document: Document, kind: str, path: Path, value: str) -> list[Finding]:
    row = fields.row_at(kind, path)
    if row is None:
        return []
    number = percent(value) if row.type == "percent" else share(value)
    fits = (row.low is None or number >= row.low) and (row.high is None or number <= row.high)
    return [] if fits else [wrong(document, path, row, number)]


def _cases(document: Document) -> tuple[Finding, ...]:
    """Names of instance types are compared in lower case, so they must differ in it."""
    seen: dict[str, str] = {}
    for name in document.value.get("instance_types") or {}:
        if name.lower() in seen:
            message = f"`{name}` and `{seen[name.lower()]}` are the same instance type"
            place = document.key_place(("instance_types", name))
            return (Finding("name-case", message, "case does not count in their names", "delete one", place),)
        seen[name.lower()] = name
    return ()


def _keda(document: Document) -> tuple[Finding, ...]:
    """KEDA asks a Prometheus what routers count: both must be so."""
    name, known = document.value.get("keda", ""), document.value.get("metrics") or {}
    if not name:
        return ()
    if name not in known:
        fix = f"add it below `metrics:`{', or use one of ' + ', '.join(sorted(known)) if known else ''}"
        message, why = f"headgate.yml has no metric source `{name}`", "KEDA asks it how many requests there are"
        return (Finding("metric-source", message, why, fix, document.place(("keda",))),)
    if known[name]["kind"] != "prometheus":
        message, why = f"source `{name}` is no `prometheus`", "KEDA asks it in PromQL what it read from the routers"
        return (Finding("bad-value", message, why, "name a source of kind `prometheus`", document.place(("keda",))),)
    if str((document.value.get("router") or {}).get("dataplane", "")).lower() == "envoy":
        message = "`keda` has nothing to scale by with `dataplane: envoy`"
        why = "those routers do not say how many requests each revision has"
        fix = "start the routers with `--dataplane builtin`, or delete `keda:` to scale by cores"
        return (Finding("dataplane-lacks", message, why, fix, document.place(("keda",))),)
    return ()


def seconds(value: Any) -> float:
    """`10m`, `5s`, `500ms`, 0 in seconds. Raises ValueError."""
    if value == 0:
        return 0.0
    match = _DURATION.fullmatch(str(value))
    if match is None:
        raise ValueError(f"not a duration: {value!r}")
    return float(match[1]) * UNIT_S[match[2]]


def percent(value: Any) -> float:
    """`5%` or 5 -> 5.0."""
    return float(str(value).removesuffix("%"))


def share(value: Any) -> float:
    """`1%` or 0.01 -> 0.01."""
    text = str(value)
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def flag(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() in ("true", "yes", "on")

"""Azure ML CLI v2 endpoint and deployment YAML as typed values.

What Azure's loader takes is taken and what it refuses is refused, with the exceptions listed beside the corpus in the
tests. Whether a valid file can be served *here* is not this module's question (`reading.py`). Each value keeps its
text, so that a later check can point into it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headgate import fields
from headgate.check import check
from headgate.findings import Finding, Place, Severity
from headgate.workload import Probe, Scaling
from headgate.yamltext import Document

# fmt: off
_BATCH_KEYS = frozenset((
    "mini_batch_size", "settings", "component", "job_definition", "error_threshold", "output_action",
    "output_file_name", "retry_settings", "logging_level", "max_concurrency_per_instance",
))
# fmt: on
_DEPLOYMENT_KEYS = frozenset(
    ("endpoint_name", "model", "code_configuration", "environment", "instance_type", "instance_count")
)
_ONLINE_KEYS = frozenset(("traffic", "mirror_traffic", "instance_type", "request_settings"))
ENDPOINT_KIND, DEPLOYMENT_KIND = "online endpoint", "online deployment"
PREVIEW = "2021 preview"


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    auth_mode: str  # key | aml_token | aad_token
    traffic: Mapping[str, int]  # deployment -> percent, as written
    mirror_traffic: Mapping[str, int]
    document: Document = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Model:
    ref: str = ""  # azureml:...; empty: inline
    path: str = ""  # as written
    name: str = ""  # empty: not given
    version: str = ""
    type: str = "custom_model"


@dataclass(frozen=True, slots=True)
class Environment:
    ref: str = ""  # azureml:...; empty: inline
    image: str = ""
    conda_file: str | Mapping[str, Any] = ""  # a path as written, or the content
    container: bool = False  # brings its own server: inference_config or build


@dataclass(frozen=True, slots=True)
class Deployment:
    name: str
    endpoint_name: str  # empty: the folder's
    model: Model | None
    code: str  # as written; empty: no code_configuration
    scoring_script: str
    environment: Environment | None
    variables: Mapping[str, Any]  # as written
    instance_type: str
    instance_count: int
    request_timeout_ms: int
    max_concurrent_per_instance: int
    max_queue_wait_ms: int
    liveness: Probe
    readiness: Probe
    scaling: Scaling | None
    ignored: tuple[Finding, ...] = field(repr=False, compare=False)
    document: Document = field(repr=False, compare=False)


def endpoint(document: Document) -> tuple[Endpoint | None, tuple[Finding, ...]]:
    """An online endpoint, or why it is none. Warnings come with the value."""
    values, findings = _checked(document, "endpoint", ENDPOINT_KIND)
    if values is None:
        return None, findings
    built = Endpoint(
        name=values["name"],
        auth_mode=_word("endpoint", "auth_mode", values.get("auth_mode")) or "key",
        traffic={name: int(share) for name, share in (values.get("traffic") or {}).items()},
        mirror_traffic={name: int(share) for name, share in (values.get("mirror_traffic") or {}).items()},
        document=document.without_value(),
    )
    return built, ignored(document, "endpoint")


def deployment(document: Document) -> tuple[Deployment | None, tuple[Finding, ...]]:
    """An online deployment, or why it is none. Warnings come with the value, in `ignored` too."""
    values, findings = _checked(document, "deployment", DEPLOYMENT_KIND)
    found = (*findings, *(_check_scaling(document) if values is not None else ()))
    if values is None or found:
        return None, found
    notices = (*ignored(document, "deployment"), *_clusters_only(document))
    return _deployment(values, document, notices), notices


def _deployment(values: Mapping[str, Any], document: Document, notices: tuple[Finding, ...]) -> Deployment:
    code = values.get("code_configuration") or {}
    requests = values.get("request_settings") or {}
    scaling = _scaling(values.get("scale_settings"))
    return Deployment(
        name=values["name"],
        endpoint_name=values.get("endpoint_name", ""),
        model=_model(values.get("model")),
        code=code.get("code", ""),
        scoring_script=code.get("scoring_script", ""),
        environment=_environment(values.get("environment")),
        variables=values.get("environment_variables") or {},
        instance_type=values.get("instance_type", ""),
        instance_count=_instance_count(values, scaling),
        request_timeout_ms=int(requests.get("request_timeout_ms", 5_000)),
        max_concurrent_per_instance=int(requests.get("max_concurrent_requests_per_instance", 1)),
        max_queue_wait_ms=int(requests.get("max_queue_wait_ms", 500)),
        liveness=_probe(values.get("liveness_probe")),
        readiness=_probe(values.get("readiness_probe")),
        scaling=scaling,
        ignored=notices,
        document=document.without_value(),
    )


def _model(value: Any) -> Model | None:
    if value is None:
        return None
    if isinstance(value, str):
        return Model(ref=value)
    return Model(
        path=value.get("path", ""),
        name=value.get("name", ""),
        version=str(value.get("version", "")),
        type=_word("deployment", "model.type", value.get("type")) or "custom_model",
    )


def _environment(value: Any) -> Environment | None:
    if value is None:
        return None
    if isinstance(value, str):
        return Environment(ref=value)
    container = "inference_config" in value or "build" in value
    return Environment("", value.get("image", ""), value.get("conda_file", ""), container)


def _probe(value: Any) -> Probe:
    if not value:
        return Probe()
    names = {"initial_delay": "initial_delay_s", "period": "period_s", "timeout": "timeout_s"}
    return Probe(**{names.get(key, key): int(number) for key, number in value.items()})


def _scaling(value: Any) -> Scaling | None:
    """None: nothing scales."""
    if not value or _word("deployment", "scale_settings.type", value["type"]) != "target_utilization":
        return None
    least = int(value.get("min_instances", 1))
    return Scaling(
        least,
        max(least, int(value.get("max_instances", 1))),
        int(value.get("target_utilization_percentage", 70)),
        int(value.get("polling_interval", 1)),
    )


def _instance_count(values: Mapping[str, Any], scaling: Scaling | None) -> int:
    if scaling is None:
        return int(values.get("instance_count", 1))
    return min(scaling.most, max(scaling.least, int(values.get("instance_count", scaling.least))))


# Checks


def _checked(document: Document, kind: str, expected: str) -> tuple[dict[str, Any] | None, tuple[Finding, ...]]:
    other = kind_of(document.value, expected)
    if other != expected:
        return None, (_other_kind(document, expected, other),)
    found = check(document, kind)
    return (None if found else document.value), found


def _check_scaling(document: Document) -> tuple[Finding, ...]:
    """`scale_settings` fits its type, and its type fits the platform."""
    scale = document.value.get("scale_settings")
    if not scale:
        return ()
    kind = _word("deployment", "scale_settings.type", scale["type"])
    platform = _word("deployment", "type", document.value.get("type"))
    place = document.place(("scale_settings", "type"))
    if kind == "target_utilization" and platform != "kubernetes":
        why, fix = "Azure autoscales managed deployments by other means", "write `default`, or set `type: kubernetes`"
        return (Finding("wrong-platform", "`target_utilization` is for kubernetes ones only", why, fix, place),)
    extra = [key for key in scale if key != "type"]
    if kind == "default" and extra:
        where = document.key_place(("scale_settings", extra[0]))
        why = "`type: default` keeps `instance_count` replicas"
        fix = "delete it, or write `type: target_utilization` with `type: kubernetes`"
        return (Finding("unknown-field", f"`scale_settings.{extra[0]}` does not go with `default`", why, fix, where),)
    low, high = (int(scale.get(key, 1)) for key in ("min_instances", "max_instances"))
    if "max_instances" in scale and low > high:
        where = document.place(("scale_settings", "min_instances"))
        return (Finding("bad-value", f"`min_instances` is {low}, more than `max_instances`, {high}",
                        "no number of replicas is both", "swap them", where),)  # fmt: skip
    return ()


def _clusters_only(document: Document) -> tuple[Finding, ...]:
    scaling = _scaling(document.value.get("scale_settings"))
    if scaling is None:
        return ()
    count = _instance_count(document.value, scaling)
    return (Finding("clusters-only", f"`scale_settings` scales on a cluster only: one machine runs {count}, always",
                    "there `instance_count` is what runs, within the limits", "keep it where a cluster serves this",
                    document.key_place(("scale_settings",)), Severity.WARNING),)  # fmt: skip


def ignored(document: Document, kind: str) -> tuple[Finding, ...]:
    """One notice for each field that is valid and without effect here."""
    rows = fields.children(kind, ())
    found = []
    for key, value in document.value.items():
        row = rows[key]
        if row.status == fields.IGNORED and value not in _QUIET.get(key, ()):
            found.append(notice(f"`{key}` has no effect here", row.why, document.key_place((key,))))
    return tuple(found)


_QUIET: Mapping[str, tuple[Any, ...]] = {  # values that ask for what is so anyway
    "app_insights_enabled": (False,),
    "public_network_access": ("enabled", "Enabled"),
    "egress_public_network_access": ("enabled", "Enabled"),
    "private_network_connection": (False,),
}


def notice(message: str, why: str, place: Place) -> Finding:
    return Finding("ignored-field", message, why, "delete it here, or keep it for Azure", place, Severity.WARNING)


def kind_of(value: Any, expected: str) -> str:
    """What a file describes, by its keys; by `$schema` only where the keys say nothing."""
    if not isinstance(value, dict):
        return expected
    kind = value.get("type")
    if "deployments" in value or kind in ("online", "batch"):
        return PREVIEW
    if kind in ("model", "pipeline", "component") or not _BATCH_KEYS.isdisjoint(value) or _is_legacy_batch(value):
        return "batch deployment"
    if "defaults" in value:
        return "batch endpoint"
    if "model_id" in value:
        return "serverless endpoint"
    base = str(value.get("$schema", "")).rsplit("/", 1)[-1].lower()
    if ("batch" in base or "serverless" in base) and _ONLINE_KEYS.isdisjoint(value):
        return re.sub(r"(?i)^.*(batch|serverless).*?(endpoint|deployment).*$", r"\1 \2", base)
    if expected == ENDPOINT_KIND and not _DEPLOYMENT_KEYS.isdisjoint(value):
        return DEPLOYMENT_KIND
    if expected == DEPLOYMENT_KIND and not {"traffic", "mirror_traffic", "auth_mode"}.isdisjoint(value):
        return ENDPOINT_KIND
    return expected


def _is_legacy_batch(value: Mapping[str, Any]) -> bool:
    resources = value.get("resources")
    return isinstance(resources, dict) and "instance_count" in resources


def _other_kind(document: Document, expected: str, found: str) -> Finding:
    place = document.place()
    if found == PREVIEW:
        message = f"this is the 2021 preview layout (`{'deployments' if 'deployments' in document.value else 'type'}:`)"
        fix = "write endpoint.yml, and one file per deployment in deployments/"
        return Finding("preview-layout", message, "Azure dropped it, and so did its tools", fix, place)
    if found in (ENDPOINT_KIND, DEPLOYMENT_KIND):
        fix = "an endpoint goes into endpoint.yml, a deployment into deployments/NAME.yml"
        return Finding("wrong-kind", f"this is an {found}, expected an {expected}", "the folder says what", fix, place)
    why = "Headgate serves online endpoints; batch and serverless ones are not served yet"
    article = "a" if found.startswith(("batch", "serverless")) else "an"
    return Finding("kind-not-served", f"this is {article} {found}", why, "move it out of endpoints/", place)


def _word(kind: str, path: str, value: Any) -> str:
    """The canonical spelling of a word: Azure takes `AMLToken` for `aml_token`."""
    if value is None:
        return ""
    row = fields.by_tokens(kind)[tuple(path.split("."))]
    folded = str(value).lower().replace("_", "")
    return next(word for word in row.one_of if word.replace("_", "") == folded)

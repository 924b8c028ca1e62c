"""One row per YAML field: what it is called, what it may hold, what it changes and what we do with it.

JSON Schema, the checks, the findings' wording and the documentation's tables are made from these rows and nowhere
else. The Azure rows follow the Azure ML CLI v2 schema; a limit that only Azure's service enforces is enforced here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

USED, IGNORED, REFUSED = "used", "accepted, ignored with a notice", "refused here"
META, ANSWERS, RUN, ROUTER, PROCESS, GROUND = "meta", "answers", "run", "router", "process", "ground"

NAME = "[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?"
NAME_RULE = "starts with a letter, then letters, digits and `-`, ends with a letter or digit"


@dataclass(frozen=True, slots=True)
class Field:
    """`path`: `a.b`; `*` is any key; `[]` is a list's item.

    `type`: text | int | number | flag | words (one of `one_of`, any case) | map | list | any | duration (`10m`) |
    percent (`5%` or 5) | share (`1%` or 0.01); several are joined with `|`. A map without rows below it is open.
    """

    path: str
    type: str
    doc: str
    default: Any = None  # None: nothing is assumed
    part: str = META  # answers: a new revision; run: applied in place; router; process; ground; meta: changes nothing
    status: str = USED
    required: str = ""  # "" | always | managed
    one_of: tuple[str, ...] = ()
    pattern: str = ""  # of the whole text
    rule: str = ""  # the pattern in words
    low: float | None = None
    high: float | None = None
    length: tuple[int, int] | None = None
    only: str = ""  # "" | managed | kubernetes
    why: str = ""  # why it is ignored or refused

    @property
    def tokens(self) -> tuple[str, ...]:
        parts = self.path.replace("\\.", "\0").replace("[]", ".[]").split(".")
        return tuple(part.replace("\0", ".") for part in parts)


HTTPS = "https://[^\\s?#]+|http://(localhost|127\\.0\\.0\\.1)(:[0-9]+)?(/[^\\s?#]*)?"
HTTPS_RULE = "is https://HOST/PATH; http only on this machine"
READ_ONLY = "what Azure answers, not what is asked; pasted back from `az ... show`"
ASSET = "azureml:[^\\s]+"


def _described(part: str = META) -> tuple[Field, ...]:
    return (
        Field("$schema", "text", "For editors; never trusted.", part=part),
        Field("description", "text", "For people.", part=part),
        Field("tags", "map", "For people; any values.", part=part),
        Field("properties", "map", "For people; any values.", part=part),
    )


def _probe(name: str, most_successes: int | None) -> tuple[Field, ...]:
    return (
        Field(name, "map", f"When a replica counts as {name.split('_')[0]}.", part=RUN),
        Field(f"{name}.initial_delay", "int", "Seconds before failures count.", 10, RUN, low=1),
        Field(f"{name}.period", "int", "Seconds between two probes.", 10, RUN, low=1),
        Field(f"{name}.timeout", "int", "Seconds one probe may take.", 2, RUN, low=1),
        Field(f"{name}.success_threshold", "int", "Successes in a row.", 1, RUN, low=1, high=most_successes),
        Field(f"{name}.failure_threshold", "int", "Failures in a row.", 30, RUN, low=1),
    )


# A row is read as one line or two.
# fmt: off
ENDPOINT: tuple[Field, ...] = (
    *_described(),
    Field("name", "text", "What callers use; equal to the folder's name.", required="always", pattern=NAME,
          rule=NAME_RULE, length=(3, 32)),
    Field("auth_mode", "words", "How callers prove who they are.", "key", ROUTER,
          one_of=("key", "aml_token", "aad_token")),
    Field("compute", "text", "`azureml:NAME`; makes it a Kubernetes endpoint in Azure.", status=IGNORED, pattern=ASSET,
          rule="is `azureml:` and a name", why="where replicas run is the platform's business"),
    Field("identity", "map", "Its identity in Azure.", status=IGNORED, why="replicas run as Headgate's user"),
    Field("identity.type", "words", "Kind of identity.", one_of=("system_assigned", "user_assigned", "none")),
    Field("identity.principal_id", "text", READ_ONLY),
    Field("identity.tenant_id", "text", READ_ONLY),
    Field("identity.user_assigned_identities", "list", "At most one.", high=1),
    Field("identity.user_assigned_identities[]", "map", "One identity, as a mapping."),
    *(Field(f"identity.user_assigned_identities[].{key}", "text", "Azure's id of it.")
      for key in ("resource_id", "client_id", "object_id", "principal_id")),
    Field("traffic", "map", "Deployment name -> percent of live requests; adds up to 100, or to 0: drained.", {},
          ROUTER),
    Field("traffic.*", "int", "Percent.", part=ROUTER, low=0, high=100),
    Field("mirror_traffic", "map", "One deployment without live traffic -> percent of requests copied to it.", {},
          ROUTER),
    Field("mirror_traffic.*", "int", "Percent.", part=ROUTER, low=0, high=50),
    Field("public_network_access", "words", "Whether the endpoint is reachable from outside.", "enabled",
          status=IGNORED, one_of=("enabled", "disabled"), only="managed",
          why="who reaches the router is decided by the address it listens on"),
    *(Field(key, "any", READ_ONLY) for key in
      ("id", "provisioning_state", "scoring_uri", "openapi_uri", "location", "kind")),
)

DEPLOYMENT: tuple[Field, ...] = (
    *_described(),
    Field("name", "text", "Unique in its endpoint.", part=ANSWERS, required="always", pattern=NAME, rule=NAME_RULE,
          length=(3, 32)),
    Field("endpoint_name", "text", "Equal to the folder's name, which is assumed when it is left out.", pattern=NAME,
          rule=NAME_RULE, length=(3, 32)),
    Field("type", "words", "Azure's platform; both kinds are served alike here.", "managed",
          one_of=("managed", "kubernetes")),
    Field("model", "text|map", "`azureml:NAME:VERSION` or `azureml:NAME@LABEL` from the catalogue, or a local path.",
          part=ANSWERS, pattern=ASSET, rule="as text is `azureml:NAME:VERSION`; a local model has `path:`"),
    Field("model.path", "text", "File or folder, relative to this file; must exist.", part=ANSWERS),
    Field("model.name", "text", "Ends up in AZUREML_MODEL_DIR.", part=ANSWERS),
    Field("model.version", "text|int", "Ends up in AZUREML_MODEL_DIR.", "1", ANSWERS),
    Field("model.type", "words", "What loads it.", "custom_model", ANSWERS,
          one_of=("custom_model", "mlflow_model", "triton_model")),
    Field("model.description", "text", "For people."),
    Field("model.tags", "map", "For people."),
    Field("model.properties", "map", "For people."),
    Field("model.flavors", "map", "MLflow flavours.", status=IGNORED, why="the model's own files say it"),
    Field("model_mount_path", "text", "Where a container finds the model.", part=ANSWERS, status=REFUSED,
          why="it belongs to containers of one's own, which are not served yet"),
    Field("code_configuration", "map", "The scoring script.", part=ANSWERS),
    Field("code_configuration.code", "text", "Folder, relative to this file.", part=ANSWERS),
    Field("code_configuration.scoring_script", "text", "Script inside `code` with `init()` and `run()`.", part=ANSWERS),
    Field("environment", "text|map", "Python packages: an alias of headgate.yml as `azureml:NAME`, or inline.",
          part=ANSWERS, pattern=ASSET, rule="as text is `azureml:NAME:VERSION`; an inline one is a mapping"),
    Field("environment.name", "text", "For people."),
    Field("environment.version", "text|int", "For people."),
    Field("environment.description", "text", "For people."),
    Field("environment.tags", "map", "For people."),
    Field("environment.properties", "map", "For people."),
    Field("environment.image", "text", "Base image; used on a cluster only.", part=ANSWERS),
    Field("environment.conda_file", "text|map", "Conda file, or its content.", part=ANSWERS),
    Field("environment.build", "map", "Builds an image.", part=ANSWERS, status=REFUSED,
          why="images are made from `conda_file:`, and nothing of a Dockerfile is run"),
    Field("environment.build.path", "text", "Build context.", part=ANSWERS),
    Field("environment.build.dockerfile_path", "text", "In the build context.", "Dockerfile", ANSWERS),
    Field("environment.inference_config", "map", "Routes of a bring-your-own container.", part=ANSWERS, status=REFUSED,
          why="containers of one's own are not served yet"),
    *(row for route in ("liveness_route", "readiness_route", "scoring_route") for row in (
        Field(f"environment.inference_config.{route}", "map", "Where the container answers.", part=ANSWERS,
              required="always"),
        Field(f"environment.inference_config.{route}.port", "int", "TCP port.", part=ANSWERS, low=1, high=65535),
        Field(f"environment.inference_config.{route}.path", "text", "HTTP path.", part=ANSWERS),
    )),
    Field("environment.os_type", "words", "Operating system of the image.", "linux", one_of=("linux", "windows")),
    Field("environment_variables", "map",
          "Name -> value; numbers and booleans become text. `${{secretref:SECRET/KEY}}`: from a Secret.", {}, ANSWERS),
    Field("instance_type", "text", "Size of a replica, as named in headgate.yml; any case.", part=ANSWERS,
          required="managed"),
    Field("instance_count", "int", "Replicas; with `target_utilization` how many start, within its limits.", 1, RUN,
          low=1, high=50),
    Field("app_insights_enabled", "flag", "Azure's telemetry.", False, status=IGNORED,
          why="metrics and traces are exported with OpenTelemetry"),
    Field("scale_settings", "map", "Autoscaling, on a cluster; one machine runs `instance_count` replicas.", part=RUN),
    Field("scale_settings.type", "words", "`target_utilization` with `type: kubernetes` only.", "default", RUN,
          required="always", one_of=("default", "target_utilization")),
    Field("scale_settings.min_instances", "int", "Least replicas; never 0, for routers do not hold requests.", 1, RUN,
          low=1, high=50),
    Field("scale_settings.max_instances", "int", "Most replicas.", 1, RUN, low=1, high=50),
    Field("scale_settings.target_utilization_percentage", "int", "Busy share aimed at: of its cores; with `keda`, of "
          "the requests a replica may run at once.", 70, RUN, low=1, high=100),
    Field("scale_settings.polling_interval", "int", "Seconds; a replica goes when it was not needed for 20 times that.",
          1, RUN, low=1),
    Field("request_settings", "map", "Limits of requests.", part=RUN),
    Field("request_settings.request_timeout_ms", "int", "Longest scoring; then 408.", 5000, RUN, low=1, high=180_000),
    Field("request_settings.max_concurrent_requests_per_instance", "int", "Requests a replica runs at once.", 1, RUN,
          low=1, high=1000),
    Field("request_settings.max_queue_wait_ms", "int", "Longest wait for a replica; then 429.", 500, RUN, low=0,
          high=180_000),
    *_probe("liveness_probe", 1),
    *_probe("readiness_probe", None),
    Field("resources", "map", "Requests and limits of a replica.", status=IGNORED, only="kubernetes",
          why="sizes come from the instance type"),
    *(row for kind in ("requests", "limits") for row in (
        Field(f"resources.{kind}", "map", "Kubernetes quantities, as text."),
        *(Field(f"resources.{kind}.{name}", "text", "Quantity.") for name in ("cpu", "memory", "gpu")),
        Field(f"resources.{kind}.nvidia\\.com/gpu", "text", "Number of GPUs."),
    )),
    Field("data_collector", "map", "Azure's data collection.", status=IGNORED, why="requests are not collected"),
    Field("data_collector.sampling_rate", "number", "Share of requests.", 1.0, low=0, high=1),
    Field("data_collector.rolling_rate", "words", "How long a file grows.", "hour", one_of=("minute", "hour", "day")),
    Field("data_collector.collections", "map", "Name -> what is collected."),
    Field("data_collector.collections.*", "map", "One collection."),
    Field("data_collector.collections.*.enabled", "words", "Text, as Azure has it: 'True' or 'False'.",
          required="always", one_of=("true", "false")),
    Field("data_collector.collections.*.data", "text|map", "Where it goes."),
    Field("data_collector.collections.*.client_id", "text", "Identity it is written with."),
    Field("data_collector.request_logging", "map", "What is logged of a request."),
    Field("data_collector.request_logging.capture_headers", "list", "Header names."),
    Field("data_collector.request_logging.capture_headers[]", "text", "Header name."),
    Field("egress_public_network_access", "words", "Whether a replica may call out.", "enabled", status=IGNORED,
          one_of=("enabled", "disabled"), only="managed", why="local replicas share the machine's network"),
    Field("private_network_connection", "flag", "Undocumented preview.", only="managed", status=IGNORED,
          why="there is no private network to connect"),
    *(Field(key, "any", READ_ONLY) for key in ("id", "provisioning_state", "location", "creation_context")),
)

ROLLOUT: tuple[Field, ...] = (
    Field("$schema", "text", "For editors."),
    Field("smoke", "map", "The request every new revision must answer before it gets any other.", part=PROCESS),
    Field("smoke.request", "text", "File beside the deployment's, or in the endpoint's folder.", "sample-request.json",
          PROCESS),
    Field("mirror", "map", "Copies of live requests to the candidate; their answers are compared, never returned.",
          part=PROCESS),
    Field("mirror.percent", "percent", "Of live requests; 0: no mirror phase.", 20, PROCESS, low=0, high=100),
    Field("mirror.soak", "duration", "Least time of the mirror phase.", "10m", PROCESS),
    Field("mirror.echo", "share", "Of copied requests also sent to the stable again, to learn its noise.", 0.1, PROCESS,
          low=0, high=1),
    Field("steps", "list", "Percent of the way from live to asked, ascending to 100.", [5, 25, 50, 100], PROCESS),
    Field("steps[]", "percent", "One step.", part=PROCESS, low=0, high=100),
    Field("soak", "duration", "Least time a step holds; evidence may hold it longer.", "5m", PROCESS),
    Field("max_soak", "duration", "A step without a pass by then fails.", "2h", PROCESS),
    Field("false_abort", "share", "Chance that a good candidate is stopped, for the whole rollout.", 0.01, PROCESS,
          low=0.000001, high=0.5),
    Field("min_requests", "int", "Candidate requests every gate needs at least.", 50, PROCESS, low=1),
    Field("gates", "map", "Gate -> its parameters; named gates replace the default ones.", part=PROCESS),
    Field("gates.*", "map|text|null", "Parameters; a text: `expression`; nothing: the gate's defaults.",
          part=PROCESS),
    Field("on_failure", "words", "What is done to git. Traffic always goes back.", "revert", PROCESS,
          one_of=("revert", "revert-pr", "hold")),
    Field("capacity", "words", "How far a rollout may go for lack of room: `partial` makes room one by one as "
          "traffic moves; with `swap` what serves ends first, and callers get 503 in between.", "parallel", PROCESS,
          one_of=("parallel", "partial", "swap")),
    Field("keep_warm", "duration", "How long replaced revisions keep running.", "1h", PROCESS),
    Field("repeatable", "flag", "A request may run twice: allows mirroring, and a retry.", True, PROCESS),
    Field("sticky", "text", "What keeps a caller on one revision.", "none", PROCESS,
          pattern="none|header:[A-Za-z0-9-]+|cookie:[A-Za-z0-9_-]+", rule="is none, header:NAME or cookie:NAME"),
    Field("redact", "list", "JSON paths blanked before answers leave the router.", [], PROCESS),
    Field("redact[]", "text", "One JSON path.", part=PROCESS, pattern="\\$.*", rule="starts with `$`"),
    Field("websocket", "list", "Deployments whose WebSocket requests are tunnelled; those of others are refused.", [],
          PROCESS),
    Field("websocket[]", "text", "One deployment.", part=PROCESS, pattern=NAME, rule=NAME_RULE),
)

HEADGATE: tuple[Field, ...] = (
    Field("$schema", "text", "For editors."),
    Field("instance_types", "map", "Name (any case) -> what a replica of that type gets; none: any name is accepted.",
          {}, GROUND),
    Field("instance_types.*", "map", "One type.", part=GROUND),
    Field("instance_types.*.cpus", "number", "Cores.", 1.0, GROUND, low=0),
    Field("instance_types.*.memory_gb", "number", "Memory.", 2.0, GROUND, low=0),
    Field("instance_types.*.gpus", "int", "Whole GPUs.", 0, GROUND, low=0),
    Field("instance_types.*.gpu_resource", "text", "What the cluster calls one GPU: a MIG or shared profile.",
          "nvidia.com/gpu", GROUND, pattern="[a-z0-9.-]+/[A-Za-z0-9._-]+", rule="is DOMAIN/NAME"),
    Field("instance_types.*.node_pool", "text", "Nodes it runs on: their label `headgate.dev/pool`.", "", GROUND,
          pattern="[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", rule="is a value of a node's label"),
    Field("instance_types.*.price_per_hour", "number", "For forecasts.", 0.0, GROUND, low=0),
    Field("environments", "map", "Curated environment, e.g. `sklearn-1.5` -> its packages.", {}, GROUND),
    Field("environments.*", "list", "Requirement lines.", part=GROUND),
    Field("environments.*[]", "text", "One requirement, e.g. `scikit-learn==1.5.2`.", part=GROUND),
    Field("interpreters", "map", "Python version as text, e.g. \"3.10\" -> path of that interpreter.", {}, GROUND),
    Field("interpreters.*", "text", "Path on the machine that builds.", part=GROUND),
    Field("catalogue", "text", "Folder of registered models, NAME/VERSION/...; from the repo's root.", "", GROUND),
    Field("catalogues", "map", "Name -> where registered models are, outside the repo; asked in this order, after "
          "`catalogue`. `azureml://registries/NAME/...` asks that one alone.", {}, GROUND),
    Field("catalogues.*", "map", "One catalogue.", part=GROUND),
    Field("catalogues.*.kind", "text", "folder, s3, mlflow, oci, or a plugin's.", part=GROUND, required="always"),
    Field("catalogues.*.url", "text", "Where it is; its credentials lie with the controller.", part=GROUND,
          required="always", pattern="([a-z][a-z0-9+]*://[^\\s@]*|/[^\\s]*)", rule="is a URL without a password, or an "
          "absolute path"),
    Field("catalogues.*.region", "text", "s3: the store's region.", "", GROUND, pattern="[a-z0-9-]*",
          rule="is a region's name"),
    Field("catalogues.*.endpoint", "text", "s3: URL of a store that is not Amazon's.", "", GROUND,
          pattern="https?://[^\\s@/]+(/[^\\s@]*)?", rule="is an http or https URL without a password"),
    Field("models", "words", "On a cluster, what brings models of `catalogues` into a replica: `image`, a layer of its "
          "image; `init`, a container that fetches them when it starts.", "image", GROUND, one_of=("image", "init")),
    Field("capacity", "words", "`fixed`: what does not fit waits or is refused; `elastic`: nodes come as needed.",
          "fixed", GROUND, one_of=("fixed", "elastic")),
    Field("router", "map", "How routers are started; read to warn of what their data path lacks.", {}, GROUND),
    Field("router.dataplane", "words", "The `--dataplane` they are started with.", "builtin", GROUND,
          one_of=("builtin", "asgi", "envoy")),
    Field("metrics", "map", "Name -> a source that gates `metric` ask.", {}, GROUND),
    Field("metrics.*", "map", "One source.", part=GROUND),
    Field("metrics.*.kind", "text", "prometheus (its HTTP API), webhook, or a plugin's.", part=GROUND,
          required="always"),
    Field("metrics.*.url", "text", "Where it answers; a token lies with the controller.", part=GROUND,
          required="always", pattern="https?://[^\\s@/]+(/[^\\s@]*)?",
          rule="is an http or https URL without a password"),
    Field("metrics.*.timeout", "duration", "Longest wait for one answer.", "5s", GROUND),
    Field("keda", "text", "On a cluster, who scales `target_utilization`: KEDA, by requests in flight, asked of this "
          "source of `metrics`, a Prometheus that reads the routers; empty: HorizontalPodAutoscalers, by cores.", "",
          GROUND),
    Field("removal_grace", "duration", "How long a removed endpoint with traffic keeps serving.", "10m", GROUND),
    Field("oidc", "map", "Whose tokens `auth_mode: aad_token` takes; none: that mode is refused.", part=GROUND),
    Field("oidc.issuer", "text", "The claim `iss`.", part=GROUND, required="always", pattern=HTTPS, rule=HTTPS_RULE),
    Field("oidc.audience", "list", "The claim `aud` holds one of them.", part=GROUND, required="always"),
    Field("oidc.audience[]", "text", "One audience, e.g. `api://scoring`.", part=GROUND),
    Field("oidc.jwks", "text", "Where its public keys are; none: its openid-configuration says it.", "", GROUND,
          pattern=HTTPS, rule=HTTPS_RULE),
    Field("oidc.claims", "map", "Claim -> values, of which a token must hold one; of every claim here.", {}, GROUND),
    Field("oidc.claims.*", "list", "Allowed values.", part=GROUND),
    Field("oidc.claims.*[]", "text", "One value.", part=GROUND),
    Field("rollout", "map", "The default rollout.yml.", part=GROUND),
    *(Field(f"rollout.{row.path}", row.type, row.doc, row.default, row.part, one_of=row.one_of, pattern=row.pattern,
            rule=row.rule, low=row.low, high=row.high) for row in ROLLOUT if row.path != "$schema"),
)

POLICY: tuple[Field, ...] = (
    Field("$schema", "text", "For editors."),
    Field("rules", "list", "Admission rules, each over one kind of document.", part=META, required="always"),
    Field("rules[]", "map", "One rule."),
    Field("rules[].name", "text", "What findings call it.", required="always", length=(1, 100)),
    Field("rules[].on", "words", "The document it is about: once for each deployment, or once.", "deployment",
          one_of=("endpoint", "deployment", "rollout")),
    Field("rules[].when", "text", "CEL: where it applies; none: everywhere."),
    Field("rules[].must", "text", "CEL: what must be true there.", required="always"),
    Field("rules[].message", "text", "What a person reads when it is not.", required="always"),
    Field("rules[].fix", "text", "What to do about it."),
    Field("rules[].at", "text", "The field to point at, e.g. `environment.image`."),
    Field("rules[].severity", "words", "`deny` refuses the commit, `warn` only says so.", "deny",
          one_of=("deny", "warn")),
)

# fmt: on

# Fields of earlier previews and what took their place.
REPLACED: Mapping[str, str] = {
    "environment.docker": "write `image:` below `environment`",
    "environment.path": "write `image:` and `conda_file:` below `environment`",
    "code_configuration.code": "write the folder itself: `code: ./src`",
    "data_collector.enabled": "enable single collections: `collections: {request: {enabled: 'True'}}`",
    "data_collector.destination": "write `data:` in a collection",
    "data_collector.sampling_strategy": "write `sampling_rate:`",
    "target": "write `compute:`",
}

KINDS: Mapping[str, tuple[Field, ...]] = {
    "endpoint": ENDPOINT,
    "deployment": DEPLOYMENT,
    "rollout": ROLLOUT,
    "headgate": HEADGATE,
    "policy": POLICY,
}


@cache
def by_tokens(kind: str) -> Mapping[tuple[str, ...], Field]:
    return {row.tokens: row for row in KINDS[kind]}


@cache
def children(kind: str, tokens: tuple[str, ...]) -> Mapping[str, Field]:
    """The rows directly below one: their last token -> row."""
    return {row.tokens[-1]: row for row in KINDS[kind] if row.tokens[:-1] == tokens}


def parts_of(row: Field) -> tuple[str, ...]:
    """The names a mapping may hold; empty: any. `*` and list items are none."""
    kind = next(name for name, rows in KINDS.items() if row in rows)
    return tuple(name for name in children(kind, row.tokens) if name not in ("*", "[]"))


def row_at(kind: str, path: Iterable[str | int]) -> Field | None:
    """The row that speaks of a value; None: no such field, or inside an open map."""
    tokens: tuple[str, ...] = ()
    for part in path:
        below = children(kind, tokens)
        step = "[]" if isinstance(part, int) else part if part in below else "*"
        if step not in below:
            return None
        tokens = (*tokens, step)
    return by_tokens(kind).get(tokens)

"""From a workload to the objects of a cluster. Pure, and the same for ever: a pod's spec depends on what was asked for,
never on Headgate's version or on the time, because a change of it starts every replica anew.

One Deployment per (endpoint, revision, purpose); what stands beside it belongs to it and goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headgate import codec
from headgate.workload import (
    ADDRESS,
    CPUS,
    FETCH,
    HEALTH,
    IMAGE_BUNDLE,
    IMAGE_PYTHON,
    MODELS_FOLDER,
    READY_PATH,
    REPLICA,
    TLS,
    Probe,
    Purpose,
    Workload,
    object_name,
)
from headgate_controllers.platforms.kubernetes import scaling
from headgate_kit.catalogue import ENV_CREDENTIALS
from headgate_kit.kube import Kind
from headgate_kit.kube.kinds import DISRUPTION_BUDGET, NETWORK_POLICY, SERVICE

Object = dict[str, Any]

GROUP = "headgate.dev"
ENDPOINT, DEPLOYMENT, REVISION = f"{GROUP}/endpoint", f"{GROUP}/deployment", f"{GROUP}/revision"
PURPOSE, PART, POOL = f"{GROUP}/purpose", f"{GROUP}/part", f"{GROUP}/pool"
SHAPE = f"{GROUP}/shape"  # annotation: digest of what, beside the revision, decides the pod's spec
BESIDE = f"{GROUP}/beside"  # annotation: digest of what stands beside it, once that was applied
SCALED = f"{GROUP}/scaled"  # annotation: which scaler may stand beside it
SECURED = f"{GROUP}/tls"  # annotation of a Deployment and its pods: the Secret that its port's certificate is in
PATIENCE = f"{GROUP}/ready-within-s"  # annotation of a pod: it is given up when it never was ready by then
MODEL = "model"  # value of PART, and the container's name
INITIALIZER = "storage-initializer"  # the container that fetches a model, as Azure calls its log
OURS = f"{PART}={MODEL}"  # selects what this platform made

PORT = 8080
HEALTH_PORT = 8081  # beside a port that wants certificates, which a kubelet has none of
FOLDER = "/var/run/headgate"
USER = 10_001
LINGER_S = 5  # before SIGTERM: routers see `terminating` within 1 s and send nothing new
GRACE_S = 45  # LINGER_S, the front's own drain of 30 s, and some
NODE_LOST_S = 30  # a pod of a node that is silent is replaced after it; Kubernetes itself waits 300
CERTIFICATE = "/var/run/secrets/headgate/tls"
CREDENTIALS = "/var/run/secrets/headgate/catalogues"
WRITABLE = ("/tmp", FOLDER)  # all else of a replica's file system is read-only


@dataclass(frozen=True, slots=True)
class Shelves:
    """What a replica reads models of catalogues with; empty: nothing."""

    secret: str = ""  # with their credentials
    claim: str = ""  # of the volume that is one


def labels(w: Workload) -> dict[str, str]:
    return {
        ENDPOINT: w.endpoint,
        DEPLOYMENT: w.deployment,
        REVISION: w.revision,
        PURPOSE: str(w.purpose),
        PART: MODEL,
        "app.kubernetes.io/managed-by": "headgate",
    }


def selector(endpoint: str, revision: str, purpose: Purpose) -> dict[str, str]:
    return {ENDPOINT: endpoint, REVISION: revision, PURPOSE: str(purpose)}


def account_name(endpoint: str) -> str:
    return object_name(endpoint, "replicas")


def account(w: Workload, pull_secret: str = "") -> Object:
    """The endpoint's ServiceAccount: where a cluster hangs an identity on. Its pods get no token of it."""
    found: Object = {
        "metadata": {"name": account_name(w.endpoint), "labels": {ENDPOINT: w.endpoint, PART: MODEL}},
        "automountServiceAccountToken": False,
    }
    return {**found, "imagePullSecrets": [{"name": pull_secret}]} if pull_secret else found


def shape(w: Workload) -> str:
    """Of what may change in place. Its parts are named one by one: a field that a later version adds changes nothing.

    The rest of a pod's spec follows from the revision, so a running one is left as it is, whoever renders it now.
    """
    probes = [_numbers(w.liveness), _numbers(w.readiness)]
    size = [w.memory_mb, w.cpus, w.gpus, w.gpu_resource if w.gpus else "", w.node_pool]
    fetched = [w.fetch] if w.fetch else []  # a catalogue that moved: the next replica must find it
    return codec.digest([w.image, probes, size, *fetched])[:16]


def shape_of(item: Object) -> str:
    """Of a Deployment as it is; empty: none of ours."""
    return str((item["metadata"].get("annotations") or {}).get(SHAPE, ""))


def secured_by(item: Mapping[str, Any]) -> str:
    """The Secret by which a Deployment or pod speaks TLS; empty: it speaks plain HTTP.

    Decided when a Deployment is made, and kept: whoever renders it again takes what it has.
    """
    return str((item["metadata"].get("annotations") or {}).get(SECURED, ""))


def _numbers(p: Probe) -> list[int]:
    return [p.initial_delay_s, p.period_s, p.timeout_s, p.success_threshold, p.failure_threshold]


def deployment(w: Workload, shelves: Shelves = Shelves(), secured: str = "") -> Object:
    """Without `replicas` where an autoscaler decides on them: an apply would take them from it.

    Args:
        secured: see `secured_by`.
    """
    noted = {SECURED: secured} if secured else {}
    match_labels = selector(w.endpoint, w.revision, w.purpose)
    return {
        "metadata": {
            "name": object_name(w.endpoint, w.revision, w.purpose),
            "labels": labels(w),
            "annotations": {SHAPE: shape(w), **noted},
        },
        "spec": {
            **({} if w.scaling else {"replicas": w.replicas}),
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": match_labels},
            # A changed probe or size never takes a replica away before the next one is ready.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {
                    "labels": labels(w),
                    "annotations": {PATIENCE: str(ready_within_s(w.readiness)), **noted},
                },
                "spec": _pod(w, match_labels, shelves, secured),
            },
        },
    }


def ready_within_s(probe: Probe) -> int:
    return probe.initial_delay_s + probe.period_s * probe.failure_threshold


def _pod(w: Workload, match_labels: Mapping[str, str], shelves: Shelves, secured: str) -> Object:
    spec: Object = {
        "serviceAccountName": account_name(w.endpoint),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(w)],
        "volumes": [{"name": _volume(path), "emptyDir": {}} for path in WRITABLE],
        "tolerations": _tolerations(w),
        **_apart(match_labels),
    }
    if w.node_pool:
        spec["nodeSelector"] = {POOL: w.node_pool}
    if w.fetch:
        _add_initializer(spec, w, shelves)
    if secured:
        _add_certificate(spec, secured)
    return spec


def _add_certificate(spec: Object, secret: str) -> None:
    """Optional: a front without its files ends and says so, a pod without its Secret would wait and say nothing."""
    container = spec["containers"][0]
    volume = {"secretName": secret, "defaultMode": 0o440, "optional": True}
    spec["volumes"].append({"name": "tls", "secret": volume})
    container["volumeMounts"].append({"name": "tls", "mountPath": CERTIFICATE, "readOnly": True})
    told = {TLS: CERTIFICATE, HEALTH: f"0.0.0.0:{HEALTH_PORT}"}
    container["env"] += [{"name": name, "value": value} for name, value in told.items()]
    container["ports"].append({"name": "health", "containerPort": HEALTH_PORT})
    for probe in ("readinessProbe", "livenessProbe"):
        container[probe]["httpGet"]["port"] = HEALTH_PORT


def _apart(match_labels: Mapping[str, str]) -> Object:
    """On nodes and zones of their own, where there are some. Nodes by affinity: of two spread constraints the
    scheduler heeds neither on a node that lacks the label of one, and few clusters of one's own have zones.
    """

    def selector() -> Object:
        return {"labelSelector": {"matchLabels": dict(match_labels)}}

    node = {"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", **selector()}}
    zone = {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    return {
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [node]}},
        "topologySpreadConstraints": [{"maxSkew": 1, **zone, **selector()}],
    }


def _add_initializer(spec: Object, w: Workload, shelves: Shelves) -> None:
    """Runs in the model's own image, which is pinned: it changes when the revision does."""
    env = [{"name": FETCH, "value": w.fetch}, {"name": "HOME", "value": "/tmp"}]
    mounts: list[Object] = [
        {"name": "model", "mountPath": f"{IMAGE_BUNDLE}/models"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    spec["volumes"].append({"name": "model", "emptyDir": {}})
    spec["containers"][0]["volumeMounts"].append({**mounts[0], "readOnly": True})
    if shelves.secret:
        spec["volumes"].append({"name": "catalogues", "secret": {"secretName": shelves.secret, "defaultMode": 0o440}})
        mounts.append({"name": "catalogues", "mountPath": CREDENTIALS, "readOnly": True})
        env.append({"name": ENV_CREDENTIALS, "value": CREDENTIALS})
    if shelves.claim:
        claim = {"claimName": shelves.claim, "readOnly": True}
        spec["volumes"].append({"name": "models", "persistentVolumeClaim": claim})
        mounts.append({"name": "models", "mountPath": MODELS_FOLDER, "readOnly": True})
    size = _resources(w)
    kept = {part: {k: v for k, v in of.items() if k in ("cpu", "memory")} for part, of in size.items()}
    spec["initContainers"] = [
        {
            "name": INITIALIZER,
            "image": w.image,
            "command": [IMAGE_PYTHON, "-P", "-m", "headgate_pipelines.initializer"],
            "env": env,
            "resources": kept,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": dict(SECURITY),
            "volumeMounts": mounts,
        }
    ]


def _container(w: Workload) -> Object:
    return {
        "name": MODEL,
        "image": w.image,
        "command": list(w.launch.argv),
        "env": [*({"name": name, "value": value} for name, value in sorted(_environment(w).items())), *_secrets(w)],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": _resources(w),
        "readinessProbe": _readiness(w.readiness),
        "livenessProbe": _liveness(w.liveness),
        "lifecycle": {"preStop": {"sleep": {"seconds": LINGER_S}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the log's end is then part of the pod's status
        "securityContext": dict(SECURITY),
        "volumeMounts": [{"name": _volume(path), "mountPath": path} for path in WRITABLE],
    }


SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _environment(w: Workload) -> dict[str, str]:
    # A user without a home would be given `/`, which is read-only: caches of libraries go to /tmp.
    found = {"HOME": "/tmp", **w.launch.env, REPLICA: FOLDER, ADDRESS: f"0.0.0.0:{PORT}"}
    return {**found, CPUS: f"{w.cpus:g}"} if w.cpus else found


def _secrets(w: Workload) -> list[Object]:
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": found.secret, "key": found.key}}}
        for name, found in sorted(w.secrets.items())
    ]


def _volume(path: str) -> str:
    return path.strip("/").replace("/", "-")


def _resources(w: Workload) -> Object:
    """Limits equal requests: what an instance type names is what a replica has, under load as in a test."""
    size: dict[str, str] = {}
    if w.cpus:
        size["cpu"] = f"{round(w.cpus * 1000)}m"
    if w.memory_mb:
        size["memory"] = f"{w.memory_mb}Mi"
    if w.gpus:
        size[w.gpu_resource] = str(w.gpus)
    return {"requests": size, "limits": size} if size else {}


def _tolerations(w: Workload) -> list[Object]:
    found: list[Object] = [
        {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute",
         "tolerationSeconds": NODE_LOST_S}
        for state in ("not-ready", "unreachable")
    ]  # fmt: skip
    if w.node_pool:
        found.append({"key": POOL, "operator": "Equal", "value": w.node_pool, "effect": "NoSchedule"})
    if w.gpus:
        found.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    return found


def _readiness(p: Probe) -> Object:
    """Asked every second, so that a replica is ready when it is; failure counts as late as the probe says."""
    return {
        "httpGet": {"path": READY_PATH, "port": PORT},
        "periodSeconds": 1,
        "timeoutSeconds": p.timeout_s,
        "successThreshold": p.success_threshold,
        "failureThreshold": p.period_s * p.failure_threshold,
    }


def _liveness(p: Probe) -> Object:
    return {
        "httpGet": {"path": "/", "port": PORT},
        "initialDelaySeconds": p.initial_delay_s,
        "periodSeconds": p.period_s,
        "timeoutSeconds": p.timeout_s,
        "failureThreshold": p.failure_threshold,
    }


def beside(w: Workload, owner_uid: str, namespace: str = "", secured: str = "") -> list[tuple[Kind, Object]]:
    """What stands beside the Deployment and goes with it; a smoke replica has nothing but its door.

    Args:
        secured: see `secured_by`.
    """
    found = [(NETWORK_POLICY, _policy(w, owner_uid))]
    if w.purpose is Purpose.SERVE:
        found.append((SERVICE, _service(w, owner_uid, secured)))
        if (w.scaling.least if w.scaling else w.replicas) > 1:
            found.append((DISRUPTION_BUDGET, _budget(w, owner_uid)))
        if w.scaling:
            found.append(scaling.scaler(w, w.scaling, _owned(w, owner_uid), namespace))
    return found


def beside_digest(w: Workload, secured: str = "") -> str:
    return codec.digest([[kind.name, body] for kind, body in beside(w, "", secured=secured)])[:16]


def _owned(w: Workload, owner_uid: str) -> Object:
    name = object_name(w.endpoint, w.revision, w.purpose)
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": owner_uid}
    return {"name": name, "labels": labels(w), "ownerReferences": [owner]}


def _service(w: Workload, owner_uid: str, secured: str) -> Object:
    """Headless: routers read its EndpointSlices, balance themselves, and read there what is spoken at the port."""
    port: Object = {"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}
    return {
        "metadata": _owned(w, owner_uid),
        "spec": {
            "clusterIP": "None",
            "selector": selector(w.endpoint, w.revision, w.purpose),
            "ports": [{**port, "appProtocol": "https"} if secured else port],
        },
    }


def _budget(w: Workload, owner_uid: str) -> Object:
    return {
        "metadata": _owned(w, owner_uid),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",  # one that does not serve must not hold up a drain
            "selector": {"matchLabels": selector(w.endpoint, w.revision, w.purpose)},
        },
    }


def _policy(w: Workload, owner_uid: str) -> Object:
    """Only routers and the controller (it asks the smoke request) reach a replica."""
    ours = {"matchExpressions": [{"key": PART, "operator": "In", "values": ["router", "controller"]}]}
    return {
        "metadata": _owned(w, owner_uid),
        "spec": {
            "podSelector": {"matchLabels": selector(w.endpoint, w.revision, w.purpose)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": ours}], "ports": [{"port": PORT, "protocol": "TCP"}]}],
        },
    }

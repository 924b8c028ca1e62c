"""What `headgate doctor` looks at: each check is one question to a cluster or to this machine. Changes nothing.

Every answer is a `Check`: ok, warn (works, but look), fail (something must be done), or skip (cannot be known from
here, and why). A check that breaks is a fail of its own, never the end of the others.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headgate.findings import HeadgateError, TerminalError

if TYPE_CHECKING:
    from headgate_kit.kube import Cluster
    from headgate_kit.kube.rights import Right

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"
SKEW_S = 5.0  # a clock further ahead than this makes times in statuses misleading
STALE_S = 30.0  # a Lease that nobody renews: no controller acts
PULLING = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName")
ACCOUNTS = {"controller": "headgate-controller", "router": "headgate-router", "workflow": "headgate-workflow"}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: str
    message: str
    fix: str = ""


def machine() -> Iterator[Check]:
    """This machine's own part."""
    if shutil.which("git") is None:
        yield Check("git", FAIL, "git is not on the PATH", "install git 2.30 or newer")
        return
    said = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    yield Check("git", OK, said.strip())


def cluster(found: Cluster, settings: Mapping[str, str]) -> Iterator[Check]:
    """A cluster's part.

    Args:
        settings: the environment of the controller's container, for what it was told; empty: it is not installed.
    """
    looks: Sequence[tuple[str, Callable[[], Iterator[Check]]]] = (
        ("definitions", lambda: definitions(found)),
        ("workloads", lambda: workloads(found)),
        ("clock", lambda: lease(found)),
        ("rights", lambda: access(found, settings)),
        ("images", lambda: images(found)),
        ("registry", lambda: registry(settings)),
        ("pools", lambda: pools(found)),
        ("models", lambda: models(found, settings)),
        ("argo", lambda: argo(found, settings)),
    )
    for name, look in looks:
        try:
            yield from look()
        except HeadgateError as error:
            yield Check(name, SKIP if isinstance(error, TerminalError) else FAIL, str(error))


def definitions(found: Cluster) -> Iterator[Check]:
    from headgate_kit.kube.kinds import ENDPOINT_ROLLOUT, ONLINE_ENDPOINT

    for kind in (ONLINE_ENDPOINT, ENDPOINT_ROLLOUT):
        try:
            found.list(kind)
            yield Check(f"definition {kind.plural}", OK, kind.api)
        except TerminalError as error:
            yield Check(f"definition {kind.plural}", WARN, str(error), "kubectl apply -f install/crds")


def workloads(found: Cluster) -> Iterator[Check]:
    from headgate_kit.kube.kinds import DEPLOYMENT

    for name in ("headgate-controller", "headgate-router"):
        deployment = found.get(DEPLOYMENT, name)
        if deployment is None:
            yield Check(name, FAIL, f"there is none in namespace {found.namespace}", "helm install, or another -n")
            continue
        wanted, ready = deployment["spec"].get("replicas", 1), (deployment.get("status") or {}).get("readyReplicas", 0)
        state = OK if ready >= wanted else WARN if ready else FAIL
        fix = "" if state == OK else f"kubectl -n {found.namespace} describe deployment {name}"
        yield Check(name, state, f"{ready} of {wanted} ready", fix)


def lease(found: Cluster) -> Iterator[Check]:
    from headgate_kit.kube.kinds import LEASE

    held = found.get(LEASE, "headgate-controller")
    renewed = (held or {}).get("spec", {}).get("renewTime")
    if not renewed:
        yield Check("lease", WARN, "no controller has held it yet", "wait for headgate-controller to become ready")
        return
    age = (datetime.now(UTC) - datetime.fromisoformat(str(renewed))).total_seconds()
    holder = (held or {})["spec"].get("holderIdentity") or "nobody"
    if age < -SKEW_S:
        yield Check("clock", WARN, f"{holder} is {-age:.0f} s ahead of this machine", "set both by NTP")
    elif age > STALE_S:
        yield Check("lease", FAIL, f"{holder} renewed it {age:.0f} s ago", "see the controller's log, and both clocks")
    else:
        yield Check("lease", OK, f"{holder} renewed it {max(age, 0):.0f} s ago; clocks agree")


def access(found: Cluster, settings: Mapping[str, str]) -> Iterator[Check]:
    """Each right of the list, asked of the API server."""
    if not settings:
        yield Check("rights", SKIP, "no controller is installed here whose rights could be looked at")
        return
    from headgate_kit.kube.rights import rights

    given = {
        "engine": settings.get("engine", "pods"),
        "resources.enabled": settings.get("resources", "true"),
        "nodes.read": "true",
    }
    parts = ("controller", "router", *(["workflow"] if given["engine"] == "argo" else []))
    for part in parts:
        asked = list(rights(part, given))
        missing = {right: [v for v in right.verbs if not may(found, part, right, v)] for right in asked}
        for right, verbs in missing.items():
            if verbs:
                fix = f"helm upgrade with {'nodes.read' if right.cluster else 'rbac.create'}=true"
                where = f"{right.resource}.{right.group}".rstrip(".")
                message = f"may not {', '.join(verbs)} {where}: {right.why}"
                yield Check(f"rights {part}", WARN if right.cluster else FAIL, message, fix)
        if not any(missing.values()):
            yield Check(f"rights {part}", OK, f"all {len(asked)} are there")


def may(found: Cluster, part: str, right: Right, verb: str) -> bool:
    """Whether a part's ServiceAccount may; in a pod of ours we ask for ourselves."""
    from headgate_kit.kube.client import POD_NAMESPACE
    from headgate_kit.kube.kinds import ACCESS_REVIEW, SUBJECT_REVIEW

    wanted = {"verb": verb, "group": right.group, "resource": right.plural}
    wanted |= {"namespace": found.namespace} if not right.cluster else {}
    wanted |= {"subresource": right.subresource} if right.subresource else {}
    spec: dict[str, Any] = {"resourceAttributes": wanted}
    if POD_NAMESPACE.exists() and part == "controller":
        answer = found.create(ACCESS_REVIEW, {"spec": spec})
    else:
        spec["user"] = f"system:serviceaccount:{found.namespace}:{ACCOUNTS[part]}"
        spec["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{found.namespace}", "system:authenticated"]
        answer = found.create(SUBJECT_REVIEW, {"spec": spec})
    return bool((answer.get("status") or {}).get("allowed"))


def images(found: Cluster) -> Iterator[Check]:
    from headgate_kit.kube.kinds import POD

    broken = []
    pods, _ = found.list(POD, selector="headgate.dev/part")
    for pod in pods:
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            waiting = (status.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in PULLING:
                broken.append(f"{pod['metadata']['name']}: {waiting.get('message') or waiting['reason']}")
    for line in broken:
        yield Check("images", FAIL, line, "check the reference, the registry and imagePullSecrets")
    if not broken:
        yield Check("images", OK, f"{len(pods)} pods of ours, every image is pulled")


def registry(settings: Mapping[str, str]) -> Iterator[Check]:
    import http.client

    named = settings.get("HEADGATE_REGISTRY", "")
    if not named:
        yield Check("registry", SKIP, "the controller is not installed, or was told of none")
        return
    host = named.partition("/")[0]
    plain = settings.get("HEADGATE_REGISTRY_INSECURE") == "1"
    connection = (http.client.HTTPConnection if plain else http.client.HTTPSConnection)(host, timeout=10)
    try:
        connection.request("GET", "/v2/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        yield Check("registry", WARN, f"{host} does not answer from here: {error}", "builds may reach it all the same")
        return
    finally:
        connection.close()
    if status in (200, 401):
        yield Check("registry", OK, f"{host} answers{'' if status == 200 else ' and wants credentials'}")
    else:
        yield Check("registry", WARN, f"{host} answers {status} to /v2/", "registry.url is HOST/PATH of a registry")


def pools(found: Cluster) -> Iterator[Check]:
    from headgate_kit.kube.kinds import NODE

    nodes, _ = found.list(NODE)
    counted: Counter[str] = Counter()
    gpus: Counter[str] = Counter()
    for node in nodes:
        pool = (node["metadata"].get("labels") or {}).get("headgate.dev/pool", "")
        counted[pool] += 1
        free = (node.get("status") or {}).get("allocatable") or {}
        gpus[pool] += sum(int(v) for k, v in free.items() if "/" in k and "gpu" in k and str(v).isdigit())
    for pool, count in sorted(counted.items()):
        shown = f"{count} node{'s' if count > 1 else ''}, {gpus[pool]} GPUs"
        yield Check(f"pool {pool or '(no label headgate.dev/pool)'}", OK, shown)


def models(found: Cluster, settings: Mapping[str, str]) -> Iterator[Check]:
    """How routers meet them: as each revision was made, and whether routers can."""
    from headgate_kit.kube.kinds import DEPLOYMENT

    deployments, _ = found.list(DEPLOYMENT, selector="headgate.dev/part=model,headgate.dev/purpose=serve")
    secured = [d for d in deployments if "headgate.dev/tls" in (d["metadata"].get("annotations") or {})]
    plain = sorted({d["metadata"]["name"] for d in deployments} - {d["metadata"]["name"] for d in secured})
    asked = settings.get("HEADGATE_MODELS_TLS_SECRET", "")
    if not secured and not asked:
        yield Check("models", OK, f"{len(plain)} revisions, met by plain HTTP (chart: models.tls)")
        return
    message = f"{len(secured)} of {len(deployments)} revisions are met by mutual TLS"
    router = found.get(DEPLOYMENT, "headgate-router")
    words = router["spec"]["template"]["spec"]["containers"][0].get("args") or () if router else ()
    if router is not None and not any(str(word).startswith("--models-tls=") for word in words):
        why = "routers were given no certificate for it"
        yield Check("models", FAIL, f"{message}, and {why}", "helm upgrade with models.tls.clientSecret")
    elif plain and asked:
        shown = ", ".join(plain[:5]) + (" and others" if plain[5:] else "")
        yield Check("models", WARN, f"{message}; not yet: {shown}", "each changes with its endpoint's next revision")
    else:
        yield Check("models", OK, message)


def argo(found: Cluster, settings: Mapping[str, str]) -> Iterator[Check]:
    try:
        argo_mode = importlib.import_module("headgate_pipelines.engines.argo.mode").argo_mode
    except ImportError:
        yield Check("argo", SKIP, "this Headgate has no engine argo")
        return
    mode = argo_mode(found, settings.get("HEADGATE_ARGO_STEPS", ""))
    wanted = settings.get("engine") == "argo"
    state = OK if mode.found else FAIL if wanted else SKIP
    yield Check("argo", state, f"light ops run as {mode.steps}: {mode.reason}")


def told(found: Cluster) -> dict[str, str]:
    """What the installed controller was started with: its environment, and two of its arguments."""
    from headgate_kit.kube.kinds import DEPLOYMENT

    deployment = found.get(DEPLOYMENT, "headgate-controller")
    if deployment is None:
        return {}
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    given = {e["name"]: str(e.get("value", "")) for e in container.get("env") or ()}
    words = [str(word) for word in container.get("args") or ()]
    given["engine"] = next((w.partition("=")[2] for w in words if w.startswith("--engine=")), "local")
    given["resources"] = str("--resources" in words).lower()
    return given

"""A thousand endpoints on a real API server, a hundred of them rolling out: what one controller needs for them.

Pods are said to run by a stub kubelet, and a stub router worker counts requests for those that roll out; everything
else is real: the repo, the record, the builds of the hundred, the objects, the watches, what is judged. The thousand
are recorded as released when the controller starts, as after a restart. CPU seconds are the controller's own: on a
machine that others use too they say more than the clock does.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from bench.cluster.kubelet import POOL, StubNode
from bench.cluster.worker import StubWorker
from bench.control import repos
from bench.control.measure import Measured, cpu_s, memory_mb
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from headgate.control import EndpointStatus, SystemStatus
from headgate.findings import HeadgateError
from headgate.ports import Tree
from headgate.reading import read_all, read_settings
from headgate.rollout import Head, Release, RevisionState
from headgate.target import Target
from headgate.workload import Artifact
from headgate_console.connect import Control
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.repo import EndpointsRepo
from headgate_kit import child
from headgate_kit.files import write_atomic
from headgate_kit.kube import Cluster
from headgate_kit.kube.kinds import Kind
from headgate_kit.layout import DataFolder

WATCHED_S = 45.0  # how long it is watched at rest, and with some of them rolling
WITHIN_S = 900.0  # for all Deployments to be made and seen; a cluster's own controllers make about four a second
ASKED_EVERY_S = 3.0  # what a status of a thousand costs is not what is measured
GONE_S = 180.0  # for the namespace to go
ENDED = ("failed", "aborted")
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
ARTIFACT = Artifact("sha256:" + "0" * 64, "/opt/headgate/bundle", image="registry.invalid/models@sha256:" + "0" * 64)
SETTINGS = f"instance_types:\n  standard_ds3_v2: {{cpus: 0.1, memory_gb: 0.1, node_pool: {POOL}}}\n"
ROLLOUT = "mirror: {percent: 20, soak: 1h}\nmax_soak: 2h\nmin_requests: 100\ngates:\n  error-rate: {}\n"
CRDS = Path(__file__).parents[2] / "install" / "crds"
DEFINITION = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)


def many(endpoints: int, rolling: int) -> list[Measured]:
    """Args:
    endpoints: recorded as released before the controller starts.
    rolling: of them, how many get a candidate.
    """
    namespace = f"headgate-bench-{os.getpid()}"
    cluster = Cluster.connect(namespace)
    for file in sorted(CRDS.glob("*.yaml")):
        cluster.apply(DEFINITION, yaml.safe_load(file.read_text()))
    cluster.create(NAMESPACE, {"metadata": {"name": namespace}})
    try:
        with tempfile.TemporaryDirectory() as folder, StubNode(cluster, f"stub-{os.getpid()}"), _emptied(cluster):
            return _measure(Path(folder), namespace, endpoints, rolling)
    finally:
        cluster.close()


@contextmanager
def _emptied(cluster: Cluster) -> Iterator[None]:
    """Takes the namespace away, with everything in it, while there is still a node to say that its pods ended."""
    try:
        yield
    finally:
        cluster.delete(NAMESPACE, cluster.namespace)
        deadline = time.monotonic() + GONE_S
        while cluster.get(NAMESPACE, cluster.namespace) is not None and time.monotonic() < deadline:
            time.sleep(1.0)


def _measure(folder: Path, namespace: str, endpoints: int, rolling: int) -> list[Measured]:
    origin = repos.make(folder / "origin.git", endpoints)
    repos.commit(origin, {"headgate.yml": SETTINGS}, "a node pool")
    data = DataFolder(folder / "data")
    data.prepare()
    seed(data, origin)
    with controller(data, origin, namespace) as running, StubWorker(lambda: Control(data)):
        began = time.monotonic()
        running.until("all endpoints to be served", lambda s: sum(map(_served, s.endpoints)) == endpoints)
        taken_up, taken_cpu = time.monotonic() - began, running.cpu() / endpoints
        _say(f"{endpoints} endpoints are served after {taken_up:.0f} s")
        idle, idle_share = running.watch(WATCHED_S)
        before, cpu = running.requests(), running.cpu()
        began = time.monotonic()
        running.commit_candidates(origin, rolling)
        running.until("the candidates to be mirrored to", lambda s: sum(map(_mirroring, s.endpoints)) == rolling)
        took, requests = time.monotonic() - began, (running.requests() - before) / rolling
        rolled_cpu = (running.cpu() - cpu) / rolling
        _say(f"{rolling} candidates are mirrored to after {took:.0f} s")
        busy, busy_share = running.watch(WATCHED_S)
        memory = memory_mb(running.process.pid)
    all_of, some = f"{endpoints:,} endpoints", f"{rolling} of {endpoints:,} endpoints rolling"
    return [
        Measured("endpoints_1k_taken_up_s", round(taken_up, 1), f"{all_of}: Deployments made and seen ready"),
        Measured("controller_cpu_s_per_endpoint_taken_up", round(taken_cpu, 4), f"{all_of}: start included"),
        Measured("controller_core_share_1k", round(idle_share, 4), f"{all_of} at rest: CPU seconds a second"),
        Measured("reconcile_p99_s_1k", idle, f"{all_of} at rest: from due to done", 1.0),
        Measured("rolling_100_to_mirror_s", round(took, 1), f"{some}: from the commit to the last one mirrored to"),
        Measured("controller_cpu_s_per_rollout", round(rolled_cpu, 4), f"{some}: CPU seconds, from commit to mirror"),
        Measured("api_requests_per_rollout", round(requests, 1), f"{some}: to the API server, from commit to mirror"),
        Measured(
            "controller_core_share_1k_100_rolling", round(busy_share, 4), f"{some}: CPU seconds a second, judging"
        ),
        Measured("reconcile_p99_s_1k_100_rolling", busy, f"{some}: from due to done", 1.0),
        Measured("controller_mb_1k_100_rolling", memory, f"{some}: resident memory of the controller, MiB", 300),
    ]


def seed(data: DataFolder, origin: Path) -> None:
    """Records every endpoint of the repo as released."""
    repo = EndpointsRepo(str(origin), data.mirror, "main")
    repo.fetch()
    tree = repo.tree(repo.head())
    record = SqliteRecord(data.record)
    for name, target in _targets(tree).items():
        record.commit(name, released(target), (), 0)
    record.close()
    repo.close()


def _targets(tree: Tree) -> Mapping[str, Target]:
    settings, found_in = read_settings(tree)
    assert not found_in, found_in
    found = {name: reading.target for name, reading in read_all(tree, settings).items()}
    return {name: target for name, target in found.items() if target is not None}


def released(target: Target) -> Head:
    now = time.time()
    states = {
        revision: RevisionState(d, target.commit, ARTIFACT, running=True, smoked=True, known_good=True, asked_at=now)
        for revision, d in target.revisions.items()
    }
    return Head(
        target.endpoint,
        target.commit,
        asked=target,
        traffic=dict(target.traffic),
        revisions=states,
        releases=(Release(target, now),),
    )


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    data: DataFolder
    log: Path

    def until(self, what: str, holds: Callable[[SystemStatus], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        control, said = Control(self.data), ""
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                found = control.system()
            except HeadgateError:
                time.sleep(1.0)  # not up yet: asked again
                continue
            if holds(found):
                return
            if lost := [e for e in found.endpoints if e.rollout is not None and e.rollout.state in ENDED]:
                raise SystemExit(f"waited for {what}; {len(lost)} rollouts ended:\n{self._why(lost[0])}")
            said = str(Counter(e.state for e in found.endpoints))
            time.sleep(ASKED_EVERY_S)
        words = self.log.read_text()[-3000:]
        raise SystemExit(f"waited for {what}; it came to {said}; the controller's last words:\n{words}")

    def _why(self, lost: EndpointStatus) -> str:
        assert lost.rollout is not None
        words = [file.read_text()[-1000:] for file in sorted(self.data.ops.glob(f"{lost.rollout.id}/*/*/stderr"))]
        return "\n".join([f"{lost.name}: {lost.rollout.message}", *words])

    def cpu(self) -> float:
        return cpu_s(self.process.pid)

    def watch(self, seconds: float) -> tuple[float, float]:
        """The 0.99 quantile of the time from due to done, in seconds: the upper end of its bucket; and the share of a
        core that the controller took."""
        before, cpu, began = self._buckets(), self.cpu(), time.monotonic()
        time.sleep(seconds)
        share = (self.cpu() - cpu) / (time.monotonic() - began)
        after = self._buckets()
        counts = {le: after[le] - before.get(le, 0.0) for le in after}
        total = counts[math.inf]
        return next(le for le in sorted(counts) if counts[le] >= 0.99 * total), share

    def requests(self) -> float:
        """To the API server so far."""
        return sum(s.value for s in self._samples("headgate_cluster_requests") if s.name.endswith("_total"))

    def _buckets(self) -> dict[float, float]:
        found = self._samples("headgate_reconcile_seconds")
        return {float(s.labels["le"]): s.value for s in found if s.name.endswith("_bucket")}

    def _samples(self, name: str) -> list[Sample]:
        url = json.loads(self.data.control.read_text())["url"]
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return next(family.samples for family in families if family.name == name)

    def commit_candidates(self, origin: Path, rolling: int) -> None:
        changed = {}
        for number in range(rolling):
            name = repos.endpoint_name(number)
            folder = f"endpoints/{name}"
            changed[f"{folder}/endpoint.yml"] = repos.ENDPOINT.format(name=name, traffic="{green: 100}")
            deployment = repos.DEPLOYMENT.format(name=name, deployment="green")
            changed[f"{folder}/deployments/green.yml"] = deployment.replace(
                "conda_file: ../conda.yml", "conda_file: ../empty.yml"
            )
            changed[f"{folder}/empty.yml"] = "dependencies: []\n"
            changed[f"{folder}/rollout.yml"] = ROLLOUT
        repos.commit(origin, changed, "a hundred candidates")


@contextmanager
def controller(data: DataFolder, origin: Path, namespace: str) -> Any:
    argv = [sys.executable, "-m", "headgate_controllers", "--data", str(data.root), "--repo", str(origin)]
    argv += ["--platform", "kubernetes", "--engine", "local", "--resources"]
    log = data.root / "controller.log"
    with log.open("wb") as words:
        env = {**os.environ, "KUBECONFIG": str(kubeconfig(data.root, namespace)), "HEADGATE_BUILDER": "oci"}
        process = subprocess.Popen(argv, env=env, stdout=words, stderr=words)
    try:
        yield Running(process, data, log)
    finally:
        process.terminate()
        process.wait(60)
        _end_ops(data)


def _end_ops(data: DataFolder) -> None:
    """They outlive their controller, as they should; here nobody comes after it."""
    with ThreadPoolExecutor(16) as several:
        for file in data.ops.rglob("pid.json"):
            several.submit(child.stop, file.parent, grace_s=1.0)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def kubeconfig(folder: Path, namespace: str) -> Path:
    """The one we were given, with this namespace in every context."""
    known = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    for context in known["contexts"]:
        context["context"]["namespace"] = namespace
    write_atomic(folder / "kubeconfig", json.dumps(known).encode(), mode=0o600)
    return folder / "kubeconfig"


def _served(status: EndpointStatus) -> bool:
    return any(row.ready == row.instances for row in status.revisions)


def _mirroring(status: EndpointStatus) -> bool:
    return status.state == "Mirroring"

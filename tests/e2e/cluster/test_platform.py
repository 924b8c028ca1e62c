"""The platform of a cluster on a real one: real pods, real probes, real answers.

Turn on with HEADGATE_E2E=cluster, KUBECONFIG, and HEADGATE_E2E_RUNNER=IMAGE: an image with Python in which
`headgate_serving` can be imported, pullable by the cluster's nodes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml

from headgate.findings import ConflictError
from headgate.testing import PLATFORM, Check, PlatformCase
from headgate.workload import Launch, Load, ReplicaState, Scaling, Workload, object_name
from headgate_controllers.platforms.kubernetes import KubernetesPlatform
from headgate_kit.kube import Cluster
from headgate_kit.kube.kinds import AUTOSCALER, DEFINITION, DEPLOYMENT, POD, SCALED_OBJECT
from installation import NAMESPACE, POOL, RUNNER, needs
from kubeserver import wait_for

PATIENCE_S = 120.0

pytestmark = needs("HEADGATE_E2E_RUNNER")

# A replica as an image of a bundle has it, but for the bundle, which it writes itself: the real front and worker.
REPLICA = """
import json, os, pathlib, sys
root = pathlib.Path("/tmp/bundle")
(root / "code/src").mkdir(parents=True, exist_ok=True)
(root / "code/src/score.py").write_text("def init(): ...\\ndef run(data): return 1\\n")
(root / "bundle.json").write_text(json.dumps({"code": "code/src", "scoring_script": "score.py"}))
os.environ["HEADGATE_SERVE"] = json.dumps({"bundle": str(root), "interpreter": sys.executable})
os.execv(sys.executable, [sys.executable, "-P", "-m", "headgate_serving.front"])
"""


def workload(revision: str) -> Workload:
    launch = Launch(("python", "-c", REPLICA))
    return Workload("fraud", "blue", revision, 1, launch, image=RUNNER, memory_mb=256, node_pool=POOL)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"hg-e2e-{uuid.uuid4().hex[:8]}"
    cluster = Cluster.connect("default")
    cluster.create(NAMESPACE, {"metadata": {"name": name}})
    yield name
    cluster.delete(NAMESPACE, name)
    cluster.close()


@pytest.fixture
def platform(namespace: str) -> Iterator[KubernetesPlatform]:
    platform = KubernetesPlatform(cluster=Cluster.connect(namespace))
    platform.start()
    yield platform
    cluster = Cluster.connect(namespace)
    for item in cluster.list(DEPLOYMENT)[0]:
        cluster.delete(DEPLOYMENT, item["metadata"]["name"])
    for item in cluster.list(POD)[0]:
        cluster.delete(POD, item["metadata"]["name"], grace_s=0)
    wait(lambda: not cluster.list(POD)[0])
    cluster.close()
    platform.close()


def wait(condition: Callable[[], bool]) -> None:
    wait_for(condition, PATIENCE_S)


@pytest.mark.parametrize("check", PLATFORM, ids=str)
def test_pods_of_a_real_cluster(check: Check[PlatformCase], platform: KubernetesPlatform) -> None:
    check(PlatformCase(platform, workload, wait))


def test_a_replica_answers_and_an_upgraded_controller_restarts_none(
    platform: KubernetesPlatform, namespace: str
) -> None:
    platform.apply(workload("r1"))
    (replica,) = PlatformCase(platform, workload, wait).ready("r1", 1)
    assert httpx.post(f"{replica.address}/score", json={}, trust_env=False).json() == 1
    assert b"the model is ready" in b"".join(platform.logs(replica))
    cluster = Cluster.connect(namespace)
    name = object_name("fraud", "r1")
    before = cluster.get(DEPLOYMENT, name)
    assert before is not None
    later = KubernetesPlatform(cluster=Cluster.connect(namespace))
    later.start()
    changed = replace(workload("r1"), launch=Launch(("python", "-m", "a.later.front"), {"NEW": "1"}))
    later.apply(replace(changed, replicas=2))
    wait(lambda: (cluster.get(DEPLOYMENT, name) or before)["spec"]["replicas"] == 2)
    later.apply(changed)
    wait(lambda: (cluster.get(DEPLOYMENT, name) or before)["spec"]["replicas"] == 1)
    after = cluster.get(DEPLOYMENT, name)
    assert after is not None
    assert after["spec"] == before["spec"]
    wait(lambda: list(later.observe("fraud")) == [replica])
    assert replica.state is ReplicaState.READY
    later.close()
    cluster.close()


@pytest.fixture
def keda() -> Iterator[None]:
    """The kind ScaledObject is served: KEDA's own, or a definition of ours that is taken away again."""
    cluster = Cluster.connect("default")
    definition = yaml.safe_load((Path(__file__).parent / "crds/keda.yml").read_text("utf-8"))
    name = definition["metadata"]["name"]
    try:
        cluster.create(DEFINITION, definition)
        made = True
    except ConflictError:
        made = False

    def served() -> bool:
        conditions = ((cluster.get(DEFINITION, name) or {}).get("status") or {}).get("conditions") or ()
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    wait(served)
    yield
    if made:
        cluster.delete(DEFINITION, name)
        wait(lambda: cluster.get(DEFINITION, name) is None)
    cluster.close()


def test_a_cluster_without_keda_says_so_and_replicas_run(platform: KubernetesPlatform, namespace: str) -> None:
    cluster = Cluster.connect("default")
    if cluster.get(DEFINITION, "scaledobjects.keda.sh") is not None:
        pytest.skip("KEDA is installed in this cluster: take its definitions away to see what is said without")
    asked = replace(workload("r9"), scaling=Scaling(1, 3), load=Load("http://prometheus:9090", 4))
    platform.apply(asked)
    wait(lambda: [r.state for r in platform.observe("fraud")] == [ReplicaState.READY])
    wait(lambda: [f.code for f in platform.findings()] == ["keda-missing"])
    platform.apply(replace(asked, load=None))
    here = Cluster.connect(namespace)
    wait(lambda: here.get(AUTOSCALER, object_name("fraud", "r9")) is not None)
    wait(lambda: platform.findings() == ())
    here.close()
    cluster.close()


def test_keda_scales_a_revision_beside_no_autoscaler_and_back(
    keda: None, platform: KubernetesPlatform, namespace: str
) -> None:
    cluster, name = Cluster.connect(namespace), object_name("fraud", "r8")
    scaled = replace(workload("r8"), scaling=Scaling(1, 3))
    by_requests = replace(scaled, load=Load("http://prometheus:9090", 4))
    platform.apply(scaled)
    wait(lambda: [r.state for r in platform.observe("fraud")] == [ReplicaState.READY])
    wait(lambda: cluster.get(AUTOSCALER, name) is not None)
    (pod,) = [item["metadata"]["uid"] for item in cluster.list(POD)[0]]
    for asked, other, kind in ((by_requests, AUTOSCALER, SCALED_OBJECT), (scaled, SCALED_OBJECT, AUTOSCALER)):
        platform.apply(asked)
        wait(lambda kind=kind: cluster.get(kind, name) is not None)  # type: ignore[misc]
        wait(lambda other=other: cluster.get(other, name) is None)  # type: ignore[misc]
    platform.apply(by_requests)
    wait(lambda: cluster.get(SCALED_OBJECT, name) is not None)
    assert [item["metadata"]["uid"] for item in cluster.list(POD)[0]] == [pod], "no pod is restarted for it"
    platform.remove("fraud", "r8")
    wait(lambda: cluster.get(SCALED_OBJECT, name) is None)  # it goes with its Deployment
    cluster.close()

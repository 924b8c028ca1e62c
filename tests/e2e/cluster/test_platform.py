"""The platform of a cluster on a real one: real pods, real probes, real answers.

Turn on with HEADGATE_E2E=cluster, KUBECONFIG, and HEADGATE_E2E_RUNNER=IMAGE: an image with Python in which
`headgate_serving` can be imported, pullable by the cluster's nodes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import pytest

from headgate.testing import PLATFORM, Check, PlatformCase
from headgate.workload import Launch, ReplicaState, Workload, object_name
from headgate_controllers.platforms.kubernetes import KubernetesPlatform
from headgate_kit.kube import Cluster
from headgate_kit.kube.kinds import DEPLOYMENT, POD
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

"""What goes wrong on a real cluster is said in words a person can act on, and given up within a stated time.

Turn on with HEADGATE_E2E=cluster, KUBECONFIG, and HEADGATE_E2E_RUNNER=IMAGE, as for test_platform.py. A pool with the
label headgate.dev/pool=$HEADGATE_E2E_GPU_POOL (gpu when it is not set) needs a free `nvidia.com/gpu`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from headgate import capacity
from headgate.capacity import Answer, Need
from headgate.workload import Launch, Replica, ReplicaState, SecretKey, Workload
from headgate_controllers.platforms.kubernetes import KubernetesPlatform
from headgate_controllers.platforms.kubernetes.pods import Patience
from headgate_kit.kube import Cluster, Kind
from headgate_kit.kube.kinds import DEPLOYMENT, POD, RESOURCE_QUOTA, SECRET
from installation import GPU_POOL, NAMESPACE, POOL, RUNNER, needs
from kubeserver import wait_for

POLICY = Kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", False)
BINDING = Kind(
    "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", False
)
SOON = Patience(image_s=5, config_s=5, node_s=5, refused_s=5)
WITHIN_S = 60.0

pytestmark = needs("HEADGATE_E2E_RUNNER")

# Answers every path with 200: enough for the probes.
ANSWERS = """
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
http.server.ThreadingHTTPServer(("", 8080), H).serve_forever()
"""
EATS = "print('loading', flush=True); kept = [bytearray(1 << 20) for _ in range(4096)]"
DIES = "import sys; sys.exit('headgate: there is no model')"


def workload(script: str = ANSWERS, **more: object) -> Workload:
    launch = Launch(("python", "-c", script))
    asked = Workload("fraud", "blue", "r1", 1, launch, image=RUNNER, memory_mb=64, node_pool=POOL)
    return replace(asked, **more)  # type: ignore[arg-type]


class Desk:
    def __init__(self, namespace: str) -> None:
        self.cluster = Cluster.connect(namespace)
        self.platform = KubernetesPlatform(cluster=Cluster.connect(namespace), patience=SOON)
        self.platform.start()

    def wait(self, condition: Callable[[list[Replica]], bool], within_s: float = WITHIN_S) -> list[Replica]:
        wait_for(lambda: condition(list(self.platform.observe("fraud"))), within_s)
        return list(self.platform.observe("fraud"))

    def given_up(self) -> str:
        (found,) = self.wait(lambda r: [x.state for x in r] == [ReplicaState.FAILED])
        return found.message

    def close(self) -> None:
        self.platform.close()
        self.cluster.delete(NAMESPACE, self.cluster.namespace)
        self.cluster.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    name = f"hg-e2e-{uuid.uuid4().hex[:8]}"
    cluster = Cluster.connect("default")
    cluster.create(NAMESPACE, {"metadata": {"name": name, "labels": {"headgate.dev/test": name}}})
    cluster.close()
    made = Desk(name)
    yield made
    made.close()


def test_a_pod_that_somebody_deletes_is_replaced_at_its_place(desk: Desk) -> None:
    desk.platform.apply(workload(replicas=2))
    first, second = desk.wait(lambda r: [x.state for x in r] == [ReplicaState.READY] * 2)
    began = time.monotonic()
    desk.cluster.delete(POD, first.logs["inference-server"])
    found = desk.wait(lambda r: len(r) == 2 and first not in r and [x.state for x in r] == [ReplicaState.READY] * 2)
    print(f"a deleted pod was replaced and ready within {time.monotonic() - began:.1f} s")
    assert found[1] == second, "the other is left alone"


def test_an_image_that_cannot_be_pulled(desk: Desk) -> None:
    desk.platform.apply(workload(image=RUNNER.partition("@")[0] + "@sha256:" + "0" * 64))
    assert "its image cannot be pulled" in desk.given_up()


def test_a_replica_that_needs_more_memory_than_its_type_has(desk: Desk) -> None:
    desk.platform.apply(workload(EATS))
    (found,) = desk.wait(lambda r: bool(r) and "OOM" in r[0].message)
    assert found.message.startswith("OOM: it needed more than its limit of 64Mi; choose a larger instance type")
    assert "OOM" in desk.given_up()


def test_a_replica_that_dies_says_its_last_words(desk: Desk) -> None:
    desk.platform.apply(workload(DIES))
    (found,) = desk.wait(lambda r: bool(r) and "ended with" in r[0].message)
    assert found.message.splitlines()[0] == "ended with code 1: there is no model"


def test_a_secret_that_is_not_there_is_named_and_waited_for(desk: Desk) -> None:
    script = ANSWERS.replace("import http.server", "import http.server, os; assert os.environ['DB'] == 'there'")
    desk.platform.apply(workload(script, secrets={"DB": SecretKey("db", "url")}))
    text = desk.given_up()
    assert "it cannot be started" in text
    assert '"db" not found' in text
    desk.cluster.create(SECRET, {"metadata": {"name": "db"}, "data": {"url": "dGhlcmU="}})
    desk.wait(lambda r: [x.state for x in r] == [ReplicaState.READY])


def test_more_gpus_than_any_node_has(desk: Desk) -> None:
    desk.platform.apply(workload(gpus=1_000, node_pool=GPU_POOL))
    text = desk.given_up()
    assert text.startswith("no node takes it")
    assert "Insufficient nvidia.com/gpu" in text
    found = desk.platform.inventory()
    assert found is not None
    fit = capacity.fit(found, [Need("fraud/blue", 1, {"nvidia.com/gpu": 1_000.0}, GPU_POOL)])
    assert (fit.answer, "nvidia.com/gpu" in fit.text) == (Answer.REFUSE, True), "and the controller says so before"


def test_a_gpu_is_given_on_the_tainted_pool(desk: Desk) -> None:
    desk.platform.apply(workload(gpus=1, node_pool=GPU_POOL))
    (found,) = desk.wait(lambda r: [x.state for x in r] == [ReplicaState.READY])
    pod = desk.cluster.get(POD, found.logs["inference-server"])
    assert pod is not None
    node = desk.cluster.get(Kind("v1", "Node", "nodes", namespaced=False), pod["spec"]["nodeName"])
    assert node is not None
    assert node["metadata"]["labels"]["headgate.dev/pool"] == GPU_POOL


def test_a_quota_that_is_used_up(desk: Desk) -> None:
    desk.cluster.create(RESOURCE_QUOTA, {"metadata": {"name": "team"}, "spec": {"hard": {"requests.memory": "100Mi"}}})
    wait_for(lambda: "used" in (desk.cluster.get(RESOURCE_QUOTA, "team") or {}).get("status", {}), WITHIN_S)
    desk.platform.apply(workload(replicas=2))
    found = desk.wait(lambda r: len(r) == 2 and r[1].state is ReplicaState.FAILED)
    assert "exceeded quota: team" in found[1].message
    desk.cluster.patch(RESOURCE_QUOTA, "team", {"spec": {"hard": {"requests.memory": "1Gi"}}})
    desk.platform.apply(workload(replicas=3))  # a Deployment that is asked for more tries at once
    desk.wait(lambda r: [x.state for x in r] == [ReplicaState.READY] * 3)


@pytest.mark.parametrize(
    ("resource", "group"), [("pods", ""), ("deployments", "apps")], ids=["its pods", "its Deployment"]
)
def test_an_admission_rule_that_refuses(desk: Desk, resource: str, group: str) -> None:
    name = desk.cluster.namespace
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": "the team says no"}],
    }
    here = {"namespaceSelector": {"matchLabels": {"headgate.dev/test": name}}}
    desk.cluster.create(POLICY, {"metadata": {"name": name}, "spec": spec})
    bound = {"policyName": name, "validationActions": ["Deny"], "matchResources": here}
    desk.cluster.create(BINDING, {"metadata": {"name": name}, "spec": bound})
    try:
        probe = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": RUNNER}]}}
        if resource == "pods":
            wait_for(lambda: not _taken(desk.cluster, POD, probe), WITHIN_S)
        else:
            template = {"metadata": {"labels": {"a": "b"}}, "spec": probe["spec"]}
            body = {"metadata": {"name": "probe"}, "spec": {"replicas": 0, "template": template,
                    "selector": {"matchLabels": {"a": "b"}}}}  # fmt: skip
            wait_for(lambda: not _taken(desk.cluster, DEPLOYMENT, body), WITHIN_S)
        desk.platform.apply(workload())
        assert "the team says no" in desk.given_up()
    finally:
        desk.cluster.delete(BINDING, name)
        desk.cluster.delete(POLICY, name)
    desk.wait(lambda r: [x.state for x in r] == [ReplicaState.READY])


def _taken(cluster: Cluster, kind: Kind, body: dict[str, object]) -> bool:
    """Whether the cluster takes it still: a new rule needs a moment to be in force."""
    from headgate.findings import TerminalError

    try:
        cluster.create(kind, body)
    except TerminalError:
        return False
    cluster.delete(kind, "probe", grace_s=0)
    return True

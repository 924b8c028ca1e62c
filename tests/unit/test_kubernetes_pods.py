"""What a pod's status means: a state, and words a person can act on, within a stated time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from headgate.fault import Fault
from headgate.workload import NOT_SET_UP, Replica, ReplicaState
from headgate_controllers.platforms.kubernetes import pods
from headgate_controllers.platforms.kubernetes.pods import Patience
from kubenodes import condition, running, waiting

NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
OOM = {"reason": "OOMKilled", "exitCode": 137, "message": "loading\n\nheadgate: the model is ready\n"}
LABELS = {
    "headgate.dev/endpoint": "fraud",
    "headgate.dev/deployment": "blue",
    "headgate.dev/revision": "r1",
    "headgate.dev/purpose": "serve",
}
STARTING, READY, UNREADY = ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNREADY
FAILED, RESTARTING = ReplicaState.FAILED, ReplicaState.RESTARTING


def pod(status: dict[str, Any], **annotations: str) -> dict[str, Any]:
    meta = {"name": "fraud-r1-x", "labels": LABELS, "annotations": annotations}
    return {"metadata": meta, "spec": {"nodeName": "gpu-1"}, "status": status}


def seen(status: dict[str, Any], after_s: float = 1.0, *, ever_ready: bool = False) -> Replica:
    return pods.replica(
        pod(status, **{"headgate.dev/ready-within-s": "30"}), 0, NOW + after_s, Patience(), ever_ready=ever_ready
    )


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        condition(
            "PodScheduled", "False", reason="Unschedulable", message="0/2 nodes: 2 Insufficient nvidia.com/gpu.",
            at="2026-01-01T00:00:00Z",
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "within_s", "words", "fault"),
    [
        pytest.param(UNSCHEDULABLE, 600, ("no node takes it", "Insufficient nvidia.com/gpu"), None, id="unschedulable"),
        pytest.param(
            waiting("ImagePullBackOff", "gone"), 120, ("image cannot be pulled", "gone"), Fault.IMAGE, id="back-off"
        ),
        pytest.param(waiting("ErrImagePull", "401"), 120, ("pulled", "401", "credentials"), Fault.IMAGE, id="image"),
        pytest.param(
            waiting("CreateContainerConfigError", 'secret "k" not found'), 60, ("be started", '"k"'), None, id="secret"
        ),
        pytest.param(running(ready=False), 30, ("/ready does not answer 200",), None, id="never ready"),
    ],
)
def test_one_that_was_never_ready_is_given_up_within_a_stated_time(
    status: dict[str, Any], within_s: float, words: tuple[str, ...], fault: Fault | None
) -> None:
    assert (seen(status, within_s - 1).state, seen(status, within_s - 1).fault) == (STARTING, None)
    given_up = seen(status, within_s)
    assert (given_up.state, given_up.fault) == (FAILED, fault)
    assert all(word in given_up.message for word in words)


@pytest.mark.parametrize("status", [UNSCHEDULABLE, waiting("ImagePullBackOff")], ids=["unschedulable", "image"])
def test_one_that_was_ready_is_waited_for(status: dict[str, Any]) -> None:
    assert seen(status, 100_000, ever_ready=True).state is STARTING


def test_what_is_wrong_is_said_long_before_it_is_given_up() -> None:
    assert "no node takes it" in seen(UNSCHEDULABLE).message


def test_an_image_without_a_name_is_given_up_at_once() -> None:
    found = seen(waiting("InvalidImageName", "couldn't parse"))
    assert (found.state, "`registry/model` is no name" in found.message) == (FAILED, True)


@pytest.mark.parametrize(("restarts", "expected"), [(0, RESTARTING), (1, RESTARTING), (2, FAILED)])
def test_the_third_death_without_ever_being_ready_is_the_last(restarts: int, expected: ReplicaState) -> None:
    found = seen(waiting("CrashLoopBackOff", restarts=restarts, last=OOM))
    assert (found.state, found.restarts) == (expected, restarts)
    assert seen(waiting("CrashLoopBackOff", restarts=9, last=OOM), ever_ready=True).state is RESTARTING


@pytest.mark.parametrize(("code", "fault"), [(NOT_SET_UP, Fault.CERTIFICATES), (3, None)], ids=["its files", "model"])
def test_a_front_that_lacks_its_certificate_is_told_from_one_whose_model_does_not_load(
    code: int, fault: Fault | None
) -> None:
    ended = {"exitCode": code, "message": "headgate: not started: /tls has no tls.crt"}
    for status in (waiting("CrashLoopBackOff", restarts=2, last=ended), running(ready=False, restarts=3)):
        status["containerStatuses"][0]["lastState"] = {"terminated": ended}
        assert (seen(status).state, seen(status).fault) == (FAILED, fault)


def test_one_that_was_given_up_stays_so_while_it_tries_again() -> None:
    status = running(ready=False, restarts=3)
    status["containerStatuses"][0]["lastState"] = {"terminated": OOM}
    assert seen(status).state is FAILED
    assert seen(running(restarts=3)).state is READY


@pytest.mark.parametrize(
    ("terminated", "said"),
    [
        pytest.param(
            OOM,
            [
                "OOM: it needed more than its limit of 512Mi; choose a larger instance type",
                "loading",
                "headgate: the model is ready",
            ],
            id="memory",
        ),
        pytest.param({"exitCode": 3, "message": "headgate: no model\n"}, ["ended with code 3: no model"], id="code"),
        pytest.param(
            {"exitCode": 1, "message": "old\nheadgate: once\nTraceback\n\nheadgate: no model\n"},
            ["ended with code 1: no model", "Traceback"],
            id="its last start",
        ),
        pytest.param({"exitCode": 137, "signal": 9}, ["killed by signal 9"], id="signal"),
        pytest.param({"exitCode": 1}, ["ended with code 1"], id="silent"),
    ],
)
def test_a_death_is_told_with_the_end_of_its_log(terminated: dict[str, Any], said: list[str]) -> None:
    container = {"resources": {"limits": {"memory": "512Mi"}}}
    assert pods.why_died(container, terminated).splitlines() == said


def test_a_ready_one_has_an_address_and_no_message() -> None:
    found = seen(running("10.1.2.3"))
    assert (found.state, found.address, found.message) == (READY, "http://10.1.2.3:8080", "")
    assert seen(running("fd00::1")).address == "http://[fd00::1]:8080"


def test_one_that_was_ready_and_does_not_answer_is_unready() -> None:
    assert seen(running(ready=False), 100_000, ever_ready=True).state is UNREADY


def test_one_whose_node_is_silent_says_which() -> None:
    status = running()
    status["conditions"] = [condition("Ready", "False")]
    found = seen(status, ever_ready=True)
    assert (found.state, found.message) == (UNREADY, "its node gpu-1 does not answer")


def test_a_pod_of_somebody_else_is_not_ours() -> None:
    assert pods.key_of({"metadata": {"name": "x", "labels": {"app": "x"}}}) is None
    assert pods.key_of({"metadata": {"name": "x", "labels": {**LABELS, "headgate.dev/purpose": "?"}}}) is None


def deployment(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "fraud-r1"}, "spec": {}, "status": {"conditions": list(conditions)}}


REFUSED = condition(
    "ReplicaFailure", "True", message='pods "x" is forbidden: exceeded quota: team', at="2026-01-01T00:00:00Z"
)
DENIED = condition("ReplicaFailure", "True", message="admission denied the request: no label `owner`")
AVAILABLE = condition("Progressing", "True", reason="NewReplicaSetAvailable")


def test_a_pod_that_the_cluster_does_not_make_is_given_up_after_a_minute_with_its_words() -> None:
    state, text, _ = pods.missing(deployment(REFUSED), [], NOW + 59, Patience())
    assert state is STARTING
    assert text.endswith("exceeded quota: team; raise the quota, or ask for less")
    assert pods.missing(deployment(DENIED), [], NOW, Patience())[1].endswith(
        "; change what the rule asks for, or the rule"
    )
    assert pods.missing(deployment(REFUSED), [], NOW + 60, Patience())[::2] == (FAILED, None)
    assert pods.missing(deployment(REFUSED, AVAILABLE), [], NOW + 1e6, Patience())[0] is STARTING


def test_pods_that_are_lost_one_after_the_other_are_given_up() -> None:
    evicted = pod({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."})
    state, text, _ = pods.missing(deployment(), [evicted], NOW, Patience())
    assert (state, text) == (
        STARTING,
        "the one before it was lost: Evicted: The node was low on resource: memory.",
    )
    assert pods.missing(deployment(), [evicted] * 3, NOW, Patience())[0] is FAILED
    assert pods.missing(deployment(AVAILABLE), [evicted] * 3, NOW, Patience())[0] is STARTING


def test_a_webhook_that_does_not_answer_is_no_fault_of_the_deployment() -> None:
    said = 'Internal error occurred: failed calling webhook "pods.team": connection refused'
    away = condition("ReplicaFailure", "True", message=said, at="2026-01-01T00:00:00Z")
    assert pods.missing(deployment(away), [], NOW + 59, Patience())[::2] == (STARTING, None)
    assert pods.missing(deployment(away), [], NOW + 60, Patience())[::2] == (FAILED, Fault.WEBHOOK)


def fetching(state: dict[str, Any], last: dict[str, Any] | None = None, restarts: int = 0) -> dict[str, Any]:
    status = waiting("PodInitializing", "")
    one = {"name": "storage-initializer", "state": state, "lastState": last or {}, "restartCount": restarts}
    return {**status, "initContainerStatuses": [one]}


GONE = {"exitCode": 1, "message": "Traceback\nheadgate: the model churn:7 cannot be had: it is not what was pinned\n"}
RETRIES = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        pytest.param(fetching({"running": {}}), STARTING, "its model is being fetched", id="runs"),
        pytest.param(fetching({"terminated": GONE}), RESTARTING, "code 1: the model churn:7", id="failed"),
        pytest.param(fetching(RETRIES, {"terminated": GONE}, 1), RESTARTING, "the model churn:7", id="waits"),
        pytest.param(fetching({"running": {}}, {"terminated": GONE}, 1), STARTING, "the model churn:7", id="again"),
        pytest.param(fetching(RETRIES, {"terminated": GONE}, 2), FAILED, "the model churn:7", id="third"),
        pytest.param(fetching({"terminated": {"exitCode": 0}}), STARTING, "", id="fetched"),
        pytest.param(fetching({"waiting": {"reason": "ErrImagePull"}}), STARTING, "be pulled: ErrImagePull", id="pull"),
        pytest.param(fetching({"waiting": {"reason": "PodInitializing"}}), STARTING, "", id="not yet"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_told_with_the_end_of_its_log(
    status: dict[str, Any], state: ReplicaState, words: str
) -> None:
    found = seen(status)
    assert (found.state, words in found.message) == (state, True), found
    assert found.logs["storage-initializer"] == found.logs["inference-server"]
    assert "storage-initializer" not in seen(running()).logs


def test_a_store_of_models_that_is_away_is_told_from_a_model_that_changed() -> None:
    away = {"exitCode": NOT_SET_UP, "message": "headgate: connection refused\n"}
    assert seen(fetching(RETRIES, {"terminated": away}, 2)).fault is Fault.CATALOGUE
    assert seen(fetching(RETRIES, {"terminated": GONE}, 2)).fault is None

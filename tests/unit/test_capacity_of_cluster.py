"""What a cluster has, read from its objects; and who else has a claim on it when a rollout begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from headgate.capacity import Answer, Inventory, Node, Space
from headgate.draft import Draft
from headgate.findings import TerminalError, TransientError
from headgate.intent import accept
from headgate.process import InstanceType, Settings
from headgate.rollout import OpEnd, OpRecord
from headgate.target import DeploymentTarget
from headgate.testing import deployment, target
from headgate.workload import Purpose, Replica, ReplicaState
from headgate_controllers.capacity import SHARED_S, Capacity
from headgate_controllers.heads import Heads
from headgate_controllers.platforms.kubernetes import inventory
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_kit.kube.kinds import NODE, Kind
from kubeserver import KubeServer


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4", 4.0), ("500m", 0.5), ("1Gi", 2.0**30), ("1500Mi", 1500 * 2.0**20), ("1e3", 1000.0), ("0", 0.0)],
)  # fmt: skip
def test_a_quantity_is_a_number(text: str, expected: float) -> None:
    assert inventory.quantity(text) == expected


def node(name: str, *taints: dict[str, str], ready: str = "True", **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"headgate.dev/pool": "gpu"}},
        "spec": {"taints": list(taints), **more},
        "status": {
            "allocatable": {"cpu": "3920m", "memory": "4Gi", "pods": "10", "nvidia.com/gpu": "4"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def pod(on: str, phase: str = "Running", **resources: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"nodeName": on, "containers": [{"resources": resources}]},
            "status": {"phase": phase}}  # fmt: skip


TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}


def test_what_pods_ask_for_is_not_free() -> None:
    pods = [
        pod("a", requests={"cpu": "920m", "memory": "1Gi"}, limits={"nvidia.com/gpu": "1"}),
        pod("a", "Failed", requests={"cpu": "1"}),
        pod("b", requests={"cpu": "1"}),
    ]
    (found,) = inventory.of([node("a", TAINT)], pods, []).nodes
    assert (found.name, found.pool, found.ready, found.reserved) == ("a", "gpu", True, True)
    assert found.free == {"cpu": 3.0, "memory_mb": 3072.0, "pods": 9.0, "nvidia.com/gpu": 3.0}
    assert found.holds["cpu"] == 3.92


def test_what_starts_first_counts_where_it_is_more() -> None:
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1"}}}],
        "initContainers": [{"resources": {"requests": {"cpu": "3"}}}],
        "overhead": {"cpu": "250m"},
    }
    assert inventory.requests(spec) == {"pods": 1.0, "cpu": 3.25}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(node("a", {"key": "team", "effect": "NoSchedule"}), [], id="a taint of others"),
        pytest.param(node("a", {"key": "team", "effect": "PreferNoSchedule"}), [True], id="a wish"),
        pytest.param(
            node("a", {"key": "headgate.dev/pool", "value": "gpu", "effect": "NoSchedule"}), [True], id="ours"
        ),
        pytest.param(node("a", ready="Unknown"), [False], id="silent"),
        pytest.param(node("a", unschedulable=True), [False], id="cordoned"),
    ],
)
def test_which_nodes_take_our_pods(item: dict[str, Any], expected: list[bool]) -> None:
    assert [n.ready for n in inventory.of([item], [], []).nodes] == expected


def test_a_quota_is_read_by_what_it_bounds() -> None:
    quota = {
        "metadata": {"name": "team"},
        "spec": {"hard": {"limits.memory": "2Gi", "requests.nvidia.com/gpu": "2", "count/secrets": "3"}},
        "status": {"hard": {"limits.memory": "2Gi", "requests.nvidia.com/gpu": "2", "count/secrets": "3"},
                   "used": {"limits.memory": "1Gi", "requests.nvidia.com/gpu": "1"}},
    }  # fmt: skip
    scoped = {"metadata": {"name": "best-effort"}, "spec": {"hard": {"pods": "0"}, "scopes": ["BestEffort"]}}
    (found,) = inventory.of([], [], [quota, scoped]).quotas
    assert (found.holds, found.free) == (
        {"memory_mb": 2048.0, "nvidia.com/gpu": 2.0},
        {"memory_mb": 1024.0, "nvidia.com/gpu": 1.0},
    )


def test_without_the_right_to_look_it_is_not_known_and_without_that_to_all_pods_ours_count() -> None:
    with KubeServer() as server:
        server.put("v1", "nodes", node("a"), namespace="")
        server.put("v1", "pods", pod("a", requests={"cpu": "920m"}), namespace="ns")
        cluster = server.cluster("ns")
        found = inventory.look(cluster)
        assert found is not None
        assert found.nodes[0].free["cpu"] == 3.0
        server.denied.add(("list", "nodes"))
        assert inventory.look(cluster) is None
        cluster.close()


def test_pods_that_hold_no_room_are_not_even_sent() -> None:
    with KubeServer() as server:
        server.put("v1", "nodes", node("a"), namespace="")
        for i, (on, phase) in enumerate([("a", "Running"), ("a", "Succeeded"), ("a", "Failed"), ("", "Pending")]):
            body = pod(on, phase, requests={"cpu": "920m"})
            server.put("v1", "pods", {**body, "metadata": {"name": f"p{i}"}}, namespace="ns")
        cluster = server.cluster("ns")
        assert len(cluster.list(inventory.POD, fields=inventory.HOLDS_ROOM)[0]) == 1
        found = inventory.look(cluster)
        assert found is not None
        assert found.nodes[0].free["cpu"] == 3.0
        cluster.close()


def test_a_right_to_all_pods_that_is_refused_is_asked_for_again_much_later() -> None:
    with KubeServer() as server:
        server.put("v1", "nodes", node("a"), namespace="")
        server.put("v1", "pods", pod("a", requests={"cpu": "920m"}), namespace="ns")
        server.denied.add(("list", "pods"))
        cluster, now = server.cluster("ns"), [0.0]
        looks = inventory.Looks(cluster, lambda: now[0])
        with pytest.raises(TerminalError):
            looks.look()
        asked = [a.namespace for a in server.requests if a.plural == "pods"]
        assert asked == ["", "ns"], "ours are asked for, where those of all are refused"
        server.denied.clear()
        assert looks.look() is not None
        now[0] += inventory.REFUSED_S
        assert looks.look() is not None
        asked = [a.namespace for a in server.requests if a.plural == "pods"]
        assert asked == ["", "ns", "ns", ""]
        cluster.close()


# --- who else has a claim -------------------------------------------------------------------------------------------


@dataclass
class Machines:
    """A platform with so many GPUs, on one node."""

    gpus: float = 4.0
    free: float = 4.0
    replicas: list[Replica] = field(default_factory=list)
    away: bool = False
    unseen: bool = False
    looks: int = 0

    def inventory(self) -> Inventory:
        self.looks += 1
        if self.away:
            raise TransientError("away")
        holds = {"pods": 100.0, "cpu": 100.0, "memory_mb": 100_000.0, "nvidia.com/gpu": self.gpus}
        return Inventory((Node("a", "", holds, {**holds, "nvidia.com/gpu": self.free}),))

    def observe(self, endpoint: str) -> list[Replica]:
        if self.unseen:
            raise TransientError("not seen yet")
        return [r for r in self.replicas if r.endpoint == endpoint]


SETTINGS = Settings(instance_types={"one-gpu": InstanceType(1.0, 1.0, 1)})


def served(name: str, count: int) -> DeploymentTarget:
    made = deployment(name, instances=count)
    return replace(made, source=replace(made.source, instance_type="one-gpu"))


class Desk:
    def __init__(self, folder: Path) -> None:
        self.record = SqliteRecord(folder / "record.db")
        self.now = 1_000.0
        self.heads = Heads(self.record, lambda: self.now)
        self.machines = Machines()
        self.settings = SETTINGS
        self.ticks = 0.0
        self.capacity = Capacity(
            self.heads,
            self.machines,  # type: ignore[arg-type]
            lambda: self.settings,
            lambda: self.ticks,
        )

    def begin(self, endpoint: str, count: int, *, ops: tuple[str, ...] = (), queued: bool = False) -> None:
        def change(draft: Draft) -> None:
            accept(draft, replace(target("a1", [served("blue", count)], {"blue": 100}), endpoint=endpoint))
            passed = tuple(OpRecord(verb, verb, 0.0, "", 0.0, OpEnd.PASSED) for verb in ops)
            draft.rollout(ops=passed, queued_at=self.now if queued else None)

        self.heads.change(endpoint, change)
        self.now += 1

    def room(self, endpoint: str, verb: str = "smoke") -> Any:
        head = self.heads.get(endpoint)
        assert head.rollout is not None
        found = self.capacity.look(verb, f"{head.rollout.id}/{verb}", head)
        return self.capacity.room(found, head) if found is not None else None


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.record.close()


def test_what_another_rollout_was_let_start_is_held_until_its_pods_are_there(desk: Desk) -> None:
    desk.begin("first", 3, ops=("build", "smoke"))
    desk.begin("second", 2)
    assert desk.room("second").answer is Answer.WAIT
    revision = next(iter(desk.heads.get("first").revisions))
    desk.machines.replicas = [
        Replica("first", "blue", revision, i, Purpose.SERVE, ReplicaState.STARTING, "http://x") for i in range(3)
    ]
    desk.machines.free = 1.0
    assert desk.room("second").answer is Answer.WAIT, "counted once, as pods"
    desk.machines.free = 2.0
    assert desk.room("second").answer is Answer.START


def test_who_waited_first_is_served_first(desk: Desk) -> None:
    desk.begin("first", 4, queued=True)
    desk.begin("second", 1, queued=True)
    desk.machines.free = 3.0
    assert (desk.room("second").answer, desk.room("second").position) == (Answer.WAIT, 2)
    assert (desk.room("first").answer, desk.room("first").position) == (Answer.WAIT, 1)
    desk.begin("third", 1)
    assert desk.room("third").position == 3


def test_those_in_line_share_a_look_and_who_may_start_has_one_of_its_own(desk: Desk) -> None:
    desk.machines.free = 0.0
    for i in range(20):
        desk.begin(f"e{i}", 1, queued=True)
    for i in range(20):
        assert desk.room(f"e{i}").answer is Answer.WAIT
    assert desk.machines.looks == 1
    desk.machines.free = 1.0
    desk.ticks += SHARED_S + 1
    assert (desk.room("e1").answer, desk.machines.looks) == (Answer.WAIT, 2)
    assert (desk.room("e0").answer, desk.machines.looks) == (Answer.START, 3), "by what there is now"
    desk.begin("new", 1)
    desk.room("new")
    assert desk.machines.looks == 4, "whoever is not in line yet, too"


def test_more_than_there_is_is_refused_at_the_build(desk: Desk) -> None:
    desk.begin("first", 5)
    assert desk.room("first", "build").answer is Answer.REFUSE


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda desk: setattr(desk.machines, "away", True), id="it cannot be known now"),
        pytest.param(lambda desk: setattr(desk.machines, "unseen", True), id="its replicas are not seen"),
        pytest.param(lambda desk: setattr(desk, "settings", replace(SETTINGS, capacity="elastic")), id="nodes come"),
    ],
)
def test_nobody_is_held_up_by_what_is_not_known(desk: Desk, change: Any) -> None:
    desk.begin("first", 5)
    change(desk)
    assert desk.room("first") is None


def test_an_op_that_starts_nothing_or_is_open_needs_no_room(desk: Desk) -> None:
    desk.begin("first", 5, ops=("build", "smoke"))
    assert (desk.room("first", "mirror"), desk.room("first", "smoke")) == (None, None)
    assert desk.room("first", "deploy").answer is Answer.REFUSE


def test_a_preview_comes_last_in_line_and_its_own_rollout_is_no_claim(desk: Desk) -> None:
    desk.begin("first", 2, ops=("build", "smoke"))
    desk.begin("second", 3, queued=True)
    space = desk.capacity.space("third")
    assert ([n.count for n in space.claims.held], [n.count for n in space.claims.before]) == ([2], [3])
    assert space.claims.position == 2
    assert space.inventory == desk.machines.inventory()
    assert desk.capacity.space("first").claims.held == []


def test_a_preview_of_what_nobody_knows_says_so(desk: Desk) -> None:
    desk.machines.away = True
    assert desk.capacity.space("first") == Space(None)


def test_who_asks_while_somebody_looks_shares_the_next_look() -> None:
    begun, go = threading.Event(), threading.Event()
    seen: list[int] = []

    class Slow:
        def list(self, kind: Kind, **_: Any) -> tuple[list[Any], str]:
            if kind is NODE:
                seen.append(len(seen))
                begun.set()
                assert go.wait(10)
            return [], ""

    looks = inventory.Looks(Slow())  # type: ignore[arg-type]
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(looks.look)
        assert begun.wait(10)
        late = [pool.submit(looks.look) for _ in range(5)]
        deadline = time.monotonic() + 10
        while looks.asking < 6 and time.monotonic() < deadline:
            time.sleep(0.001)
        go.set()
        assert all(asked.result(10) == first.result(10) for asked in late)
    assert seen == [0, 1], "one for the first, and one that began after the others had asked"

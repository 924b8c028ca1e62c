"""One controller at a time, by a Lease of a real (small) API server. Time is passed in."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from headgate_controllers import leader
from headgate_controllers.leader import GIVE_UP_S, HELD_S, Leader, Standby
from headgate_kit.kube.client import Cluster
from kubeserver import KubeServer, wait_for

NAME = "headgate-controller"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as made:
        yield made


@pytest.fixture
def cluster(server: KubeServer) -> Iterator[Cluster]:
    made = server.cluster()
    yield made
    made.close()


def holder(server: KubeServer) -> str:
    lease = server.find("leases", NAME)
    assert lease is not None
    return str(lease["spec"]["holderIdentity"])


def test_the_first_one_holds_it_and_the_second_waits(server: KubeServer, cluster: Cluster) -> None:
    clock = Clock()
    assert Leader(cluster, NAME, "a", clock=clock).acquire()
    second = Leader(cluster, NAME, "b", clock=clock)
    assert not second.acquire()
    assert holder(server) == "a"


def test_a_lease_that_is_not_renewed_is_taken_over_after_its_time_on_our_own_clock(
    server: KubeServer, cluster: Cluster
) -> None:
    clock = Clock()
    Leader(cluster, NAME, "a", clock=clock).acquire()
    second = Leader(cluster, NAME, "b", clock=clock)
    assert not second.acquire()
    clock.now += HELD_S
    assert not second.acquire()
    clock.now += 0.1
    assert second.acquire()
    assert holder(server) == "b"
    lease = server.find("leases", NAME)
    assert lease is not None
    assert lease["spec"]["leaseTransitions"] == 1


def test_who_was_stopped_for_longer_than_the_lease_does_not_hold_it_before_it_has_looked(
    server: KubeServer, cluster: Cluster
) -> None:
    clock = Clock()
    first, second = (Leader(cluster, NAME, who, clock=clock) for who in "ab")
    assert not first.holds()
    assert first.acquire()
    assert first.holds()
    assert not second.acquire()
    clock.now += HELD_S + 0.1
    assert second.acquire()
    assert (first.holds(), second.holds()) == (False, True)


def test_a_lease_that_is_renewed_stays_where_it_is(server: KubeServer, cluster: Cluster) -> None:
    clock = Clock()
    first, second = (Leader(cluster, NAME, who, clock=clock) for who in "ab")
    first.acquire()
    for _ in range(10):
        assert not second.acquire()
        clock.now += HELD_S - 1
        assert first.acquire()
    assert holder(server) == "a"


def test_who_comes_back_under_the_same_name_goes_on_at_once(server: KubeServer, cluster: Cluster) -> None:
    clock = Clock()
    Leader(cluster, NAME, "a", clock=clock).acquire()
    assert Leader(cluster, NAME, "a", clock=clock).acquire()


def test_one_that_is_given_back_is_free_at_once(server: KubeServer, cluster: Cluster) -> None:
    clock = Clock()
    first = Leader(cluster, NAME, "a", clock=clock)
    first.acquire()
    first.close()
    assert Leader(cluster, NAME, "b", clock=clock).acquire()
    assert holder(server) == "b"


def test_closing_gives_back_nothing_that_is_somebody_elses(server: KubeServer, cluster: Cluster) -> None:
    clock = Clock()
    first, second = (Leader(cluster, NAME, who, clock=clock) for who in "ab")
    first.acquire()
    second.acquire()
    clock.now += HELD_S + 1
    second.acquire()
    first.close()
    assert holder(server) == "b"


def test_of_two_that_take_it_at_once_one_has_it(server: KubeServer) -> None:
    clock = Clock()
    clusters = [server.cluster() for _ in range(8)]
    leaders = [Leader(cluster, NAME, str(number), clock=clock) for number, cluster in enumerate(clusters)]
    barrier = threading.Barrier(len(leaders))
    got: list[str] = []

    def take(number: int) -> None:
        barrier.wait()
        if leaders[number].acquire():
            got.append(str(number))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(len(leaders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cluster in clusters:
        cluster.close()
    assert got == [holder(server)]


def test_who_cannot_renew_gives_up_before_another_may_start(
    server: KubeServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "RENEW_S", 0.02)
    clock, told = Clock(), threading.Event()
    first = Leader(cluster, NAME, "a", clock=clock)
    first.wait(0.01)
    first.tell(told.set)
    server.fail(503, times=1_000_000, plural="leases")
    tries = len(server.requests)
    wait_for(lambda: len(server.requests) > tries + 5)
    assert not told.is_set()
    clock.now += GIVE_UP_S + 0.1
    assert told.wait(60)
    assert first.lost.is_set()
    assert GIVE_UP_S < HELD_S
    first.close()


def test_who_sees_another_holder_gives_up_at_once(
    server: KubeServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "RENEW_S", 0.02)
    told = threading.Event()
    first = Leader(cluster, NAME, "a", clock=Clock())
    first.wait(0.01)
    first.tell(told.set)
    lease = server.find("leases", NAME)
    assert lease is not None
    server.put("coordination.k8s.io/v1", "leases", {**lease, "spec": {"holderIdentity": "b", "renewTime": "later"}})
    assert told.wait(60)
    first.close()
    assert holder(server) == "b"


def test_who_waits_is_alive_and_not_ready(server: KubeServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with Standby(listening):
            with urllib.request.urlopen(f"{url}/healthz") as answer:
                assert answer.status == 200
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{url}/readyz")
            assert caught.value.code == 503
            caught.value.close()

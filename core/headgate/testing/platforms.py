"""What every platform promises. Subject: a `PlatformCase`: a platform that runs nothing, workloads, and patience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from headgate.ports import Platform
from headgate.testing.suite import Suite, Wait
from headgate.workload import Purpose, Replica, ReplicaState, Workload


@dataclass(frozen=True, slots=True)
class PlatformCase:
    platform: Platform
    workload: Callable[[str], Workload]  # revision -> one of endpoint `fraud` that gets ready, with one replica
    wait: Wait

    def seen(self, revision: str, purpose: Purpose = Purpose.SERVE) -> Sequence[Replica]:
        return [r for r in self.platform.observe("fraud") if r.revision == revision and r.purpose is purpose]

    def ready(self, revision: str, count: int, purpose: Purpose = Purpose.SERVE) -> Sequence[Replica]:
        """Waits until exactly so many replicas are there, all ready."""

        def met() -> bool:
            found = self.seen(revision, purpose)
            return len(found) == count and all(r.state is ReplicaState.READY for r in found)

        self.wait(met)
        return self.seen(revision, purpose)


PLATFORM: Suite[PlatformCase] = Suite()


@PLATFORM
def _an_unknown_endpoint_has_no_replicas_and_can_be_removed_from(case: PlatformCase) -> None:
    assert list(case.platform.observe("no-such")) == []
    case.platform.remove("no-such", "r1")
    case.platform.remove("fraud", "no-such")


@PLATFORM
def _what_is_applied_gets_ready_with_an_address(case: PlatformCase) -> None:
    case.platform.apply(case.workload("r1"))
    (replica,) = case.ready("r1", 1)
    assert (replica.endpoint, replica.deployment, replica.index) == ("fraud", case.workload("r1").deployment, 0)
    assert replica.address.startswith("http"), "routers are given addresses"


@PLATFORM
def _applying_again_restarts_nothing(case: PlatformCase) -> None:
    case.platform.apply(case.workload("r1"))
    before = case.ready("r1", 1)
    case.platform.apply(case.workload("r1"))
    assert case.ready("r1", 1) == before


@PLATFORM
def _the_instance_count_changes_in_place(case: PlatformCase) -> None:
    one = case.workload("r1")
    case.platform.apply(one)
    (kept,) = case.ready("r1", 1)
    case.platform.apply(replace(one, replicas=2))
    assert kept in case.ready("r1", 2), "the first replica is left alone"
    assert len({r.address for r in case.seen("r1")}) == 2
    case.platform.apply(one)
    assert case.ready("r1", 1) == [kept]


@PLATFORM
def _a_smoke_replica_is_apart_from_those_that_serve(case: PlatformCase) -> None:
    smoke = replace(case.workload("r1"), purpose=Purpose.SMOKE)
    case.platform.apply(smoke)
    case.ready("r1", 1, Purpose.SMOKE)
    assert case.seen("r1") == []
    case.platform.apply(replace(smoke, replicas=0))
    case.wait(lambda: not case.seen("r1", Purpose.SMOKE))


@PLATFORM
def _removing_a_revision_leaves_the_others(case: PlatformCase) -> None:
    for revision in ("r1", "r2"):
        case.platform.apply(case.workload(revision))
    (kept,) = case.ready("r2", 1)
    case.platform.remove("fraud", "r1")
    case.platform.remove("fraud", "r1")
    case.wait(lambda: not case.seen("r1"))
    assert case.ready("r2", 1) == [kept]


@PLATFORM
def _what_was_removed_can_be_applied_again(case: PlatformCase) -> None:
    case.platform.apply(case.workload("r1"))
    case.ready("r1", 1)
    case.platform.remove("fraud", "r1")
    case.platform.apply(case.workload("r1"))
    case.ready("r1", 1)


@PLATFORM
def _a_replica_has_azures_two_logs(case: PlatformCase) -> None:
    case.platform.apply(case.workload("r1"))
    (replica,) = case.ready("r1", 1)
    for kind in ("inference-server", "storage-initializer"):
        assert all(isinstance(chunk, bytes) for chunk in case.platform.logs(replica, follow=False, kind=kind))

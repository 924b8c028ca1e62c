"""An endpoint's row of the route table."""

from __future__ import annotations

from dataclasses import replace

from headgate.evidence import PairKind
from headgate.rollout import Head
from headgate.routing import route, same
from headgate.table import EndpointRoute, Mirror
from headgate.target import RouterSettings, RunSettings
from headgate.testing import World, deployment, target
from headgate.workload import Purpose, ReplicaState, Scaling

BLUE, GREEN = deployment("blue"), deployment("green")


def both(**router: object) -> World:
    settings = RouterSettings(**router)  # type: ignore[arg-type]
    return World().commit(target("b1", [BLUE, GREEN], {"blue": 100}, router=settings))


def found(world: World, head: Head | None = None) -> EndpointRoute:
    made = route(head or world.head, tuple(world.replicas.values()), ["k2", "k1"])
    assert made is not None
    return made


def test_an_endpoint_nobody_asked_for_is_not_served() -> None:
    assert route(Head("fraud"), (), ()) is None


def test_shares_are_the_heads_and_keys_are_sorted() -> None:
    made = found(both())
    assert [(r.deployment, r.per_mille) for r in made.revisions] == [("blue", 1000), ("green", 0)]
    assert (made.keys, made.generation) == (("k1", "k2"), 0)


def test_only_ready_replicas_that_serve_are_upstreams() -> None:
    world = both()
    (key,) = [k for k in world.replicas if k[0] == BLUE.revision]
    ready = world.replicas[key]
    assert found(world).revisions[0].upstreams == (ready.address,)
    for other in (
        replace(ready, state=ReplicaState.UNREADY),
        replace(ready, purpose=Purpose.SMOKE),
        replace(ready, address=""),
        replace(ready, revision="another"),
    ):
        world.replicas = {key: other}
        assert found(world).revisions[0].upstreams == ()


def test_where_routers_follow_replicas_themselves_no_replica_is_listed() -> None:
    world = both()
    made = route(world.head, tuple(world.replicas.values()), (), lambda *names: "k8s:ns/" + "-".join(names))
    assert made is not None
    assert [(r.service, r.upstreams) for r in made.revisions] == [
        (f"k8s:ns/fraud-{revision}", ()) for revision in (BLUE.revision, GREEN.revision)
    ]


def test_a_websocket_is_tunnelled_to_the_deployments_named() -> None:
    assert [(r.deployment, r.websocket) for r in found(both(websocket=("green",))).revisions] == [
        ("blue", False),
        ("green", True),
    ]


def test_a_warm_revision_leaves_the_route_unless_it_has_traffic() -> None:
    world = both()
    draft = world.draft()
    for revision in (BLUE.revision, GREEN.revision):
        draft.revision(revision, warm_until=world.now + 60)
    assert [r.deployment for r in found(world, draft.head).revisions] == ["blue"]


def test_limits_are_those_git_asks_for_now() -> None:
    world = both()
    slow = replace(BLUE, run=RunSettings(instance_count=3, request_timeout_ms=90_000))
    head = replace(world.head, asked=target("c", [slow, GREEN], {"blue": 100}))
    row = found(world, head).revisions[0]
    assert (row.instances, row.request_timeout_ms) == (3, 90_000)


def test_a_limit_does_not_hold_up_an_autoscaler() -> None:
    world = both()
    scaled = replace(BLUE, run=RunSettings(instance_count=2, scaling=Scaling(1, 6)))
    head = replace(world.head, asked=target("c", [scaled, GREEN], {"blue": 100}))
    assert found(world, head).revisions[0].instances == 6


def test_the_process_has_the_mirror_slot_first_then_mirror_traffic() -> None:
    world = both(mirror={GREEN.revision: 100, BLUE.revision: 100, "gone": 100})
    assert found(world).mirrors == (Mirror(GREEN.revision, 100, PairKind.COMPARE),), (
        "never to what is live, nor to none"
    )
    process = (Mirror(GREEN.revision, 500), Mirror("gone", 500))
    assert found(world, replace(world.head, mirrors=process)).mirrors == process[:1]


def test_a_removed_endpoint_serves_by_its_last_release() -> None:
    world = both()
    assert found(world, replace(world.head, asked=None)).revisions[0].per_mille == 1000


def test_two_routes_are_the_same_whichever_commit_says_so() -> None:
    made = found(both())
    assert same(made, replace(made, generation=9, commit="other"))
    assert not same(made, replace(made, keys=("k3",)))

"""From an endpoint's record and its replicas to its row of the route table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from headgate.evidence import PairKind
from headgate.rollout import Head
from headgate.table import EndpointRoute, Mirror, RouteRevision
from headgate.target import DeploymentTarget
from headgate.workload import Purpose, Replica, ReplicaState

Service = Callable[[str, str], str]  # endpoint, revision -> where routers find its replicas themselves


def route(
    head: Head,
    replicas: Sequence[Replica],
    keys: Sequence[str],
    service: Service | None = None,
    signers: Sequence[str] = (),
) -> EndpointRoute | None:
    """The route that the head decides, with generation 0; None: the endpoint is not served.

    Readiness chooses upstreams, never shares: a live revision without a ready replica stays in, with none.

    Args:
        service: where it is given, routers follow replicas by themselves: no table changes when one comes or goes.
    """
    target = head.asked or (head.stable.target if head.stable else None)
    if target is None:
        return None
    rows = []
    for revision, state in sorted(head.revisions.items(), key=lambda item: (item[1].deployment.name, item[0])):
        share = head.traffic.get(revision, 0)
        if share or (state.running and state.warm_until is None):
            settings = target.revisions.get(revision, state.deployment)
            found = () if service else _addresses(replicas, revision)
            row = _row(settings, revision, share, found, target.router.websocket)
            if state.instances is not None:  # fewer just now, so fewer at once
                row = replace(row, instances=head.instances(revision))
            rows.append(replace(row, service=service(head.endpoint, revision)) if service else row)
    router = target.router
    return EndpointRoute(
        name=head.endpoint,
        generation=0,
        commit=target.commit,
        revisions=tuple(rows),
        mirrors=_mirrors(head, rows, router.mirror),
        auth_mode=router.auth_mode,
        keys=tuple(sorted(keys)),
        signers=tuple(sorted(signers)),
        issuer=router.issuer,
        repeatable=router.repeatable,
        sticky=router.sticky,
        redact=router.redact,
    )


def _addresses(replicas: Sequence[Replica], revision: str) -> tuple[str, ...]:
    ready = [r for r in replicas if r.revision == revision and r.purpose is Purpose.SERVE and r.address]
    return tuple(sorted(r.address for r in ready if r.state is ReplicaState.READY))


def _row(
    deployment: DeploymentTarget, revision: str, share: int, addresses: tuple[str, ...], tunnelled: Sequence[str]
) -> RouteRevision:
    run = deployment.run
    return RouteRevision(
        revision=revision,
        deployment=deployment.name,
        per_mille=share,
        upstreams=addresses,
        scoring_path=deployment.source.scoring_path,
        instances=max(run.instance_count, run.scaling.most if run.scaling else 0),  # a limit must not hold up growth
        max_concurrent_per_instance=run.max_concurrent_per_instance,
        request_timeout_ms=run.request_timeout_ms,
        max_queue_wait_ms=run.max_queue_wait_ms,
        websocket=deployment.name in tunnelled,
    )


def _mirrors(head: Head, rows: Sequence[RouteRevision], asked: Mapping[str, int]) -> tuple[Mirror, ...]:
    """The mirror slot belongs to the process during its phase, then to `mirror_traffic` again."""
    listed = {row.revision: row for row in rows}
    if head.mirrors:
        return tuple(m for m in head.mirrors if m.revision in listed)
    return tuple(
        Mirror(revision, share, PairKind.COMPARE)
        for revision, share in sorted(asked.items())
        if revision in listed and not listed[revision].per_mille
    )


def same(a: EndpointRoute, b: EndpointRoute) -> bool:
    """Whether two routes say the same to a router: all but which generation and commit said it."""
    return replace(a, generation=0, commit="") == replace(b, generation=0, commit="")

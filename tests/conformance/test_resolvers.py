"""The router's resolvers keep what every resolver promises: the table, and EndpointSlices of a real HTTP server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import slices
from headgate import plugins
from headgate.table import RouteRevision
from headgate.testing import RESOLVER, Check, ResolverCase, Wait
from headgate_router.resolvers.endpointslices import EndpointSlices
from headgate_router.resolvers.table import Table
from kubeserver import KubeServer


def test_both_resolvers_are_installed() -> None:
    loaded = plugins.load("headgate.resolver")
    assert (loaded.adapters, loaded.findings) == ({"k8s": EndpointSlices, "table": Table}, ())


@pytest.fixture
def table(wait: Wait) -> Iterator[ResolverCase]:
    def replicas(addresses: Sequence[str]) -> RouteRevision:
        return RouteRevision("r", "blue", 1000, tuple(addresses))

    with slices.running_loop() as call:
        yield ResolverCase(Table(), replicas, call, wait)


@pytest.fixture
def endpointslices(wait: Wait, tmp_path: Path) -> Iterator[ResolverCase]:
    with KubeServer() as server, slices.running_loop() as call:
        resolver = EndpointSlices(slices.cluster(server, tmp_path))

        def replicas(addresses: Sequence[str]) -> RouteRevision:
            slices.put(server, "fraud", slices.ready(*addresses))
            return RouteRevision("r", "blue", 1000, (), service=f"k8s:{slices.NAMESPACE}/fraud:8081")

        yield ResolverCase(resolver, replicas, call, wait)
        call(resolver.close)


@pytest.mark.parametrize("adapter", ["table", "endpointslices"])
@pytest.mark.parametrize("check", RESOLVER, ids=str)
def test_a_resolver(check: Check[ResolverCase], adapter: str, request: pytest.FixtureRequest) -> None:
    check(request.getfixturevalue(adapter))

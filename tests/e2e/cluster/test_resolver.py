"""EndpointSlices of a real API server, read with the router's two rights and nothing else.

Turn on with HEADGATE_E2E=cluster and KUBECONFIG.
"""

from __future__ import annotations

import base64
import ssl
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

import slices
from headgate.table import RouteRevision
from headgate.testing import RESOLVER, Check, ResolverCase
from headgate_kit.kube import Cluster, Kind
from headgate_kit.kube.kinds import ENDPOINT_SLICE, SECRET, SERVICE_ACCOUNT
from headgate_router.resolvers import endpointslices
from headgate_router.resolvers.endpointslices import EndpointSlices
from installation import NAMESPACE, needs
from kubeserver import wait_for

pytestmark = needs()
ROLE = Kind("rbac.authorization.k8s.io/v1", "Role", "roles")
BINDING = Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
NAME = "headgate-router"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    name = f"hg-e2e-{uuid.uuid4().hex[:8]}"
    home = Cluster.connect("default")
    home.create(NAMESPACE, {"metadata": {"name": name}})
    opened = Cluster.connect(name)
    yield opened
    home.delete(NAMESPACE, name)
    opened.close()
    home.close()


@pytest.fixture(scope="module")
def reader(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> endpointslices.Cluster:
    """How a router reaches the API server: a service account that may list and watch slices."""
    folder = tmp_path_factory.mktemp("account")
    who = {"kind": "ServiceAccount", "name": NAME, "namespace": cluster.namespace}
    meta = {"metadata": {"name": NAME}}
    cluster.create(SERVICE_ACCOUNT, meta)
    cluster.create(ROLE, {**meta, "rules": [_rule("list", "watch")]})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME}
    cluster.create(BINDING, {**meta, "subjects": [who], "roleRef": role})
    annotated = {"metadata": {"name": NAME, "annotations": {"kubernetes.io/service-account.name": NAME}}}
    cluster.create(SECRET, {**annotated, "type": "kubernetes.io/service-account-token"})
    wait_for(lambda: bool((cluster.get(SECRET, NAME) or {}).get("data", {}).get("token")))
    data = (cluster.get(SECRET, NAME) or {})["data"]
    for key, file in (("token", "token"), ("ca.crt", "ca.crt")):
        (folder / file).write_bytes(base64.b64decode(data[key]))
    return endpointslices.Cluster(_url(), folder / "token", folder / "ca.crt")


def _rule(*verbs: str) -> dict[str, Any]:
    return {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs}


def _url() -> str:
    from kubernetes import client, config

    config.load_kube_config()
    return str(client.Configuration.get_default_copy().host)


def _slice(name: str, addresses: Sequence[str]) -> dict[str, Any]:
    hosts = sorted({urlsplit(address).hostname or "" for address in addresses})
    return {
        "metadata": {"name": f"{name}-x1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in hosts],
        "ports": [{"name": "http", "port": 8081, "protocol": "TCP"}],
    }


@pytest.fixture
def case(cluster: Cluster, reader: endpointslices.Cluster) -> Iterator[ResolverCase]:
    name = f"fraud-{uuid.uuid4().hex[:8]}"

    def replicas(addresses: Sequence[str]) -> RouteRevision:
        cluster.apply(ENDPOINT_SLICE, _slice(name, addresses))
        return RouteRevision("r", "blue", 1000, (), service=f"k8s:{cluster.namespace}/{name}:8081")

    with slices.running_loop() as call:
        resolver = EndpointSlices(reader)
        yield ResolverCase(resolver, replicas, call, wait_for)
        call(resolver.close)


@pytest.mark.parametrize("check", RESOLVER, ids=str)
def test_endpointslices_of_a_real_cluster(check: Check[ResolverCase], case: ResolverCase) -> None:
    check(case)


def test_a_token_that_ends_is_trouble_until_it_is_renewed(
    case: ResolverCase, reader: endpointslices.Cluster, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("expired")
    row = case.replicas(["http://10.1.0.1:8081"])
    heard: list[tuple[str, ...]] = []
    with _following(replace(reader, token_file=tmp_path / "token"), row, heard.append) as resolver:
        wait_for(lambda: "401" in resolver.trouble)
        assert heard == []
        (tmp_path / "token").write_bytes(reader.token_file.read_bytes())
        wait_for(lambda: heard == [("http://10.1.0.1:8081",)])


@pytest.mark.parametrize(
    ("gone", "left", "query"), [("list", "watch", ""), ("watch", "list", "?watch=true&timeoutSeconds=1")]
)
def test_a_verb_that_is_taken_away_is_named_until_it_is_back(
    case: ResolverCase, cluster: Cluster, reader: endpointslices.Cluster, gone: str, left: str, query: str
) -> None:
    row = case.replicas(["http://10.1.0.1:8081"])
    heard: list[tuple[str, ...]] = []
    cluster.patch(ROLE, NAME, {"rules": [_rule(left)]})
    try:
        wait_for(lambda: _status(reader, cluster.namespace, query) == 403)
        with _following(reader, row, heard.append) as resolver:
            wait_for(lambda: f'cannot {gone} resource "endpointslices"' in resolver.trouble)
            cluster.patch(ROLE, NAME, {"rules": [_rule("list", "watch")]})
            wait_for(lambda: not resolver.trouble and heard == [("http://10.1.0.1:8081",)])
    finally:
        cluster.patch(ROLE, NAME, {"rules": [_rule("list", "watch")]})
    wait_for(lambda: _status(reader, cluster.namespace, query) == 200)


def _status(reader: endpointslices.Cluster, namespace: str, query: str) -> int:
    url = f"{reader.url}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices{query}"
    trusted = ssl.create_default_context(cafile=str(reader.ca_file))
    return httpx.get(
        url, headers={"Authorization": f"Bearer {reader.token_file.read_text()}"}, verify=trusted
    ).status_code


@contextmanager
def _following(
    where: endpointslices.Cluster, row: RouteRevision, heard: Callable[..., None]
) -> Iterator[EndpointSlices]:
    resolver = EndpointSlices(where)
    with slices.running_loop() as call:
        call(lambda: resolver.follow(row, heard))
        try:
            yield resolver
        finally:
            call(resolver.close)

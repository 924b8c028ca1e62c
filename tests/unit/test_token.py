"""The control token in a cluster: made once, by whoever is first; never replaced, never empty."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from headgate.findings import TerminalError
from headgate_controllers.token import secret_token
from headgate_kit.kube.client import Cluster
from kubeserver import KubeServer


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as made:
        yield made


@pytest.fixture
def cluster(server: KubeServer) -> Iterator[Cluster]:
    made = server.cluster()
    yield made
    made.close()


def test_the_first_start_makes_it_and_every_later_one_reads_it(server: KubeServer, cluster: Cluster) -> None:
    made = secret_token("headgate-control", cluster)
    assert len(made) > 40
    assert secret_token("headgate-control", cluster) == made
    assert [r.verb for r in server.requests] == ["get", "create", "get"]


def test_one_that_was_brought_is_used_as_it_is(server: KubeServer, cluster: Cluster) -> None:
    server.put("v1", "secrets", {"metadata": {"name": "s"}, "data": {"token": base64.b64encode(b"ours\n").decode()}})
    assert secret_token("s", cluster) == "ours"


def test_when_another_controller_was_faster_its_token_counts(server: KubeServer, cluster: Cluster) -> None:
    theirs = base64.b64encode(b"theirs").decode()
    server.fail(404, times=1, plural="secrets", verb="get")
    server.put("v1", "secrets", {"metadata": {"name": "s"}, "data": {"token": theirs}})
    assert secret_token("s", cluster) == "theirs"


@pytest.mark.parametrize("data", [{}, {"token": ""}, {"token": "%%%"}], ids=["no key", "empty", "no base64"])
def test_a_secret_without_a_token_is_said_and_not_overwritten(
    server: KubeServer, cluster: Cluster, data: dict[str, str]
) -> None:
    server.put("v1", "secrets", {"metadata": {"name": "s"}, "data": data})
    with pytest.raises(TerminalError, match="no usable key"):
        secret_token("s", cluster)

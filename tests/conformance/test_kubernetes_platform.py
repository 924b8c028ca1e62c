"""The platform of a cluster keeps the promises of the port, as far as a small API server with pods that run nothing
can show it; `tests/e2e/cluster/test_platform.py` runs the same checks on a real cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headgate.testing import PLATFORM, Check, PlatformCase, Wait
from headgate.workload import Launch, Workload
from headgate_controllers.platforms.kubernetes import KubernetesPlatform
from kubenodes import Nodes
from kubeserver import KubeServer


@pytest.fixture
def case(wait: Wait) -> Iterator[PlatformCase]:
    with KubeServer() as server, Nodes(server, "ns"):
        platform = KubernetesPlatform(cluster=server.cluster("ns"))
        platform.start()
        launch = Launch(("python", "-m", "front"))

        def workload(revision: str) -> Workload:
            return Workload("fraud", "blue", revision, 1, launch, image="registry/model@sha256:0")

        yield PlatformCase(platform, workload, wait)
        platform.close()


@pytest.mark.parametrize("check", PLATFORM, ids=str)
def test_pods_of_a_small_api_server(check: Check[PlatformCase], case: PlatformCase) -> None:
    check(case)

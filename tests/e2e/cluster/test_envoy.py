"""Routers beside Envoy on a cluster: from the chart's value to answers, a rollout, a revert, and a router that ends.

README.md turns it on; the image is `make images WITH_ENVOY=1 PUSH=1`.
"""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from installation import IMAGES, Installation, Recorder, ask, within

IMAGE = "router-envoy"
FIRST_S = 180.0
ROLLOUT_S = 180.0
ROLLOUT = "mirror: {percent: 0}\nsteps: [10, 50, 100]\nsoak: 1s\ngates: {}\n"  # it is the weights that are tested

pytestmark = pytest.mark.skipif(
    not IMAGES.exists() or IMAGE not in json.loads(IMAGES.read_text()),
    reason="no image with Envoy in dist/images.json: make images WITH_ENVOY=1 PUSH=1",
)


@pytest.fixture(scope="module")
def installed(installation: Installation) -> Installation:
    """Headgate with routers beside Envoy, and one endpoint that answers."""
    installation.write("hello")
    (installation.work / "endpoints/greet/rollout.yml").write_text(ROLLOUT)
    installation.push("first")
    image = installation.images[IMAGE]
    of_router = {"image.repository": image["image"].partition("@")[0], "image.digest": image["digest"]}
    installation.install(
        **{f"router.{key}": value for key, value in of_router.items()},
        **{"router.dataplane": "envoy", "router.envoyThreads": "2"},
    )
    within(120, lambda: installation.get("onlineendpoint", "greet"), "the endpoint is shown")
    installation.kubectl("wait", "--for=condition=Ready", "onlineendpoint/greet", f"--timeout={FIRST_S:.0f}s")
    key = within(20, installation.key, "the endpoint has a key")
    with installation.forward("svc/headgate-router", "http") as port:
        within(30, lambda: ask(port, key)[0] == 200, "it answers")
    return installation


def page(installed: Installation, path: str) -> str:
    with installed.forward("svc/headgate-router", "http") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text


def settled(installed: Installation, commit: str) -> None:
    """The commit's rollout has succeeded."""

    def state() -> bool:
        found = [item for item in installed.get("endpointrollouts")["items"] if item["spec"]["commit"] == commit]
        assert not {item["status"]["state"] for item in found} & {"failed", "aborted"}
        return "succeeded" in {item["status"]["state"] for item in found}

    within(ROLLOUT_S, state, "the rollout ends")


@contextmanager
def callers(installed: Installation) -> Iterator[tuple[Counter[int], Recorder]]:
    """Somebody who calls all the while, from inside the cluster; answers by status."""
    recorder = Recorder(installed, installed.key())
    recorder.start()
    seen: Counter[int] = Counter()
    try:
        yield seen, recorder
    finally:
        seen.update(recorder.stop())


def test_it_is_envoy_that_answers(installed: Installation) -> None:
    assert 'headgate_router_envoy_starts_total{worker="headgate-router-' in page(installed, "/metrics")


def test_its_pods_are_confined_as_those_of_the_routers_own_data_path(installed: Installation) -> None:
    for pod in installed.get("pods", selector="headgate.dev/part=router")["items"]:
        (container,) = pod["spec"]["containers"]
        said = container["securityContext"]
        assert (said["readOnlyRootFilesystem"], said["allowPrivilegeEscalation"]) == (True, False)
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        words = ("exec", pod["metadata"]["name"], "--", "sh", "-c")
        assert installed.kubectl(*words, "id -u").strip() == "10001"
        assert installed.kubectl(*words, "touch /opt/headgate/x 2>/dev/null || echo refused").strip() == "refused"
    policy = installed.get("networkpolicy", "headgate-router")
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]


def test_a_rollout_moves_traffic_and_a_git_revert_takes_it_back(installed: Installation) -> None:
    settled(installed, installed.git("rev-parse", "HEAD"))
    with callers(installed) as (seen, _):
        installed.write("bye")
        (installed.work / "endpoints/greet/rollout.yml").write_text(ROLLOUT)
        settled(installed, installed.push("second"))
        with installed.forward("svc/headgate-router", "http") as port:
            assert b"bye" in ask(port, installed.key())[1]
        installed.git("revert", "--no-edit", "HEAD")
        installed.git("push", "-q", "origin", "HEAD:main")
        with installed.forward("svc/headgate-router", "http") as port:
            key = installed.key()
            within(30, lambda: b"hello" in ask(port, key)[1], "the revert is live")
    installed.note("requests during rollout and revert", float(seen.total()))
    assert set(seen) == {200}, seen


def test_a_router_pod_that_is_deleted_loses_no_answer(installed: Installation) -> None:
    def routers() -> dict[str, bool]:
        """Pods that are not about to end, and whether they are ready."""
        return {
            pod["metadata"]["name"]: any(
                one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ())
            )
            for pod in installed.get("pods", selector="headgate.dev/part=router")["items"]
            if not pod["metadata"].get("deletionTimestamp")
        }

    before = routers()
    with callers(installed) as (seen, recorder):
        for name in before:
            installed.kubectl("delete", "pod", name)
            within(90, lambda: len(routers()) == len(before) and all(routers().values()), "another one is ready")
    assert not set(before) & set(routers())
    installed.note("requests while every router was deleted", float(seen.total()))
    installed.note("connections refused or ended, and made anew", float(recorder.again))
    assert set(seen) == {200}, seen
    assert seen[200] > 100

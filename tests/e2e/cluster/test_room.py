"""Room on a real cluster: slices of a GPU that an instance type names, a rollout that they cannot hold side by side.

A node of the pool HEADGATE_E2E_GPU_POOL advertises three slices as a device plugin would, and no more at the end.
Callers ask all the while, from inside the cluster.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import pytest
from bench.numbers import keep

from headgate_kit.kube import Cluster
from headgate_kit.kube.kinds import NODE
from installation import BODY, GPU_POOL, PATH, Installation, ask, within

SLICE = "nvidia.com/mig-1g.5gb"
SLICES = 3
ROLLOUT_S = 240.0


@pytest.fixture(scope="module")
def slices(installation: Installation) -> Iterator[str]:
    """The node that has them."""
    cluster = Cluster.connect("default")
    pool, _ = cluster.list(NODE, selector=f"headgate.dev/pool={GPU_POOL}")
    if not pool:
        pytest.skip(f"no node has the label headgate.dev/pool={GPU_POOL}: name another in HEADGATE_E2E_GPU_POOL")
    node = pool[0]["metadata"]["name"]
    advertise(cluster, node, str(SLICES))
    yield node
    advertise(cluster, node, None)
    cluster.close()


def advertise(cluster: Cluster, node: str, count: str | None) -> None:
    amounts = {"capacity": {SLICE: count}, "allocatable": {SLICE: count}}
    cluster.patch(NODE, node, {"status": amounts}, subresource="status")
    within(60, lambda: allocatable(cluster, node) == count, f"{node} has {count} slices")


def allocatable(cluster: Cluster, node: str) -> str | None:
    found: Mapping[str, str] = (cluster.get(NODE, node) or {})["status"].get("allocatable", {})
    return found.get(SLICE)


def write(world: Installation, word: str, *, count: int = 2, capacity: str = "parallel") -> None:
    """The endpoint, on slices; a share of traffic needs its share of instances."""
    world.write(word)
    edits = {
        "headgate.yml": ("  small:", f"  slice: {{cpus: 0.1, memory_gb: 0.25, gpus: 1, gpu_resource: {SLICE}, "
                         f"node_pool: {GPU_POOL}}}\n  small:"),
        "endpoints/greet/deployments/blue.yml": (
            "instance_type: small\ninstance_count: 1", f"instance_type: slice\ninstance_count: {count}"
        ),
        "endpoints/greet/rollout.yml": (
            "gates: {error-rate: {}}",
            f"on_failure: hold\ncapacity: {capacity}\ngates: {{error-rate: {{max_rate: 5%}}}}",
        ),
    }  # fmt: skip
    for name, (old, new) in edits.items():
        path = world.work / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))


@pytest.fixture(scope="module")
def installed(installation: Installation, slices: str) -> Installation:
    write(installation, "hello")
    first = installation.push("first")
    installation.install()
    within(120, lambda: installation.get("onlineendpoint", "greet"), "the endpoint is shown")
    settled(installation, first)
    return installation


def settled(world: Installation, commit: str) -> None:
    def live() -> bool:
        return world.headgate("status", "greet", "--watch", "--commit", commit, "--timeout", "60s").returncode == 0

    within(ROLLOUT_S, live, f"{commit[:10]} is live")


def said(world: Installation) -> str:
    with world.forward("svc/headgate-router", "http") as port:
        status, body = ask(port, world.key())
    assert status == 200, body
    return str(json.loads(body)["said"])


@dataclass
class Callers:
    """Two callers over the router's Service, and what each answer was."""

    url: str
    key: str
    seen: list[tuple[float, int, str, str]] = field(default_factory=list)  # when, status, Retry-After, said
    ending: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        address = urlsplit(self.url)
        connection = HTTPConnection(address.hostname or "", address.port or 80, timeout=20)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        while not self.ending.wait(0.05):
            try:
                connection.request("POST", PATH, BODY, headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, HTTPException) as error:
                connection.close()
                self.seen.append((time.monotonic(), 0, "", repr(error)))
                continue
            word = str(json.loads(body).get("said", "")) if answer.status == 200 else ""
            self.seen.append((time.monotonic(), answer.status, answer.headers.get("Retry-After", ""), word))
        connection.close()

    def statuses(self) -> dict[int, int]:
        return {status: sum(s == status for _, s, _, _ in self.seen) for status in {s for _, s, _, _ in self.seen}}


@contextmanager
def callers(world: Installation) -> Iterator[Callers]:
    asking = Callers(world.door("headgate-router", 80), world.key())
    threads = [threading.Thread(target=asking.run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    within(30, lambda: len(asking.seen) > 20, "callers are answered")
    yield asking
    asking.ending.set()
    for thread in threads:
        thread.join()


def models(world: Installation) -> list[Any]:
    return list(world.get("pods", selector="headgate.dev/part=model,headgate.dev/purpose=serve")["items"])


def test_an_instance_type_names_a_slice_of_a_gpu(installed: Installation, slices: str) -> None:
    assert said(installed) == "hello"
    found = models(installed)
    assert [(p["spec"]["nodeName"], p["spec"]["containers"][0]["resources"]["limits"][SLICE]) for p in found] == [
        (slices, "1"),
        (slices, "1"),
    ]


def test_what_the_slices_could_never_hold_is_refused_with_the_arithmetic(installed: Installation) -> None:
    before = installed.git("rev-parse", "HEAD")
    write(installed, "too many", count=SLICES + 1)
    refused = installed.push("more than there are")

    def verdict() -> str:
        found = installed.headgate("rollout", "show", "greet").stdout + installed.headgate("status", "greet").stdout
        return found if "an empty pool would take" in found else ""

    text = within(ROLLOUT_S, verdict, "it is refused")
    print(text)
    assert f"greet/blue asks for {SLICES + 1} × " in text
    assert SLICE in text
    assert [p["metadata"]["labels"]["headgate.dev/purpose"] for p in models(installed)] == ["serve", "serve"]
    assert said(installed) == "hello"
    installed.git("revert", "--no-edit", refused)
    installed.git("push", "-q", "origin", "HEAD:main")
    assert installed.git("diff", before, "HEAD") == ""


def test_parts_of_a_rollout_take_turns_and_no_caller_fails(installed: Installation) -> None:
    """Two that serve and two that come are four; there are three slices."""
    most = 0
    write(installed, "by parts", capacity="partial")
    with callers(installed) as asking:
        commit = installed.push("by parts")
        done = threading.Event()

        def count() -> None:
            nonlocal most
            while not done.wait(0.5):
                most = max(most, len([p for p in models(installed) if p["status"].get("phase") == "Running"]))

        counting = threading.Thread(target=count, daemon=True)
        counting.start()
        settled(installed, commit)
        within(30, lambda: asking.seen[-1][3] == "by parts", "callers have the new one")
        done.set()
        counting.join()
    assert asking.statuses().keys() == {200}, asking.statuses()
    installed.note("requests during a rollout by parts", len(asking.seen))
    keep("cluster", {"partial_requests": len(asking.seen), "partial_failed": 0})
    assert {word for _, _, _, word in asking.seen} == {"hello", "by parts"}
    assert 2 <= most <= SLICES
    assert said(installed) == "by parts"


def test_a_swap_answers_503_until_the_next_one_is_ready(installed: Installation) -> None:
    write(installed, "swapped", capacity="swap")
    with callers(installed) as asking:
        settled(installed, installed.push("swap"))
        within(30, lambda: asking.seen[-1][3] == "swapped", "callers have the new one")
    assert asking.statuses().keys() == {200, 503}, asking.statuses()
    gaps = [(at, after) for at, status, after, _ in asking.seen if status == 503]
    assert all(after for _, after in gaps), "whoever is turned away is told when to come back"
    out_s = gaps[-1][0] - gaps[0][0]
    installed.note("seconds of 503 in a swap", out_s)
    keep("cluster", {"swap_503_s": round(out_s, 1)})
    assert not [at for at, status, _, _ in asking.seen if status == 200 and gaps[0][0] < at < gaps[-1][0]]
    assert {word for at, _, _, word in asking.seen if at < gaps[0][0]} == {"by parts"}
    assert {word for at, _, _, word in asking.seen if at > gaps[-1][0]} == {"swapped"}

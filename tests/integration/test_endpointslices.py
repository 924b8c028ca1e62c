"""A router that finds replicas itself: against an API server that pages, forgets, fails and goes away."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import slices
from headgate import codec
from headgate.table import EndpointRoute, RouteRevision, RouteTable, seal
from headgate_kit import listen
from headgate_kit.layout import DataFolder
from headgate_router.main import Settings, Worker
from headgate_router.resolvers import endpointslices
from headgate_router.resolvers.endpointslices import Cluster, EndpointSlices
from kubeserver import KubeServer, wait_for

ONE, TWO = "http://127.0.0.1:8081", "http://127.0.0.2:8081"
Heard = list[tuple[str, ...]]


def row(service: str = "fraud", per_mille: int = 1000) -> RouteRevision:
    named = f"k8s:{slices.NAMESPACE}/{service}:8081"
    return RouteRevision(f"{service}-1", service, per_mille, (), max_concurrent_per_instance=9, service=named)


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as running:
        yield running


class Following:
    def __init__(self, resolver: EndpointSlices, call: Callable[[Callable[[], Any]], Any]) -> None:
        self.resolver = resolver
        self.call = call

    def service(self, name: str = "fraud") -> Heard:
        heard: Heard = []
        self.call(lambda: self.resolver.follow(row(name), heard.append))
        return heard


@contextmanager
def following(server: KubeServer, folder: Path, **more: str) -> Iterator[Following]:
    with slices.running_loop() as call:
        resolver = EndpointSlices(slices.cluster(server, folder, **more))
        yield Following(resolver, call)
        call(resolver.close)


def lists(server: KubeServer) -> int:
    return sum(asked.verb == "list" and asked.plural == slices.PLURAL for asked in server.requests)


def told(heard: Heard, *addresses: str) -> None:
    wait_for(lambda: bool(heard) and heard[-1] == addresses)


def test_one_watch_serves_every_revision_of_a_namespace(server: KubeServer, tmp_path: Path) -> None:
    slices.put(server, "fraud", slices.ready(ONE))
    slices.put(server, "churn", slices.ready(TWO))
    with following(server, tmp_path) as router:
        fraud, churn = router.service("fraud"), router.service("churn")
        told(fraud, ONE)
        told(churn, TWO)
        wait_for(lambda: server.watching(slices.PLURAL) == 1)
        slices.put(server, "churn", [])
        told(churn)
    assert fraud == [(ONE,)], "another service's change is not told"
    assert lists(server) == 1
    assert {asked.namespace for asked in server.requests} == {slices.NAMESPACE}


def test_a_service_spread_over_slices_and_pages_is_whole(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpointslices, "PAGE", 2)
    expected = [f"http://127.0.1.{number}:8081" for number in range(1, 6)]
    for number, address in enumerate(expected):
        slices.put(server, "fraud", slices.ready(address), name=f"fraud-{number}")
    with following(server, tmp_path) as router:
        heard = router.service()
        told(heard, *expected)
        assert lists(server) == 3
        server.drop(slices.PLURAL, "fraud-0", slices.NAMESPACE)
        told(heard, *expected[1:])
    assert len(heard) == 2, "told once the list is whole, not page by page"


def test_a_replica_that_terminates_is_taken_out_before_it_is_gone(server: KubeServer, tmp_path: Path) -> None:
    both = slices.ready(ONE, TWO)
    slices.put(server, "fraud", both)
    with following(server, tmp_path) as router:
        heard = router.service()
        told(heard, ONE, TWO)
        both[0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
        slices.put(server, "fraud", both)
        told(heard, TWO)


def test_a_history_that_was_forgotten_is_listed_again(server: KubeServer, tmp_path: Path) -> None:
    slices.put(server, "fraud", slices.ready(ONE))
    with following(server, tmp_path) as router:
        heard = router.service()
        told(heard, ONE)
        wait_for(lambda: server.watching(slices.PLURAL) == 1)
        with server.lock:
            slices.put(server, "fraud", slices.ready(TWO))
            server.forget()  # the watch breaks off, and where it stood is too old to go on from
        told(heard, TWO)
    assert heard == [(ONE,), (TWO,)]


def test_a_slice_deleted_while_the_watch_was_down_is_gone_after_the_next_list(
    server: KubeServer, tmp_path: Path
) -> None:
    slices.put(server, "fraud", slices.ready(ONE), name="fraud-a")
    slices.put(server, "fraud", slices.ready(TWO), name="fraud-b")
    with following(server, tmp_path) as router:
        heard = router.service()
        told(heard, ONE, TWO)
        with server.refuse():
            server.drop(slices.PLURAL, "fraud-a", slices.NAMESPACE)
            server.forget()
        told(heard, TWO)


def test_with_no_api_server_the_last_known_addresses_stay(
    server: KubeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slices.put(server, "fraud", slices.ready(ONE))
    with following(server, tmp_path) as router:
        heard = router.service()
        told(heard, ONE)
        with caplog.at_level(logging.WARNING), server.refuse():
            wait_for(lambda: router.resolver.trouble != "")
            again = router.service()
            told(again, ONE)
        wait_for(lambda: router.resolver.trouble == "")
        slices.put(server, "fraud", slices.ready(TWO))
        told(heard, TWO)
    assert heard == [(ONE,), (TWO,)]
    assert "the last known addresses serve on" in caplog.text


@pytest.mark.parametrize("code", [401, 403, 429, 500])
def test_a_refused_list_is_tried_again(server: KubeServer, tmp_path: Path, code: int) -> None:
    slices.put(server, "fraud", slices.ready(ONE))
    server.fail(code, times=2, plural=slices.PLURAL)
    with following(server, tmp_path) as router:
        told(router.service(), ONE)


def test_a_right_that_is_missing_is_named(server: KubeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slices.put(server, "fraud", slices.ready(ONE))
    server.denied.add(("list", slices.PLURAL))
    with following(server, tmp_path) as router, caplog.at_level(logging.WARNING):
        heard = router.service()
        wait_for(lambda: router.resolver.trouble != "")
        server.denied.clear()
        told(heard, ONE)
    assert 'cannot list resource "endpointslices"' in caplog.text


def test_the_token_file_is_read_again_for_each_request(server: KubeServer, tmp_path: Path) -> None:
    slices.put(server, "fraud", slices.ready(ONE))
    token = tmp_path / "token"
    with following(server, tmp_path) as router:
        token.unlink()
        heard = router.service()
        wait_for(lambda: router.resolver.trouble != "")
        assert not server.requests
        token.write_text("renewed")
        told(heard, ONE)


def test_replicas_of_our_zone_are_preferred_once_it_is_known(server: KubeServer, tmp_path: Path) -> None:
    here, there = slices.ready(ONE, TWO)
    slices.put(server, "fraud", [{**here, "zone": "a"}, {**there, "zone": "b"}])
    with following(server, tmp_path, ip="10.0.0.7") as router:
        heard = router.service()
        told(heard, ONE, TWO)
        ours = {"addresses": ["10.0.0.7"], "zone": "b", "conditions": {"ready": True}}
        slices.put(server, "headgate-router", [ours])
        told(heard, TWO)


def test_a_cluster_is_found_as_pods_find_it() -> None:
    pod = Cluster.here({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443", "HEADGATE_ZONE": "a"})
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert (pod.url, str(pod.token_file), str(pod.ca_file)) == (
        "https://[fd00::1]:6443", f"{account}/token", f"{account}/ca.crt",
    )  # fmt: skip
    assert pod.zone == "a"
    outside = {"HEADGATE_KUBE_URL": "http://127.0.0.1:1", "HEADGATE_KUBE_TOKEN_FILE": "/t"}
    assert Cluster.here(outside) == Cluster("http://127.0.0.1:1", Path("/t"), None)


def test_an_authority_that_cannot_be_read_is_trouble_and_not_the_end(server: KubeServer, tmp_path: Path) -> None:
    missing = Cluster("https://127.0.0.1:1", tmp_path / "token", tmp_path / "no-ca")
    (tmp_path / "token").write_text("t")
    with slices.running_loop() as call:
        resolver = EndpointSlices(missing)
        heard: Heard = []
        call(lambda: resolver.follow(row(), heard.append))
        wait_for(lambda: "no-ca" in resolver.trouble)
        call(resolver.close)
    assert heard == []


def test_nobody_following_is_no_watch(server: KubeServer, tmp_path: Path) -> None:
    slices.put(server, "fraud", slices.ready(ONE))
    with following(server, tmp_path) as router:
        heard: Heard = []
        end = router.call(lambda: router.resolver.follow(row(), heard.append))
        told(heard, ONE)
        wait_for(lambda: server.watching(slices.PLURAL) == 1)
        router.call(end)
        wait_for(lambda: server.watching(slices.PLURAL) == 0)
        told(router.service(), ONE)


class Model:
    """Answers 200 with its name; a request for /slow is answered when `released` is set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.released = asyncio.Event()
        self.asked = asyncio.Event()
        self.open = 0

    async def stop(self) -> None:
        self._server.close()
        await until(lambda: self.open == 0)

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                if b"/slow" in head.partition(b"\r\n")[0]:
                    self.asked.set()
                    await self.released.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(self.name), self.name.encode()))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.open -= 1


def table(*revisions: RouteRevision, generation: int = 1) -> RouteTable:
    route = EndpointRoute("e", generation, "c", revisions, keys=(hashlib.sha256(b"key").hexdigest(),))
    return seal(RouteTable(generation, "c", {"e": route}))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_router_follows_replicas_with_no_controller_and_ends_running_answers(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("t")
    monkeypatch.setenv("HEADGATE_KUBE_URL", server.url)
    monkeypatch.setenv("HEADGATE_KUBE_TOKEN_FILE", str(tmp_path / "token"))

    async def scenario() -> None:
        old, new = Model("old"), Model("new")
        slices.put(server, "fraud", slices.ready("127.0.0.1"), port=await old.start(), name="fraud-old")
        data = DataFolder(tmp_path / "data")
        data.prepare()
        data.tables.mkdir()
        (data.tables / "router-0.json").write_bytes(codec.canonical(table(row())))
        worker = Worker(Settings(data, "router-0"))
        sock = listen.bind("127.0.0.1", 0)
        serving = asyncio.create_task(worker.serve(sock))
        caller = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{sock.getsockname()[1]}/endpoints/e/",
            headers={"authorization": "Bearer key"}, trust_env=False, timeout=20,
        )  # fmt: skip

        async def answer(path: str = "score") -> str:
            return (await caller.post(path, content=b"{}")).text

        await until(lambda: worker.routes.addresses.of(row()) != ())
        assert await answer() == "old"
        running = asyncio.create_task(answer("slow"))
        await old.asked.wait()
        port = await new.start()
        slices.put(server, "fraud", slices.ready("127.0.0.1"), port=port, name="fraud-new")
        server.drop(slices.PLURAL, "fraud-old", slices.NAMESPACE)
        await until(lambda: worker.routes.addresses.of(row()) == (f"http://127.0.0.1:{port}",))
        assert {await answer() for _ in range(5)} == {"new"}
        old.released.set()
        assert await running == "old"
        with server.refuse():
            assert {await answer() for _ in range(5)} == {"new"}
        worker.end()
        await serving
        await caller.aclose()
        await old.stop()
        await new.stop()

    asyncio.run(scenario())

"""The cache follows the server through whatever happens to it, and costs no request to read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from headgate_kit.kube import Cache
from headgate_kit.kube import cache as kube_cache
from headgate_kit.kube import client as kube_client
from headgate_kit.kube.kinds import CONFIG_MAP
from kubeserver import KubeServer, wait_for


class Watched:
    """A cache of config maps labelled ours=1, and what it was told."""

    def __init__(self, server: KubeServer) -> None:
        self.server = server
        self.cluster = server.cluster("ns")
        self.told: list[tuple[str, bool]] = []
        self.cache = Cache(self.cluster, CONFIG_MAP, selector="ours=1", on_change=self._tell)

    def _tell(self, item: dict[str, Any], gone: bool) -> None:
        self.told.append((item["metadata"]["name"], gone))

    def put(self, name: str, value: str = "", **labels: str) -> None:
        labels = labels or {"ours": "1"}
        body = {"metadata": {"name": name, "labels": labels, "managedFields": [{}]}, "data": {"v": value}}
        self.server.put("v1", "configmaps", body, namespace="ns")

    def names(self) -> set[str]:
        return {item["metadata"]["name"] for item in self.cache.objects()}


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as server:
        yield server


@pytest.fixture
def watched(server: KubeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(kube_cache, "PAUSE_S", (0.01, 0.1))
    watched = Watched(server)
    yield watched
    watched.cache.close()
    watched.cluster.close()


def test_it_holds_what_is_there_and_what_comes(watched: Watched) -> None:
    watched.put("a")
    watched.put("foreign", ours="0")
    assert watched.cache.start(5)
    assert watched.names() == {"a"}
    watched.put("b")
    wait_for(lambda: watched.names() == {"a", "b"})
    watched.server.drop("configmaps", "a", "ns")
    wait_for(lambda: watched.told == [("a", False), ("b", False), ("a", True)])
    assert watched.names() == {"b"}
    kept = watched.cache.get("b")
    assert kept is not None
    assert "managedFields" not in kept["metadata"]


def test_reading_costs_no_request(watched: Watched) -> None:
    watched.put("a")
    watched.cache.start(5)
    before = len(watched.server.requests)
    for _ in range(1000):
        watched.cache.objects()
        watched.cache.get("a")
    assert len(watched.server.requests) <= before + 1, "the watch itself may have come since"


def test_a_watch_that_breaks_is_resumed_without_a_list(watched: Watched) -> None:
    watched.cache.start(5)
    wait_for(lambda: watched.server.watching("configmaps") == 1)
    for i in range(3):
        watched.server.drop_watches()
        watched.put(f"c{i}")
        wait_for(lambda i=i: f"c{i}" in watched.names())
    assert sum(asked.verb == "list" for asked in watched.server.requests) == 1
    assert watched.told == [(f"c{i}", False) for i in range(3)], "each change is told once"


def test_a_history_that_is_gone_is_listed_again(watched: Watched) -> None:
    watched.put("a")
    watched.put("b")
    watched.cache.start(5)
    wait_for(lambda: watched.server.watching("configmaps") == 1)
    with watched.server.lock:
        watched.server.drop("configmaps", "a", "ns")
        watched.put("b", "2")
        watched.put("c")
        watched.server.forget()
    wait_for(lambda: watched.names() == {"b", "c"})
    wait_for(lambda: ("a", True) in watched.told and watched.told.count(("b", False)) == 2)


def test_it_is_never_empty_because_the_server_is_away(watched: Watched) -> None:
    watched.put("a")
    watched.cache.start(5)
    with watched.server.refuse():
        wait_for(lambda: watched.cache.trouble != "")
        assert watched.names() == {"a"}
    watched.put("b")
    wait_for(lambda: watched.names() == {"a", "b"} and not watched.cache.trouble)


@pytest.mark.parametrize("code", [429, 500, 403, 410])
def test_it_carries_on_after_a_refusal(watched: Watched, code: int) -> None:
    watched.put("a")
    watched.server.fail(code, 3, plural="configmaps")
    assert watched.cache.start(10)
    assert watched.names() == {"a"}


def test_a_watch_that_is_not_allowed_is_asked_for_more_and_more_rarely(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kube_cache, "PAUSE_S", (0.01, 0.8))
    watched.server.denied.add(("watch", "configmaps"))
    watched.put("a")
    watched.cache.start(5)
    wait_for(lambda: re.search(r"cannot watch.*tried again in (0\.[5-9]|1\.\d) s", caplog.text) is not None)
    assert watched.names() == {"a"}
    watched.server.denied.clear()
    watched.put("b")
    wait_for(lambda: watched.names() == {"a", "b"} and not watched.cache.trouble)


def test_a_watch_that_is_too_old_every_time_is_listed_more_and_more_rarely_and_said_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kube_cache, "PAUSE_S", (0.01, 0.5))
    caplog.set_level(logging.DEBUG, logger=kube_cache.log.name)
    watched.server.fail(410, 10**9, plural="configmaps", verb="watch")
    watched.put("a")
    watched.cache.start(5)
    wait_for(lambda: re.search(r"more and more rarely.*in 0\.[3-9]\d s", caplog.text) is not None)
    lists = sum(asked.verb == "list" for asked in watched.server.requests)
    assert lists <= 10, "0.01 s doubled to 0.5 s is six pauses, and the first list again comes at once"
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    assert watched.names() == {"a"}
    watched.server.calm()
    watched.put("b")
    wait_for(lambda: watched.names() == {"a", "b"} and not watched.cache.trouble)


def test_watches_that_end_at_once_are_not_opened_without_a_pause(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kube_cache, "PAUSE_S", (0.01, 0.5))
    with monkeypatch.context() as patched:
        patched.setattr(kube_client, "WATCH_S", 0)  # as a proxy that allows no long answers does
        watched.cache.start(5)
        wait_for(lambda: re.search(r"ended at once; tried again in 0\.[3-9] s", caplog.text) is not None)
        assert sum(asked.verb == "watch" for asked in watched.server.requests) <= 10
    watched.put("b")
    wait_for(lambda: watched.names() == {"b"} and not watched.cache.trouble)


def test_a_listeners_bug_does_not_end_it(server: KubeServer) -> None:
    told = []

    def fall_over(item: dict[str, Any], gone: bool) -> None:
        told.append(item["metadata"]["name"])
        raise RuntimeError("a bug")

    cluster = server.cluster("ns")
    cache = Cache(cluster, CONFIG_MAP, on_change=fall_over)
    cache.start(5)
    for name in ("a", "b"):
        server.put("v1", "configmaps", {"metadata": {"name": name}}, namespace="ns")
    wait_for(lambda: told == ["a", "b"])
    cache.close()
    cluster.close()


def test_closing_ends_its_thread_though_nothing_happens(watched: Watched) -> None:
    watched.cache.start(5)
    wait_for(lambda: watched.server.watching("configmaps") == 1)
    watched.cache.close()
    assert not watched.cache._thread.is_alive()

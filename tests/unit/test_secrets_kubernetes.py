"""Keys and other secrets in a cluster: the port's promises, two controllers at once, hands from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from headgate.findings import TerminalError, TransientError
from headgate.ports import Secrets
from headgate.testing import SECRETS, Check
from headgate_controllers.secrets import kubernetes as module
from headgate_controllers.secrets.kubernetes import KubernetesSecrets
from kubeserver import KubeServer, wait_for


@pytest.fixture
def server() -> Iterator[KubeServer]:
    with KubeServer() as server:
        yield server


@pytest.fixture
def store(server: KubeServer) -> Iterator[KubernetesSecrets]:
    made = opened(server)
    yield made
    made.close()


def opened(server: KubeServer) -> KubernetesSecrets:
    made = KubernetesSecrets(server.cluster("ns"))
    made.start()
    return made


@pytest.mark.parametrize("check", SECRETS, ids=str)
def test_secrets_of_a_cluster(check: Check[Secrets], store: KubernetesSecrets) -> None:
    check(store)


def test_keys_are_made_once_whoever_asks_first(server: KubeServer, store: KubernetesSecrets) -> None:
    other = opened(server)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: (store, other)[i % 2].keys("Fraud"), range(16)))
    assert len(set(found)) == 1
    assert found[0].primary != found[0].secondary
    assert server.find("secrets", "headgate-keys-fraud", "ns") is not None
    other.close()


def test_reading_known_keys_costs_no_request(server: KubeServer, store: KubernetesSecrets) -> None:
    store.keys("fraud")
    before = len(server.requests)
    for _ in range(100):
        store.digests("fraud")
    assert len(server.requests) <= before + 1, "the watch itself may have come since"


def test_rotating_one_key_keeps_the_other_and_every_controller_hears_of_it(
    server: KubeServer, store: KubernetesSecrets
) -> None:
    other = opened(server)
    before = store.keys("fraud")
    after = store.rotate("fraud", "primary")
    assert (after.primary != before.primary, after.secondary) == (True, before.secondary)
    assert store.keys("fraud") == after
    wait_for(lambda: other.keys("fraud") == after)
    other.close()


def test_a_key_replaced_by_hand_counts(server: KubeServer, store: KubernetesSecrets) -> None:
    store.keys("fraud")
    found = server.find("secrets", "headgate-keys-fraud", "ns")
    assert found is not None
    found["data"]["primary"] = base64.b64encode(b"from-a-vault").decode()
    server.put("v1", "secrets", found, "ns")
    wait_for(lambda: store.keys("fraud").primary == "from-a-vault")
    assert store.digests("fraud")[0] == hashlib.sha256(b"from-a-vault").hexdigest()


def test_a_key_taken_out_is_said_without_the_other(server: KubeServer, store: KubernetesSecrets) -> None:
    kept = store.keys("fraud").secondary
    found = server.find("secrets", "headgate-keys-fraud", "ns")
    assert found is not None
    del found["data"]["primary"]
    server.put("v1", "secrets", found, "ns")
    wait_for(lambda: "primary" not in store._known["headgate-keys-fraud"]["data"])
    with pytest.raises(TerminalError, match="has no `primary`") as caught:
        store.keys("fraud")
    assert kept not in str(caught.value)


def test_a_cluster_that_was_never_seen_makes_no_new_keys(server: KubeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_S", 0.05)
    server.fail(500, 100, plural="secrets")
    store = opened(server)
    with pytest.raises(TransientError, match="not seen yet"):
        store.keys("fraud")
    assert server.all("secrets") == []
    store.close()


def test_there_is_no_third_key(store: KubernetesSecrets) -> None:
    with pytest.raises(ValueError, match="primary or secondary"):
        store.rotate("fraud", "tertiary")


def test_foreign_secrets_are_not_ours_to_read(server: KubeServer, store: KubernetesSecrets) -> None:
    server.put("v1", "secrets", {"metadata": {"name": "db"}, "data": {"value": "eA=="}}, "ns")
    with pytest.raises(LookupError):
        store.get("db")

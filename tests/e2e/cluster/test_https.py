"""Routers that speak HTTPS by a Secret: through the Service, while it is replaced, and to who speaks plain HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509

import certificates
from installation import BODY, PATH, Installation, within

HANDSHAKES = 30  # with two routers behind the Service, none but one in 2^29 of these misses one of them
RENEWED_S = 180.0  # a kubelet takes up to a minute and its cache's delay to show a pod a changed Secret


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> certificates.Files:
    return certificates.write(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def installed(installation: Installation, first: certificates.Files) -> Installation:
    """Headgate with HTTPS routers and an endpoint that is ready."""
    installation.write("hello")
    installation.push("first")
    give(installation, first)
    installation.install(**{"router.tls.secretName": "router-tls"})
    within(120, lambda: installation.get("onlineendpoint", "greet"), "the endpoint is shown")
    installation.kubectl("wait", "--for=condition=Ready", "onlineendpoint/greet", "--timeout=110s")
    installation.kubectl("rollout", "status", "deployment/headgate-router", "--timeout=110s")
    return installation


def give(installed: Installation, files: certificates.Files) -> None:
    """The Secret, made or replaced."""
    data = {file.name: base64.b64encode(file.read_bytes()).decode() for file in (files.chain, files.key)}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "router-tls"}, "type": "kubernetes.io/tls"}
    installed.kubectl("apply", "-f", "-", stdin=json.dumps({**secret, "data": data}))


def trusting(*files: certificates.Files) -> ssl.SSLContext:
    """Takes these certificates and no other; the address they are met at is the cluster's, not the certificate's."""
    context = ssl.create_default_context(cadata="".join(file.chain.read_text() for file in files))
    context.check_hostname = False
    return context


@pytest.fixture(scope="module")
def door(installed: Installation) -> tuple[str, int]:
    """The Service, as this machine reaches it."""
    url = urlsplit(installed.door("headgate-router", 443))
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


def ask(door: tuple[str, int], key: str, context: ssl.SSLContext | None) -> tuple[int, bytes]:
    """One request on a connection of its own; without a context by plain HTTP."""
    made = (
        http.client.HTTPConnection(*door, timeout=10)
        if context is None
        else http.client.HTTPSConnection(*door, timeout=10, context=context)
    )
    try:
        made.request("POST", PATH, BODY, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
        answer = made.getresponse()
        return answer.status, answer.read()
    finally:
        made.close()


def serial(files: certificates.Files) -> int:
    return x509.load_pem_x509_certificate(files.chain.read_bytes()).serial_number


def shown(door: tuple[str, int], context: ssl.SSLContext) -> int:
    """The serial number of the certificate that one handshake shows."""
    made = http.client.HTTPSConnection(*door, timeout=10, context=context)
    made.connect()
    try:
        der = made.sock.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number
    finally:
        made.close()


@contextmanager
def callers(door: tuple[str, int], key: str, context: ssl.SSLContext) -> Iterator[Counter[str]]:
    """Somebody who calls all the while, each time by a new handshake; what came of it."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def call() -> None:
        while not over.wait(0.05):
            try:
                seen[str(ask(door, key, context)[0])] += 1
            except (OSError, http.client.HTTPException) as error:
                seen[repr(error)] += 1

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield seen
    finally:
        over.set()
        caller.join()


def test_callers_are_answered_by_https_through_the_service(
    installed: Installation, door: tuple[str, int], first: certificates.Files
) -> None:
    status, body = ask(door, installed.key(), trusting(first))
    assert (status, json.loads(body)) == (200, {"said": "hello", "to": "ada"})
    url = installed.get("onlineendpoint", "greet")["status"]["url"]
    assert url == f"https://headgate-router.{installed.namespace}/endpoints/greet/score"


def test_plain_http_is_refused_unread(installed: Installation, door: tuple[str, int]) -> None:
    status, body = ask(door, installed.key(), None)
    assert (status, json.loads(body)["error"]["code"]) == (400, "tls-needed")


def test_a_replaced_secret_is_served_without_a_restart_and_without_a_lost_answer(
    installed: Installation, door: tuple[str, int], first: certificates.Files, tmp_path: Path
) -> None:
    def pods() -> dict[str, int]:
        found = installed.get("pods", selector="headgate.dev/part=router")["items"]
        return {p["metadata"]["uid"]: sum(c["restartCount"] for c in p["status"]["containerStatuses"]) for p in found}

    before, second = pods(), certificates.write(tmp_path, "another")
    both = trusting(first, second)
    assert {shown(door, both) for _ in range(HANDSHAKES)} == {serial(first)}
    with callers(door, installed.key(), both) as seen:
        give(installed, second)
        within(RENEWED_S, lambda: {shown(door, both) for _ in range(HANDSHAKES)} == {serial(second)}, "all show it")
    installed.note("requests while the certificate was renewed", float(seen.total()))
    assert set(seen) == {"200"}, seen
    assert pods() == before
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(door, installed.key(), trusting(first))

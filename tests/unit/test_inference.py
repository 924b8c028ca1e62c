"""The contract's edges that need no worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from headgate_serving.inference import ClientGone, Inference, TooLarge, read_body, request_ids
from headgate_serving.workers import Crew


def app() -> Inference:
    crew = Crew("python", {}, Path("/"), count=1, preload=False)
    return Inference(crew, scoring_path="/predict", body_limit=10, run_limit_s=1.0)


def ask(
    path: str, method: str = "GET", headers: list[tuple[bytes, bytes]] | None = None
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    scope = {"type": "http", "path": path, "method": method, "headers": headers or [], "query_string": b""}
    asyncio.run(app()(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        pytest.param("/", "GET", 200, id="alive-while-init-runs"),
        pytest.param("/", "HEAD", 200, id="head"),
        pytest.param("/ready", "GET", 503, id="not-ready"),
        pytest.param("/predict", "POST", 503, id="scoring-before-ready"),
        pytest.param("/predict", "OPTIONS", 200, id="options"),
        pytest.param("/predict", "DELETE", 405, id="method"),
        pytest.param("/score", "POST", 404, id="another-scoring-path"),
        pytest.param("/metrics", "GET", 404, id="unknown"),
        pytest.param("/swagger.json", "GET", 200, id="swagger"),
    ],
)
def test_routes(path: str, method: str, status: int) -> None:
    assert ask(path, method)[0] == status


def test_swagger_names_the_scoring_path() -> None:
    assert "/predict" in json.loads(ask("/swagger.json")[2])["paths"]


def test_every_answer_carries_request_ids() -> None:
    _, headers, _ = ask("/", headers=[(b"x-ms-request-id", b"mine")])
    assert headers[b"x-ms-request-id"] == headers[b"x-ms-client-request-id"] == b"mine"
    assert len(ask("/")[1][b"x-ms-request-id"]) == 36


def test_an_id_of_the_client_is_used_when_there_is_no_other() -> None:
    ids = dict(request_ids([(b"x-ms-client-request-id", b"c"), (b"x-request-id", b"r")]))
    assert ids == {b"x-request-id": b"r", b"x-ms-request-id": b"c", b"x-ms-client-request-id": b"c"}


def test_an_overlong_id_is_refused() -> None:
    assert ask("/", headers=[(b"x-ms-request-id", b"x" * 101)])[0] == 431


def body_of(*events: dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None) -> bytes:
    left = list(events)

    async def receive() -> MutableMapping[str, Any]:
        return left.pop(0)

    return asyncio.run(read_body(headers or [], receive, 10))


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_parts_is_one() -> None:
    assert body_of(part(b"a", more=True), part(b"b")) == b"ab"


def test_a_body_above_the_limit_is_refused_before_it_is_read_or_while() -> None:
    with pytest.raises(TooLarge):
        body_of(headers=[(b"content-length", b"11")])
    with pytest.raises(TooLarge):
        body_of(part(b"12345678", more=True), part(b"901"))


def test_a_caller_who_leaves_while_sending_is_not_served() -> None:
    with pytest.raises(ClientGone):
        body_of(part(b"a", more=True), {"type": "http.disconnect"})

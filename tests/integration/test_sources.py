"""What metric sources answer wrongly, over real HTTP, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from headgate.evidence import Need, Sample
from headgate.ports import Window
from headgate.process import MetricSource
from headgate_controllers.sources.prometheus import PrometheusSource
from headgate_controllers.sources.reply import MAX_BYTES
from headgate_controllers.sources.webhook import WebhookSource
from metricserver import MetricServer

NOW = 1_700_000_000.0
NEED = Need("sample", ("step",), "prom", 'up{revision="$revision",job="$endpoint-$deployment"} == $1', ("candidate",))
WINDOW = Window("fraud", "green", "0a1b", "candidate", NOW)


@pytest.fixture
def server() -> Iterator[MetricServer]:
    with MetricServer() as running:
        yield running


def vector(*values: Any, at: float = NOW) -> bytes:
    series = [{"metric": {}, "value": [at, value]} for value in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": series}}).encode()


def data(kind: str, result: Any) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


def failed(kind: str, said: str) -> bytes:
    return json.dumps({"status": "error", "errorType": kind, "error": said}).encode()


def collected(source: Any) -> tuple[float | None, str, str]:
    found = source.collect(NEED, WINDOW)
    source.close()
    assert isinstance(found, Sample)
    return found.value, found.problem, found.said


@pytest.mark.parametrize(
    ("status", "body", "value", "problem", "said"),
    [
        (200, vector("1.5"), 1.5, "", ""),
        (200, data("scalar", [NOW, "2"]), 2.0, "", ""),
        (200, vector(), None, "empty", ""),
        (200, vector("1", "2", "3"), None, "many", "3 series: aggregate"),
        (200, vector("NaN"), None, "nan", ""),
        (200, vector("-Inf"), None, "infinite", "-inf"),
        (200, vector("1", at=NOW - 301), None, "stale", "301 s old"),
        (200, vector("one"), None, "refused", "`one` is no number"),
        (200, vector(None), None, "refused", "no number"),
        (200, vector("1", at=True), None, "refused", "no time"),
        (200, data("matrix", []), None, "refused", "gives a matrix"),
        (200, data("string", [NOW, "x"]), None, "refused", "gives a string"),
        (200, data("vector", [{"metric": {}}]), None, "refused", "not as Prometheus writes it"),
        (200, b"[]", None, "refused", "no JSON object"),
        (200, b'{"status": "success", "data": 5}', None, "refused", "no JSON object"),
        (200, b"<html>", None, "refused", "HTTP 200, and the answer is no JSON"),
        (200, b"[" * 100_000, None, "refused", "no JSON"),
        (200, b" " * (MAX_BYTES + 1), None, "refused", "longer than"),
        (400, failed("bad_data", "1:4: parse error"), None, "refused", "HTTP 400 1:4: parse error"),
        (422, failed("execution", "x" * 1000), None, "refused", "HTTP 422 xxx"),
        (503, failed("timeout", "query timed out"), None, "timeout", "query timed out"),
        (401, b"{}", None, "refused", "HTTP 401"),
        (302, b"{}", None, "refused", "HTTP 302"),
    ],
    ids=[
        "vector", "scalar", "empty", "many", "nan", "infinite", "stale", "text", "null", "no-time", "matrix", "string",
        "no-value", "list", "no-data", "html", "deep", "long", "bad-query", "long-error", "query-timeout", "no-token",
        "redirect",
    ],
)  # fmt: skip
def test_what_prometheus_answers(
    server: MetricServer, status: int, body: bytes, value: float | None, problem: str, said: str
) -> None:
    server.raw = (status, body)
    found = collected(PrometheusSource(MetricSource("prometheus", server.url)))
    assert found[:2] == (value, problem)
    assert said in found[2]
    assert len(found[2]) <= 200


@pytest.mark.parametrize(
    ("body", "value", "problem"),
    [
        (b'{"value": 3}', 3.0, ""),
        (b'{"value": 3, "at": 1699999999}', 3.0, ""),
        (b'{"value": 3, "at": 1}', None, "stale"),
        (b'{"value": 3, "at": "today"}', None, "refused"),
        (b'{"value": null}', None, "empty"),
        (b'{"value": "3"}', None, "refused"),
        (b'{"value": true}', None, "refused"),
        (b'{"value": NaN}', None, "nan"),
        (b'{"value": 1' + b"0" * 400 + b"}", None, "infinite"),
        (b"{}", None, "refused"),
    ],
    ids=str,
)
def test_what_a_hook_answers(server: MetricServer, body: bytes, value: float | None, problem: str) -> None:
    server.raw = (200, body)
    assert collected(WebhookSource(MetricSource("webhook", server.url)))[:2] == (value, problem)


def test_a_query_is_filled_with_whom_it_is_about_and_nothing_else(server: MetricServer) -> None:
    collected(PrometheusSource(MetricSource("prometheus", server.url)))
    collected(WebhookSource(MetricSource("webhook", server.url)))
    prometheus, hook = server.asked
    assert prometheus["query"] == hook["query"] == 'up{revision="0a1b",job="fraud-green"} == $1'
    assert prometheus["time"] == "1700000000.000"
    assert (hook["endpoint"], hook["deployment"], hook["revision"], hook["arm"]) == (
        "fraud", "green", "0a1b", "candidate"
    )  # fmt: skip


def test_an_answer_that_drips_is_given_up_in_time(server: MetricServer) -> None:
    server.drip_s, server.raw = 0.05, (200, vector("1.5"))
    found = collected(PrometheusSource(MetricSource("prometheus", server.url, timeout_s=0.3)))
    assert found[:2] == (None, "timeout")


def test_nobody_there_is_a_word_and_not_an_error() -> None:
    with MetricServer() as gone:
        url = gone.url
    assert collected(PrometheusSource(MetricSource("prometheus", url)))[1] == "unreachable"
    assert collected(WebhookSource(MetricSource("webhook", "http://[::bad")))[1] == "unreachable"


def test_a_token_is_sent_and_never_said(server: MetricServer) -> None:
    server.raw = (401, b'{"error": "who are you"}')
    found = collected(PrometheusSource(MetricSource("prometheus", server.url), "s3cret"))
    assert server.tokens == ["Bearer s3cret"]
    assert "s3cret" not in str(found)

from __future__ import annotations

import pytest

from headgate import settings
from headgate.findings import Finding
from headgate.process import InstanceType, Issuer, MetricSource, MirrorPhase, Process, Settings
from headgate.yamltext import parse

FULL = """\
smoke: {request: ask.json}
mirror: {percent: 20%, soak: 500ms, echo: 5%}
steps: [5, 25%, 100]
soak: 5s
max_soak: 2h
false_abort: 1%
min_requests: 20
gates:
  error-rate: {max_increase: 0.5%}
  latency-p99:
on_failure: hold
keep_warm: 1d
repeatable: no
sticky: header:x-user
redact: [$.name]
websocket: [chat]
"""


def process(text: str) -> tuple[Process, tuple[Finding, ...]]:
    document = parse(text.encode(), "rollout.yml").document
    assert document
    return settings.read_process(document, Process())


def test_every_field_of_rollout_yml_is_read() -> None:
    assert process(FULL) == (
        Process(
            mirror=MirrorPhase(20.0, 0.5, 0.05),
            steps=(5.0, 25.0, 100.0),
            soak_s=5.0,
            max_soak_s=7200.0,
            false_abort=0.01,
            gates={"error-rate": {"max_increase": "0.5%"}, "latency-p99": {}},
            on_failure="hold",
            keep_warm_s=86400.0,
            repeatable=False,
            sticky="header:x-user",
            redact=("$.name",),
            websocket=("chat",),
            smoke_request="ask.json",
            min_requests=20,
        ),
        (),
    )


def test_an_empty_field_list_is_the_default() -> None:
    assert process("{}") == (Process(), ())


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("steps: [5, 25, 50]\n", "rollout-steps", "rollout.yml:1:16"),
        ("steps: [25, 5, 100]\n", "rollout-steps", "rollout.yml:1:13"),
        ("steps: [0, 100]\n", "rollout-steps", "rollout.yml:1:9"),
        ("steps: []\n", "rollout-steps", "rollout.yml:1:8"),
        ("steps: [101%]\n", "bad-value", "rollout.yml:1:9"),
        ("false_abort: 90%\n", "bad-value", "rollout.yml:1:14"),
        ("soak: 3h\n", "rollout-soak", "rollout.yml:1:7"),
        ("soak: 5m\nmax_soak: 1m\n", "rollout-soak", "rollout.yml:2:11"),
        ("sticky: cookie\n", "bad-value", "rollout.yml:1:9"),
        ("on_failure: nothing\n", "bad-value", "rollout.yml:1:13"),
        ("gates: {x: 5}\n", "bad-value", "rollout.yml:1:12"),
    ],
)
def test_a_process_that_cannot_end_well_is_refused(text: str, code: str, place: str) -> None:
    read, findings = process(text)
    assert read == Process()
    assert [(f.code, str(f.place)) for f in findings] == [(code, place)]


def test_every_field_of_headgate_yml_is_read() -> None:
    text = """\
instance_types:
  Standard_DS3_v2: {cpus: 4, memory_gb: 14, gpus: 1, node_pool: big, price_per_hour: 0.25}
environments: {sklearn-1.5: [scikit-learn==1.5.2]}
interpreters: {"3.10": /usr/bin/python3.10}
catalogue: models
removal_grace: 1m
metrics: {shop: {kind: prometheus, url: http://prometheus:9090/}}
keda: shop
oidc: {issuer: https://idp.example/t1, audience: [api://scoring], claims: {roles: [scorer]}}
rollout: {soak: 1s}
"""
    document = parse(text.encode(), "headgate.yml").document
    assert document
    assert settings.read_settings(document) == (
        Settings(
            instance_types={"standard_ds3_v2": InstanceType(4.0, 14.0, 1, node_pool="big", price_per_hour=0.25)},
            environments={"sklearn-1.5": ("scikit-learn==1.5.2",)},
            interpreters={"3.10": "/usr/bin/python3.10"},
            catalogue="models",
            removal_grace_s=60.0,
            metrics={"shop": MetricSource("prometheus", "http://prometheus:9090")},
            keda="shop",
            oidc=Issuer("https://idp.example/t1", ("api://scoring",), "", {"roles": ("scorer",)}),
            process=Process(soak_s=1.0),
        ),
        (),
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("instance_types: {a: {}, A: {}}\n", "name-case"),
        ("rollout: {steps: [5]}\n", "rollout-steps"),
        ("catalog: x\n", "unknown-field"),
        ("oidc: {issuer: https://idp.example}\n", "missing-field"),
        ("oidc: {issuer: http://idp.example, audience: [a]}\n", "bad-value"),
        ("oidc: {issuer: https://idp.example, audience: [a], claims: {roles: scorer}}\n", "bad-value"),
    ],
)
def test_a_bad_headgate_yml_answers_the_defaults(text: str, code: str) -> None:
    document = parse(text.encode(), "headgate.yml").document
    assert document
    read, findings = settings.read_settings(document)
    assert read == Settings()
    assert [f.code for f in findings] == [code]


PROMETHEUS = "metrics: {shop: {kind: prometheus, url: http://p:9090}}\n"
HOOK = "metrics: {shop: {kind: webhook, url: http://p:9090}}\n"


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        pytest.param("keda: shop\n", "metric-source", "headgate.yml:1:7", id="no source at all"),
        pytest.param(f"{PROMETHEUS}keda: other\n", "metric-source", "headgate.yml:2:7", id="another source"),
        pytest.param(f"{HOOK}keda: shop\n", "bad-value", "headgate.yml:2:7", id="no Prometheus"),
        pytest.param(
            f"{PROMETHEUS}router: {{dataplane: envoy}}\nkeda: shop\n",
            "dataplane-lacks",
            "headgate.yml:3:7",
            id="routers that do not count",
        ),
    ],
)
def test_keda_needs_a_prometheus_that_knows_the_requests(text: str, code: str, place: str) -> None:
    document = parse(text.encode(), "headgate.yml").document
    assert document
    (found,) = settings.read_settings(document)[1]
    assert (found.code, str(found.place)) == (code, place)


@pytest.mark.parametrize(("text", "value"), [("10m", 600.0), ("500ms", 0.5), ("1.5h", 5400.0), (0, 0.0)])
def test_durations_are_seconds(text: object, value: float) -> None:
    assert settings.seconds(text) == value

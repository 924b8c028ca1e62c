"""What gates need is asked when it is due, and answers become evidence of the op that asked. Over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headgate.evidence import INSTANCE, INSTANCE_FACTS, Look, Need, Result
from headgate.process import InstanceType, MetricSource, MirrorPhase, Process
from headgate.testing import World, deployment, target
from headgate_controllers.collect import Collector, needs, token_of, windows
from headgate_controllers.evidence import Evidence
from headgate_controllers.heads import Heads
from headgate_controllers.instances import fact
from headgate_controllers.judge import Judge
from headgate_controllers.records.sqlite import SqliteRecord
from headgate_controllers.sources.prometheus import PrometheusSource
from headgate_policies.gates.cost import gate as cost
from headgate_policies.gates.metric import gate as metric
from metricserver import MetricServer, within

BLUE, GREEN = deployment("blue"), deployment("green")
GATES = {"metric": metric}
QUERY = 'busy{revision="$revision"}'
METRIC = {"source": "prom", "query": QUERY, "max": 0.9, "max_ratio": 2.0, "passes": 2, "failures": 2, "every": "15s"}


class Desk:
    def __init__(
        self, folder: Path, server: MetricServer, named: Mapping[str, Any] | None = None, gates: Any = GATES
    ) -> None:
        self.record = SqliteRecord(folder / "record.db")
        process = Process(
            mirror=MirrorPhase(percent=0),
            steps=(50, 100),
            soak_s=10,
            gates=named or {"metric-busy": METRIC},
            min_requests=1,
        )
        self.world = World(result=Result.INCONCLUSIVE).commit(target("b1", [BLUE], {"blue": 100}, process=process))
        self.world.commit(target("a2", [BLUE, GREEN], {"green": 100}, process=process))
        self.heads = Heads(self.record, lambda: self.world.now)
        self.evidence = Evidence(self.record, self.heads, lambda: self.world.now)
        self.judge = Judge(self.evidence, gates)
        self.sources = {"prom": MetricSource("prometheus", server.url)}
        self.woken: list[str] = []
        self.collector = Collector(
            heads=self.heads,
            evidence=self.evidence,
            gates=gates,
            kinds={"prometheus": PrometheusSource},
            sources=lambda: self.sources,
            instances=lambda: {"small": InstanceType(gpus=2, price_per_hour=3.6)},
            tokens=folder / "metrics",
            clock=lambda: self.world.now,
            wake=self.woken.append,
        )
        self.heads.change("fraud", lambda draft: setattr(draft, "head", self.world.head))

    def ask(self, now: float) -> list[Look]:
        """One tick, and the looks there are once its questions are answered."""
        before = len(self.woken)
        self.collector.tick(now)
        within(20, lambda: len(self.woken) > before)
        return self.looks()

    def looks(self) -> list[Look]:
        rollout = self.heads.get("fraud").active
        assert rollout
        assert rollout.running
        return self.evidence.looks(rollout.id, rollout.running.name)

    def verdict(self) -> Result:
        verdicts, _ = self.judge.verdicts(self.heads.get("fraud"))
        return next(v.result for v in verdicts if v.gate == "metric-busy")


@pytest.fixture
def server() -> Iterator[MetricServer]:
    with MetricServer() as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, server: MetricServer) -> Iterator[Desk]:
    made = Desk(tmp_path, server)
    yield made
    made.collector.close()
    made.record.close()


def test_both_arms_are_asked_together_and_judged(desk: Desk, server: MetricServer) -> None:
    server.by_revision = {GREEN.revision: 0.5, BLUE.revision: 0.4}
    (look,) = desk.ask(0.0)
    assert [(s.arm, s.value, s.query) for s in look.samples] == [("candidate", 0.5, QUERY), ("stable", 0.4, QUERY)]
    assert (look.phase, desk.woken, desk.verdict()) == ("step", ["fraud"], Result.INCONCLUSIVE)
    desk.ask(15.0)
    assert desk.verdict() is Result.PASS


def test_what_is_over_its_limit_fails(desk: Desk, server: MetricServer) -> None:
    server.by_revision = {GREEN.revision: 0.85, BLUE.revision: 0.4}
    desk.ask(0.0)
    desk.ask(20.0)
    assert desk.verdict() is Result.FAIL


def test_nothing_is_asked_before_it_is_due(desk: Desk, server: MetricServer) -> None:
    desk.ask(0.0)
    desk.collector.tick(14.9)
    desk.ask(15.0)
    assert len(server.asked) == 4


def test_a_source_that_is_not_there_is_an_error_that_says_so(desk: Desk, server: MetricServer) -> None:
    desk.sources = {}
    (look,) = desk.ask(0.0)
    assert {(s.problem, s.said) for s in look.samples} == {("refused", "headgate.yml has no such source")}
    assert (desk.verdict(), server.asked) == (Result.ERROR, [])


def test_an_endpoint_without_a_rollout_asks_nothing(desk: Desk, server: MetricServer) -> None:
    draft = desk.world.draft()
    draft.op(live_at=None)
    desk.world.keep(draft)
    desk.heads.change("fraud", lambda draft: setattr(draft, "head", desk.world.head))
    desk.collector.tick(0.0)
    assert (server.asked, desk.looks()) == ([], [])


def test_gates_without_samples_need_none() -> None:
    assert needs(Process(gates={"metric": {}, "unknown": {}}), GATES) == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://prom.example.org/api", "plain"),
        ("https://PROM.example.org:9090", "with port"),
        ("http://other.example.org", ""),
        ("http://../metrics", ""),
        ("http:///prom.example.org", ""),
    ],
)
def test_a_token_goes_to_its_own_host_only(tmp_path: Path, url: str, expected: str) -> None:
    (tmp_path / "prom.example.org").write_text("plain\n")
    (tmp_path / "prom.example.org:9090").write_text("with port\n")
    assert token_of(tmp_path, url) == expected


def test_what_a_replica_is_needs_no_source_and_is_told_of_both(desk: Desk) -> None:
    wanted = [
        Need("sample", ("step",), INSTANCE, query, ("candidate", "stable")) for query in (*INSTANCE_FACTS, "mood")
    ]
    head, types = desk.heads.get("fraud"), {"small": InstanceType(gpus=2, price_per_hour=3.6)}
    said = [fact(head, types, need, window) for need in wanted for window in windows(head, need, 0.0)]
    told = {(sample.arm, sample.query): sample.value for sample in said}
    for arm in ("candidate", "stable"):
        assert [told[arm, query] for query in (*INSTANCE_FACTS, "mood")] == [1.0, 2.0, 3.6, None]
    undeclared = [fact(head, {}, need, window) for need in wanted[:3] for window in windows(head, need, 0.0)]
    assert {sample.value for sample in undeclared} == {1.0, 0.0}


def test_the_cost_gate_is_told_what_it_needs_within_the_op(tmp_path: Path, server: MetricServer) -> None:
    desk = Desk(tmp_path, server, {"cost": {}}, {"cost": cost})
    desk.collector.tick(0.0)
    within(20, lambda: len(desk.woken) >= len(INSTANCE_FACTS))
    samples = [sample for look in desk.looks() for sample in look.samples]
    assert {(s.arm, s.query) for s in samples} == {(a, q) for a in ("candidate", "stable") for q in INSTANCE_FACTS}
    assert all(sample.source == INSTANCE and sample.value is not None for sample in samples)
    desk.collector.close()
    desk.record.close()

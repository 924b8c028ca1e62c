"""/metrics of the controller: computed at scrape time from what is recorded and observed; nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headgate.control import EndpointStatus
from headgate_kit.counts import CLUSTER_REFUSED, CLUSTER_REQUESTS

if TYPE_CHECKING:
    from headgate_controllers.controller import Controller


def registry(controller: Controller) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(_View(controller))
    found.register(controller.reconciler.delay)
    found.register(CLUSTER_REQUESTS)
    found.register(CLUSTER_REFUSED)
    return found


class _View(Collector):
    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> Iterator[Metric]:
        status = self._controller.status()
        up = GaugeMetricFamily("headgate_repo_readable", "1 when the endpoints repo could be read last time")
        up.add_metric([], float(not status.repo_error))
        yield up
        generation = GaugeMetricFamily("headgate_table_generation", "generation of the published route table")
        generation.add_metric([], self._controller.routes.table.generation)
        yield generation
        workers = GaugeMetricFamily(
            "headgate_router_acked_generation", "generation a router worker serves", labels=["worker", "lost"]
        )
        for worker in status.workers:
            workers.add_metric([worker.worker, str(worker.lost).lower()], worker.acked)
        yield workers
        drift = GaugeMetricFamily("headgate_drift", "places where git, record, table and counters disagree")
        drift.add_metric([], len(status.drift))
        yield drift
        yield from self._endpoints(status.endpoints)

    def _endpoints(self, endpoints: Sequence[EndpointStatus]) -> Iterator[Metric]:
        weight = GaugeMetricFamily(
            "headgate_rollout_weight", "live traffic asked, per mille", labels=["endpoint", "deployment", "revision"]
        )
        phase = GaugeMetricFamily("headgate_endpoint_state", "1 for the state it is in", labels=["endpoint", "state"])
        ready = GaugeMetricFamily(
            "headgate_replicas_ready", "ready replicas", labels=["endpoint", "deployment", "revision"]
        )
        for endpoint in endpoints:
            phase.add_metric([endpoint.name, endpoint.state], 1)
            for row in endpoint.revisions:
                labels = [endpoint.name, row.deployment, row.revision]
                weight.add_metric(labels, row.per_mille)
                ready.add_metric(labels, row.ready)
        yield from (weight, phase, ready)
        seen = CounterMetricFamily(
            "headgate_evidence_requests", "requests received as evidence", labels=["endpoint", "revision", "outcome"]
        )
        for (name, revision, outcome), n in sorted(self._controller.evidence.totals().items()):
            seen.add_metric([name, revision, outcome], n)
        yield seen

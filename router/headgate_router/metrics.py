"""`/metrics`: this worker's plain slots as Prometheus families, built when somebody asks.

Each worker shows its own, with its name as a label: summing is the scraper's work, never the hot path's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headgate.evidence import bucket_ms
from headgate.version import __version__
from headgate_router.copies import Mirrors
from headgate_router.count import Book, Slots
from headgate_router.datapath import data_path
from headgate_router.feed import Feed
from headgate_router.routes import Routes
from headgate_router.tunnels import Tunnels

# Upper bounds in seconds. The slots are 5 % wide; these are what dashboards are used to.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PREFIX = "headgate_router"
STATES = ("running", "waiting", "copied")
REVISION = ("worker", "endpoint", "deployment", "revision")


class RouterCollector(Collector):
    """Reads the slots of the event loop it runs on."""

    def __init__(
        self,
        worker: str,
        routes: Routes,
        book: Book,
        mirrors: Mirrors,
        feed: Feed | None,
        clock: Callable[[], float],
        doors: Callable[[], Iterable[tuple[str, str, float]]] = tuple,
        *,
        places: bool = True,
    ) -> None:
        """`doors`: counters of the worker's doors, each a name, what it says, and its value.

        `places`: requests take places of this process. Else nobody here knows how many a revision has, which is no 0.
        """
        self._worker = worker
        self._routes = routes
        self._book = book
        self._mirrors = mirrors
        self._feed = feed
        self._clock = clock
        self._doors = doors
        self._places = places

    def collect(self) -> Iterable[Metric]:
        totals = self._book.totals()
        names = self._deployments()
        yield self._requests(totals.live, totals.refused, names)
        yield self._histogram("request_duration_seconds", "Until the whole answer came", totals.live, names)
        yield self._histogram("first_byte_seconds", "Until the answer's head came", totals.live, names, first=True)
        yield self._by_outcome("outcomes", "Live requests by outcome", totals.live, names)
        yield self._by_outcome("mirrored", "Copies sent to be compared, by outcome", totals.mirrored, names)
        yield self._histogram("mirrored_duration_seconds", "Copies, until the whole answer", totals.mirrored, names)
        dropped = CounterMetricFamily(
            f"{PREFIX}_mirror_dropped", "Copies not sent or not paired", labels=["worker", "endpoint", "reason"]
        )
        for (endpoint, why), n in totals.dropped.items():
            dropped.add_metric([self._worker, endpoint, why], n)
        yield dropped
        yield self._replicas()
        if self._places:
            yield self._open()
        yield from self._of_worker()
        for name, text, value in self._doors():
            yield self._counter(name, text, value)

    def _replicas(self) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}_replicas", "Replicas known to this worker", labels=list(REVISION))
        table = self._routes.table
        for name, route in table.endpoints.items() if table is not None else ():
            for row in route.revisions:
                labels = [self._worker, name, row.deployment, row.revision]
                family.add_metric(labels, len(self._routes.addresses.last(row)))
        return family

    def _open(self) -> Metric:
        """Every revision of the table has its series, at 0 too: who scales by it must tell nothing from not known."""
        text = "Requests of a revision that run, wait for a place, or are copies"
        family = GaugeMetricFamily(f"{PREFIX}_requests_open", text, labels=[*REVISION, "state"])
        table = self._routes.table
        for name, route in table.endpoints.items() if table is not None else ():
            for row in route.revisions:
                labels = [self._worker, name, row.deployment, row.revision]
                for state, n in zip(STATES, self._routes.open(name, row.revision), strict=True):
                    family.add_metric([*labels, state], n)
        return family

    def _deployments(self) -> Mapping[tuple[str, str], str]:
        table = self._routes.table
        routes = table.endpoints.items() if table is not None else ()
        return {(name, r.revision): r.deployment for name, route in routes for r in route.revisions}

    def _requests(
        self,
        live: Mapping[tuple[str, str], Slots],
        refused: Mapping[tuple[str, int], int],
        names: Mapping[tuple[str, str], str],
    ) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}_requests", "Requests by the status the caller got", labels=[*REVISION, "code"]
        )
        for (endpoint, revision), slots in live.items():
            labels = [self._worker, endpoint, names.get((endpoint, revision), ""), revision]
            for status, n in slots.statuses.items():
                family.add_metric([*labels, str(status)], n)
        for (endpoint, status), n in refused.items():
            family.add_metric([self._worker, endpoint, "", "", str(status)], n)
        for status, n in self._book.unrouted.items():
            family.add_metric([self._worker, "", "", "", str(status)], n)
        return family

    def _by_outcome(
        self, name: str, text: str, slots: Mapping[tuple[str, str], Slots], names: Mapping[tuple[str, str], str]
    ) -> Metric:
        family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=[*REVISION, "outcome"])
        for key, one in slots.items():
            for outcome, n in one.outcomes.items():
                family.add_metric([self._worker, key[0], names.get(key, ""), key[1], outcome], n)
        return family

    def _histogram(
        self,
        name: str,
        text: str,
        slots: Mapping[tuple[str, str], Slots],
        names: Mapping[tuple[str, str], str],
        *,
        first: bool = False,
    ) -> Metric:
        family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=list(REVISION))
        for key, one in slots.items():
            buckets, total = _cumulative(one.first_byte if first else one.latency)
            family.add_metric([self._worker, key[0], names.get(key, ""), key[1]], buckets, total)
        return family

    def _of_worker(self) -> Iterable[Metric]:
        table = self._routes.table
        yield self._gauge("in_flight", "Requests being served", self._book.in_flight)
        yield from self._tunnels(self._book.tunnels)
        yield self._gauge("mirror_running", "Copies being sent", self._mirrors.running)
        yield self._gauge("table_generation", "Of the table served by; 0: none", table.generation if table else 0)
        build = InfoMetricFamily(f"{PREFIX}_build", "What passes requests on", labels=["worker"])
        build.add_metric([self._worker], {"version": __version__, "data_path": data_path()})
        yield build
        info = InfoMetricFamily(f"{PREFIX}_table", "The table served by", labels=["worker"])
        info.add_metric([self._worker], {"hash": table.hash if table else "", "commit": table.commit if table else ""})
        yield info
        if self._feed is not None:
            yield self._counter("tables_refused", "Tables that did not add up", self._feed.tables_refused)
            yield self._counter(
                "fields_unknown", "Fields of tables that this version ignores", self._feed.fields_unknown
            )
            yield self._counter("table_saves_failed", "Tables not written to disk", self._feed.saves_failed)
            reached = self._feed.reached_at
            age = self._clock() - reached if reached is not None else float("inf")
            yield self._gauge("controller_age_seconds", "Since the controller last answered", age)

    def _tunnels(self, tunnels: Tunnels) -> Iterable[Metric]:
        family = GaugeMetricFamily(f"{PREFIX}_tunnels_open", "WebSocket tunnels", labels=list(REVISION))
        for key, n in tunnels.open.items():
            family.add_metric([self._worker, *key], n)
        yield family
        ended = CounterMetricFamily(f"{PREFIX}_tunnels_ended", "By what ended them", labels=["worker", "reason"])
        for why, n in tunnels.ended.items():
            ended.add_metric([self._worker, why.value], n)
        yield ended

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["worker"])
        family.add_metric([self._worker], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["worker"])
        family.add_metric([self._worker], value)
        return family


def _cumulative(slots: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Prometheus buckets, and the sum in seconds (each slot at its upper bound: 5 % high at most)."""
    counts = [0] * (len(BOUNDS_S) + 1)
    total = 0.0
    for index, n in slots.items():
        seconds = bucket_ms(index) / 1000
        total += seconds * n
        counts[sum(seconds > bound for bound in BOUNDS_S)] += n
    buckets: list[tuple[str, float]] = []
    running = 0
    for bound, n in zip([*map(str, BOUNDS_S), "+Inf"], counts, strict=True):
        running += n
        buckets.append((bound, running))
    return buckets, total

"""A router worker that serves nobody: acks every table and says what it would have counted, once a second.

So that a controller's cost is measured with the evidence that it judges, and steps are as live as with a router.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from headgate import codec
from headgate.control import Ack, ExchangeReply, ExchangeRequest
from headgate.evidence import Batch, Counts, Outcome
from headgate.findings import HeadgateError
from headgate.table import EndpointRoute, RouteTable
from headgate_console.connect import Control

log = logging.getLogger("bench.worker")
EVERY_S = 1.0
LIVE, COPIES = 40, 10  # requests a second of an endpoint that rolls out
FAILED_OF = 200  # one of so many fails
BUCKETS = {120: 10, 125: 20, 130: 8, 140: 2}  # of LIVE requests


class StubWorker:
    """Runs from its entry to its exit.

    Args:
        control: asks the controller; it may be away for a while.
    """

    def __init__(self, control: Callable[[], Control], name: str = "stub-router-0") -> None:
        self._control = control
        self._name = name
        self._table: RouteTable | None = None
        self._sequence = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stub-worker", daemon=True)

    def __enter__(self) -> StubWorker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self._exchange()
            except HeadgateError as error:
                log.info("no exchange: %s", error)

    def _exchange(self) -> None:
        self._sequence += 1
        table = self._table
        message = ExchangeRequest(
            self._name,
            "stub",
            self._sequence,
            Ack(table.generation, table.hash) if table is not None else None,
            tuple(self._batches(table)) if table is not None else (),
        )
        reply = codec.decode(ExchangeReply, self._control().post("/exchange", codec.to_data(message)))
        self._table = reply.table or table

    def _batches(self, table: RouteTable) -> Iterator[Batch]:
        for route in table.endpoints.values():
            if route.mirrors:
                yield self._batch(route)

    def _batch(self, route: EndpointRoute) -> Batch:
        live = {row.revision: self._counts(LIVE) for row in route.revisions if row.per_mille}
        copies = {mirror.revision: self._counts(COPIES) for mirror in route.mirrors}
        return Batch(route.name, route.generation, EVERY_S, live, copies)

    def _counts(self, requests: int) -> Counts:
        failed = int(self._sequence * requests % FAILED_OF < requests)
        times = {bucket: n * requests // LIVE for bucket, n in BUCKETS.items() if n * requests // LIVE}
        return Counts({Outcome.OK: requests - failed, Outcome.MODEL_ERROR: failed}, times)

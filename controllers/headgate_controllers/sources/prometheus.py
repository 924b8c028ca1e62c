"""PromQL, over the HTTP API of Prometheus and of whatever speaks it: an instant query that must give one number.

An empty vector is no zero, several series are no number, NaN and infinities are no values. Staleness is Prometheus'
own (a series that ended, or was not scraped for five minutes, is not there); an answer with an older time is stale too.
"""

from __future__ import annotations

from typing import Any

from headgate.evidence import Need, Sample
from headgate.ports import Window
from headgate.process import MetricSource
from headgate_controllers.sources.reply import Line, Trouble, aged, fields, filled, sample, without


class PrometheusSource:
    def __init__(self, source: MetricSource, token: str = "") -> None:
        self._line = Line(source, token)

    def close(self) -> None:
        self._line.close()

    def collect(self, need: Need, window: Window) -> Sample:
        query = {
            "query": filled(need.query, window),
            "time": f"{window.now:.3f}",
            "timeout": f"{self._line.source.timeout_s:g}s",
        }
        try:
            reply = fields(self._line.ask("GET", "/api/v1/query", params=query))
            at, value = _point(reply)
            aged(at, window.now, need.max_age_s)
            return sample(need, window, value)
        except Trouble as trouble:
            return without(need, window, trouble)


def _point(reply: Any) -> tuple[Any, float]:
    """(time, value) of the one number in an answer."""
    if reply.get("status") != "success":
        raise Trouble("refused", str(reply.get("error", "")))
    data = fields(reply.get("data"))
    kind, result = data.get("resultType"), data.get("result")
    if kind == "vector" and isinstance(result, list):
        if not result:
            raise Trouble("empty")
        if len(result) > 1:
            raise Trouble("many", f"{len(result):,} series: aggregate them, e.g. with sum or avg")
        result = fields(result[0]).get("value")
    elif kind != "scalar":
        raise Trouble("refused", f"the query gives a {kind}, not one number")
    if not isinstance(result, list) or len(result) != 2:
        raise Trouble("refused", "the answer is not as Prometheus writes it")
    try:
        return result[0], float(result[1])  # `NaN`, `+Inf` and `-Inf` as Prometheus writes them
    except (TypeError, ValueError) as error:
        raise Trouble("refused", f"`{result[1]}` is no number") from error

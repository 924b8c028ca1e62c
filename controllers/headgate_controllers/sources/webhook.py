"""Any service that answers `{"value": 1.5}`, and may say when that was: `"at"`, in seconds since the epoch.

It is sent `{"query", "endpoint", "deployment", "revision", "arm", "now"}`. A value of null is no value.
"""

from __future__ import annotations

from headgate.evidence import Need, Sample
from headgate.ports import Window
from headgate.process import MetricSource
from headgate_controllers.sources.reply import Line, Trouble, aged, fields, filled, sample, without


class WebhookSource:
    def __init__(self, source: MetricSource, token: str = "") -> None:
        self._line = Line(source, token)

    def close(self) -> None:
        self._line.close()

    def collect(self, need: Need, window: Window) -> Sample:
        asked = {
            "query": filled(need.query, window),
            "endpoint": window.endpoint,
            "deployment": window.deployment,
            "revision": window.revision,
            "arm": window.arm,
            "now": window.now,
        }
        try:
            reply = fields(self._line.ask("POST", "", json=asked))
            if "value" not in reply:
                raise Trouble("refused", "the answer has no `value`")
            value = reply["value"]
            if value is None:
                raise Trouble("empty")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Trouble("refused", f"`value` is {value!r}, not a number")
            if "at" in reply:
                aged(reply["at"], window.now, need.max_age_s)
            return sample(need, window, _real(value))
        except Trouble as trouble:
            return without(need, window, trouble)


def _real(value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:  # an integer of hundreds of digits
        raise Trouble("infinite") from error

"""One question over HTTP to a metric source, bounded in time and bytes. What goes wrong has a word.

Refuses to follow redirects: a token is for one host.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from string import Template
from typing import Any

import httpx

from headgate.evidence import Need, Sample
from headgate.ports import Window
from headgate.process import MetricSource

MAX_BYTES = 1024 * 1024  # an answer with one number has 200
SAID = 200  # characters of what a source said that a person is shown


class Trouble(Exception):
    """There is no value. `problem` is one of `headgate.evidence.PROBLEMS`, `said` is for a person."""

    def __init__(self, problem: str, said: str = "") -> None:
        super().__init__(f"{problem}: {said}")
        self.problem, self.said = problem, said


def filled(query: str, window: Window) -> str:
    """The query with $endpoint, $deployment and $revision; another `$` stays as it is."""
    names = {"endpoint": window.endpoint, "deployment": window.deployment, "revision": window.revision}
    return Template(query).safe_substitute(names)


def sample(need: Need, window: Window, value: float) -> Sample:
    """Raises Trouble for what is no finite number."""
    if math.isnan(value):
        raise Trouble("nan")
    if math.isinf(value):
        raise Trouble("infinite", f"{value}")
    return Sample(need.source, need.query, window.arm, value)


def without(need: Need, window: Window, trouble: Trouble) -> Sample:
    return Sample(need.source, need.query, window.arm, None, trouble.problem, _cut(trouble.said))


class Line:
    """Questions to one source. Several threads may ask at once."""

    def __init__(self, source: MetricSource, token: str) -> None:
        headers = {"Accept": "application/json", "User-Agent": "headgate"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self.source = source
        self._client = httpx.Client(timeout=source.timeout_s, headers=headers, follow_redirects=False)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The JSON a source answers. Raises Trouble."""
        ends = time.monotonic() + self.source.timeout_s
        body = bytearray()
        try:
            with self._client.stream(method, f"{self.source.url}{path}", **more) as answer:
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise Trouble("refused", f"the answer is longer than {MAX_BYTES:,} bytes")
                    if time.monotonic() > ends:
                        raise Trouble("timeout", f"still answering after {self.source.timeout_s:g} s")
        except httpx.TimeoutException as error:
            raise Trouble("timeout", f"no answer within {self.source.timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Trouble("unreachable", f"{type(error).__name__}: {error}") from error
        return _decoded(answer.status_code, bytes(body))

    def close(self) -> None:
        self._client.close()


def _decoded(status: int, body: bytes) -> Any:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Trouble("refused", f"HTTP {status}, and the answer is no JSON") from error
    if not 200 <= status < 300 and not isinstance(data, dict):
        raise Trouble("refused", f"HTTP {status}")
    if not 200 <= status < 300:
        words = data.get("error") or data.get("message") or ""
        late = status in (408, 504) or data.get("errorType") == "timeout"
        raise Trouble("timeout" if late else "refused", f"HTTP {status} {words}".strip())
    return data


def aged(at: Any, now: float, max_age_s: float) -> None:
    """Raises Trouble when a value of `at` (seconds since the epoch) is too old, or not of a time at all."""
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        raise Trouble("refused", "the value has no time")
    if now - at > max_age_s:
        raise Trouble("stale", f"{now - at:,.0f} s old")


def fields(data: Any) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise Trouble("refused", "the answer is no JSON object")
    return data


def _cut(text: str) -> str:
    text = " ".join(text.split()).encode(errors="replace").decode()
    return text if len(text) <= SAID else text[: SAID - 1] + "…"

"""OpenTelemetry, when somebody asked for it: spans with ids and times of our own to an exporter from the environment.

    OTEL_EXPORTER_OTLP_ENDPOINT   OTLP over HTTP (needs the extra `otlp`)
    HEADGATE_TRACE_FILE           one JSON object a line, appended

Neither: nothing is imported and nothing is kept. A collector that is away never delays or fails what it is told about.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

OTLP_ENDPOINT = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACE_FILE = "HEADGATE_TRACE_FILE"
SCOPE = "headgate"
FLUSH_MS = 2_000  # what a stopping process gives the collector

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Moment:
    name: str
    at: float  # seconds since the epoch
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span; ids as hex text, times in seconds since the epoch."""

    name: str
    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits
    parent_id: str  # empty: the root
    start: float
    end: float
    attributes: Mapping[str, Value] = field(default_factory=dict)
    moments: tuple[Moment, ...] = ()
    error: str = ""  # why it failed; empty: it did not


class Telemetry:
    """One process's way out for spans."""

    def __init__(self, service: str, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._resource = Resource.create({"service.name": service})
        self._processor = BatchSpanProcessor(exporter)

    def send(self, spans: Sequence[Span]) -> None:
        """Queues them; exported in the background."""
        for span in spans:
            self._processor.on_end(self._readable(span))

    def flush(self) -> None:
        self._processor.force_flush(FLUSH_MS)

    def close(self) -> None:
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

        def context(span_id: str) -> SpanContext:
            return SpanContext(int(span.trace_id, 16), int(span_id, 16), False, TraceFlags(TraceFlags.SAMPLED))

        return ReadableSpan(
            name=span.name,
            context=context(span.span_id),
            parent=context(span.parent_id) if span.parent_id else None,
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[Event(m.name, dict(m.attributes), _nanoseconds(m.at)) for m in span.moments],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK),
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(span.end),
            instrumentation_scope=InstrumentationScope(SCOPE),
        )


_current: list[Telemetry] = []  # at most one: of this process


def set_up(service: str, environment: Mapping[str, str] = os.environ) -> Telemetry | None:
    """Opens the way out that the environment names; None: it names none, or the one named cannot be used (logged)."""
    exporter = _exporter(environment)
    if exporter is None:
        return None
    telemetry = Telemetry(service, exporter)
    _current[:] = [telemetry]
    atexit.register(telemetry.close)
    return telemetry


def send(spans: Sequence[Span]) -> None:
    for telemetry in _current:
        telemetry.send(spans)


def active() -> bool:
    return bool(_current)


def _exporter(environment: Mapping[str, str]) -> SpanExporter | None:
    if environment.get(TRACE_FILE):
        return file_exporter(Path(environment[TRACE_FILE]))
    if not any(environment.get(name) for name in OTLP_ENDPOINT):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        log.warning("no traces: an OTLP endpoint is set, but the exporter is not installed: pip install headgate[otlp]")
        return None
    return OTLPSpanExporter()


def file_exporter(path: Path) -> SpanExporter:
    """Appends each span as one line of JSON, in the SDK's own form."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class FileExporter(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            lines = "".join(f"{span.to_json(indent=None)}\n" for span in spans)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(lines)
            except OSError as error:
                log.warning("traces are lost: %s", error)
                return SpanExportResult.FAILURE
            return SpanExportResult.SUCCESS

    return FileExporter()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)

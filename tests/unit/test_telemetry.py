"""A rollout as a trace: ids from names, times from the record, out through a real exporter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headgate.evidence import Result, Verdict
from headgate.plan import Plan
from headgate.process import Process
from headgate.rollout import OpEnd, OpRecord, Rollout, State
from headgate.target import RouterSettings, Target
from headgate_controllers.traces import emit, span_id, spans, trace_id
from headgate_kit import telemetry
from headgate_kit.telemetry import Telemetry

VERDICT = Verdict("error-rate", "1", "mirror", {}, 0.01, Result.FAIL, "10 % fail", {"candidate": 0.1})
TARGET = Target("fraud", "c" * 40, {}, {"green-1": 1000}, RouterSettings(), Process(), {})
ROLLOUT = Rollout(
    id="ro-fraud-cccccccccc-1",
    attempt=1,
    commit="c" * 40,
    target=TARGET,
    plan=Plan("fraud", "c" * 40, "d", ("green-1",), "green-1", {"green-1": 1000}),
    start={"blue-1": 1000},
    started_at=1000.0,
    state=State.FAILED,
    ops=(
        OpRecord("build", "build", 0.0, "a", 1000.5, OpEnd.PASSED, 1002.0),
        OpRecord("mirror", "mirror", 50.0, "b", 1002.0, OpEnd.FAILED, 1010.0, 7, 1003.0, verdicts=(VERDICT,)),
    ),
    ended_at=1010.25,
    message="mirror: error-rate failed",
)


@pytest.fixture(autouse=True)
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(telemetry, "_current", [])
    yield
    for opened in telemetry._current:
        opened.close()


def test_a_trace_is_known_by_the_workflows_name() -> None:
    root, build, mirror = spans(ROLLOUT)
    assert {s.trace_id for s in (root, build, mirror)} == {trace_id("ro-fraud-cccccccccc-1")}
    assert len(root.trace_id) == 32
    assert (root.span_id, root.parent_id) == (span_id("ro-fraud-cccccccccc-1"), "")
    assert mirror.span_id == span_id("ro-fraud-cccccccccc-1/mirror")
    assert build.parent_id == mirror.parent_id == root.span_id
    assert spans(ROLLOUT) == spans(ROLLOUT)


def test_spans_have_the_times_of_the_record() -> None:
    root, build, mirror = spans(ROLLOUT)
    assert (root.start, root.end) == (1000.0, 1010.25)
    assert (build.start, build.end) == (1000.5, 1002.0)
    assert [(m.name, m.at) for m in mirror.moments] == [("live", 1003.0), ("verdict error-rate", 1010.0)]


def test_an_op_that_was_stopped_ends_with_its_rollout() -> None:
    running = replace(ROLLOUT.ops[1], state=OpEnd.STOPPED, ended_at=None)
    *_, last = spans(replace(ROLLOUT, ops=(running,), state=State.SUPERSEDED))
    assert (last.end, last.error) == (1010.25, "")


def test_what_failed_says_why() -> None:
    root, build, mirror = spans(ROLLOUT)
    assert root.error == "mirror: error-rate failed"
    assert build.error == ""
    assert mirror.error == "failed"
    assert mirror.attributes["headgate.verdict.error-rate"] == "fail"
    assert root.attributes["headgate.commit"] == "c" * 40


def test_an_exporter_gets_the_whole_trace() -> None:
    exporter = InMemorySpanExporter()
    opened = Telemetry("headgate-controller", exporter)
    telemetry._current[:] = [opened]
    emit(ROLLOUT)
    opened.flush()
    root, build, mirror = exporter.get_finished_spans()
    assert [root.name, build.name, mirror.name] == ["rollout fraud", "build", "mirror"]
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == trace_id(ROLLOUT.id)
    assert mirror.parent is not None
    assert mirror.parent.span_id == root.context.span_id
    assert (root.start_time, root.end_time) == (1_000_000_000_000, 1_010_250_000_000)
    assert root.resource.attributes["service.name"] == "headgate-controller"
    assert mirror.attributes is not None
    assert mirror.attributes["headgate.revision"] == "green-1"


def test_a_trace_file_has_one_span_a_line(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    opened = telemetry.set_up("headgate-controller", {telemetry.TRACE_FILE: str(path)})
    assert opened is not None
    emit(ROLLOUT)
    opened.flush()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["name"] for line in lines] == ["rollout fraud", "build", "mirror"]
    assert lines[1]["context"]["trace_id"] == f"0x{trace_id(ROLLOUT.id)}"
    assert path.stat().st_mode & 0o077 == 0


def test_a_trace_file_that_cannot_be_written_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = telemetry.set_up("c", {telemetry.TRACE_FILE: str(tmp_path)})
    assert opened is not None
    emit(ROLLOUT)
    opened.flush()
    assert "traces are lost" in caplog.text


def test_nothing_is_sent_when_nobody_asked() -> None:
    assert telemetry.set_up("c", {}) is None
    assert not telemetry.active()
    emit(ROLLOUT)


def test_an_otlp_endpoint_in_the_environment_opens_that_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert telemetry.set_up("c") is not None
    assert telemetry.active()

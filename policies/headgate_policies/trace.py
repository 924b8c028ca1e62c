"""Evidence as a file, one JSON line per look: gates can be run on what was recorded, or on what one writes down.

The first line may be a header (`{"trace": 1, ...}`); every other line is a look, either as it was recorded or in the
short form that a person writes. Both are described in docs/judgement.md. Bounded, and refused by line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headgate.codec import CodecError, canonical, decode, to_data
from headgate.evidence import LAST_BUCKET, Counts, Look, Outcome, bucket
from headgate.findings import Finding, Place, SpecError
from headgate.process import Process
from headgate_policies.replay import Trace

VERSION = 1
KINDS = ("mirror", "step", "bake")
MAX_LINE = 16_000_000  # characters: a look's pairs are bounded well below
MAX_LOOKS = 1_000_000  # a week of looks, one a second
MAX_REPEAT = 100_000
SHORT_LOOK = ("repeat", "seconds", "at", "phase", "candidate", "stable", "reference")
SHORT_ARM = ("ok", "failed", "gone", "ms", "outcomes")
WHOLE = ("generation", "pairs")  # only a look as it was recorded has these


@dataclass(frozen=True, slots=True)
class Header:
    trace: int = VERSION
    endpoint: str = ""
    rollout: str = ""
    op: str = ""  # e.g. step-5; empty: the kind
    kind: str = ""  # mirror | step | bake; empty: what the first look says, else step
    phases: int = 0  # judged phases of the whole rollout; 0: as many as rollout.yml asks for
    process: Process | None = None  # by which it was judged; None: rollout.yml decides


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trace file, read."""

    header: Header
    looks: tuple[Look, ...] = field(default=())

    def under(self, process: Process) -> Trace:
        """The trace, to be judged by this process."""
        kind = self.header.kind or (self.looks[0].phase if self.looks else "step")
        phases = self.header.phases or len(process.steps) + (process.mirror.percent > 0)
        return Trace(process, self.header.op or kind, kind, phases, self.looks)


def write(trace: Trace, *, endpoint: str = "", rollout: str = "") -> Iterator[bytes]:
    header = Header(VERSION, endpoint, rollout, trace.phase, trace.kind, trace.phases_total, trace.process)
    yield canonical(header) + b"\n"
    for look in trace.looks:
        yield canonical(look) + b"\n"


def read(lines: Iterable[str], name: str) -> Recorded:
    """Args:
        name: the file's, for findings.
    Raises:
        SpecError: `trace-line`, with the line and what is wrong with it.
    """
    header, clock = Header(), 0.0
    looks: list[Look] = []
    for number, line in enumerate(lines, 1):
        place = Place(name, number, 1)
        data = _data(line, place)
        if data is None:
            continue
        if "trace" in data:
            header = _header(data, place, first=not looks)
            continue
        look, repeat = _look(data, header.kind or "step", clock, place)
        for _ in range(repeat):
            looks.append(look)
            clock = look.at + look.seconds
            look = replace(look, at=clock)
        if len(looks) > MAX_LOOKS:
            raise _wrong(place, f"more than {MAX_LOOKS:,} looks")
    return Recorded(header, tuple(looks))


def _data(line: str, place: Place) -> Mapping[str, Any] | None:
    if not line.strip():
        return None
    if len(line) > MAX_LINE:
        raise _wrong(place, f"longer than {MAX_LINE:,} characters")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _wrong(place, f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise _wrong(place, "a line is an object")
    return data


def _header(data: Mapping[str, Any], place: Place, *, first: bool) -> Header:
    if not first:
        raise _wrong(place, "a header comes before every look")
    try:
        header = decode(Header, data)
    except CodecError as error:
        raise _wrong(place, str(error)) from error
    if header.trace != VERSION:
        raise _wrong(place, f"trace {header.trace} is not a version this Headgate reads (it reads {VERSION})")
    if header.kind and header.kind not in KINDS:
        raise _wrong(place, f"kind {header.kind!r}, expected one of {', '.join(KINDS)}")
    return header


def _look(data: Mapping[str, Any], kind: str, clock: float, place: Place) -> tuple[Look, int]:
    """The look a line says, and how often it comes."""
    try:
        if any(key in data for key in WHOLE):
            return decode(Look, data), 1
        unknown = sorted(set(data) - set(SHORT_LOOK))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(SHORT_LOOK)}")
        repeat = data.get("repeat", 1)
        if isinstance(repeat, bool) or not isinstance(repeat, int) or not 1 <= repeat <= MAX_REPEAT:
            raise ValueError(f"repeat is {repeat!r}, expected 1 to {MAX_REPEAT:,}")
        whole = {
            "phase": data.get("phase", kind),
            "generation": 1,
            "at": data.get("at", clock),
            "seconds": data.get("seconds", 1.0),
            **{arm: _arm(data[arm], arm) for arm in ("candidate", "stable", "reference") if arm in data},
        }
        return decode(Look, whole), repeat
    except (CodecError, ValueError) as error:
        raise _wrong(place, str(error)) from error


def _arm(data: Any, arm: str) -> Any:
    """`{"ok": 98, "failed": 2, "ms": {"20": 90, "400": 10}}` as counts."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{arm} is not an object")
    unknown = sorted(set(data) - set(SHORT_ARM))
    if unknown:
        raise ValueError(f"{arm}: unknown field {unknown[0]!r}; known are {', '.join(SHORT_ARM)}")
    outcomes = dict(data.get("outcomes", {}))
    for key, outcome in (("ok", Outcome.OK), ("failed", Outcome.MODEL_ERROR), ("gone", Outcome.CLIENT_GONE)):
        if key in data:
            outcomes[str(outcome)] = data[key]
    latency: dict[int, Any] = {}
    for text, n in dict(data.get("ms", {})).items():
        latency[_bucket(text, arm)] = latency.get(_bucket(text, arm), 0) + n
    return to_data(Counts(outcomes, latency))


def _bucket(text: Any, arm: str) -> int:
    value = float(text)
    if not math.isfinite(value) or value < 0 or bucket(value) > LAST_BUCKET:
        raise ValueError(f"{arm}: {text!r} is not a time in milliseconds")
    return bucket(value)


def _wrong(place: Place, message: str) -> SpecError:
    why = "a trace is judged as it stands: a line that is left out would change the verdict"
    return SpecError(Finding("trace-line", message, why, "docs/judgement.md has the format", place))

"""A line of Envoy's log of requests, into the books: what ended, how, under which generation.

Refuses nothing: a line that cannot be read is counted by whoever reads the pipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from headgate import codec
from headgate.evidence import Outcome
from headgate_router import mirror
from headgate_router.count import Book
from headgate_router.dataplanes.envoy.resources import CONTROL
from headgate_router.refusals import BAD_REQUEST, CLIENT_GONE, NO_WEBSOCKET, TOO_LARGE
from headgate_router.tunnels import Why

LEFT = {"DC", "DPE", "DR"}  # Envoy's flags: the caller's doing
TIMED_OUT = {"SI", "UT"}
BUSY = "UO"
NO_HOST = "UH"
NOT_SAMPLED = "not_sampled"
UNSENT = {refusal.status for refusal in (BAD_REQUEST, NO_WEBSOCKET, TOO_LARGE)}  # what a model says of these is 424
WHOLE = {"via_upstream", "websocket_handshake_unsuccessful"}  # Envoy's details: the model's answer
SWITCHED = 101
STOOD_STILL = "SI"
TOO_OLD = "max_duration_timeout"
OUR_END = "downstream_local_disconnect"
_ENDS = {Why.CALLER_LOST: Outcome.CLIENT_GONE, Why.MODEL_LOST: Outcome.TRUNCATED}  # all others are good ends


@dataclass(frozen=True, slots=True)
class Line:
    """One request. None: it did not get that far."""

    kind: str  # live | copy
    endpoint: str | None
    generation: str | None
    chosen: str | None
    cluster: str | None
    status: int | None
    flags: str | None  # comma-separated
    details: str | None
    closed: str | None  # of a tunnel: who said Close first, caller or model
    bytes: int
    first_us: int | None
    whole_us: int | None
    ms: int | None


def count(book: Book, raw: bytes) -> None:
    """Raises CodecError, ValueError: it is no such line."""
    line = codec.decode(Line, raw)
    if line.endpoint is None or line.generation is None:
        if line.kind == "live" and line.cluster != CONTROL:  # the router's own pages are not counted
            book.no_endpoint(line.status or CLIENT_GONE)
        return
    generation = int(line.generation)
    if line.cluster is None or line.status in UNSENT:
        if line.kind == "live":
            book.refused(line.endpoint, generation, line.status or CLIENT_GONE)
        return
    revision = line.cluster.split("/")[1]
    (_live if line.kind == "live" else _copy)(book, line, line.endpoint, generation, revision)


def _live(book: Book, line: Line, endpoint: str, generation: int, revision: str) -> None:
    outcome, whole_ms = _became(line)
    if line.status == SWITCHED:
        book.tunnels.ended[_ended(line)] += 1
    book.live(
        endpoint,
        generation,
        revision,
        outcome,
        CLIENT_GONE if outcome is Outcome.CLIENT_GONE else line.status or CLIENT_GONE,
        whole_ms,
        _ms(line.first_us),
        chosen=line.chosen is not None,
        size=line.bytes,
    )


def _copy(book: Book, line: Line, endpoint: str, generation: int, revision: str) -> None:
    flags = _flags(line)
    if BUSY in flags or NO_HOST in flags:
        book.dropped(endpoint, generation, mirror.BUSY if BUSY in flags else mirror.NO_UPSTREAM)
        return
    outcome, whole_ms = _became(line)
    book.mirrored(
        endpoint, generation, revision, outcome, line.status or 0, whole_ms, _ms(line.first_us), size=line.bytes
    )
    # No pair is ever made of it: the live answer is not seen here.
    paired = outcome in (Outcome.OK, Outcome.MODEL_ERROR)
    book.dropped(endpoint, generation, NOT_SAMPLED if paired else mirror.COPY_FAILED)


def _became(line: Line) -> tuple[Outcome, float | None]:
    """What became of it, and its milliseconds: of a whole answer, or until it was given up."""
    if line.status == SWITCHED:
        return _ENDS.get(_ended(line), Outcome.OK), None
    flags = _flags(line)
    if flags & LEFT or not line.status:
        return Outcome.CLIENT_GONE, None
    if flags & TIMED_OUT:
        return Outcome.TIMEOUT, float(line.ms or 0)
    if line.details in WHOLE and not flags:
        ok = 200 <= line.status < 300
        return Outcome.OK if ok else Outcome.MODEL_ERROR, _ms(line.whole_us)
    return Outcome.TRUNCATED if line.first_us is not None else Outcome.REFUSED, None


def _ended(line: Line) -> Why:
    flags, details = _flags(line), line.details or ""
    if line.closed:
        return Why(line.closed)
    if flags & LEFT:
        return Why.DRAINED if details.startswith(OUR_END) else Why.CALLER_LOST
    if STOOD_STILL in flags:
        return Why.IDLE
    return Why.LIFE if details == TOO_OLD else Why.MODEL_LOST


def _flags(line: Line) -> set[str]:
    return set(line.flags.split(",")) - {"-", ""} if line.flags else set()


def _ms(us: int | None) -> float | None:
    return us / 1000 if us is not None else None

from __future__ import annotations

import pytest

from headgate_router.streams import Stream, opened


@pytest.mark.parametrize(
    ("chunks", "events", "first", "gap", "pace"),
    [
        ([], 0, None, None, None),
        ([(b"data: a\n", 5.0)], 0, None, None, None),
        ([(b"data: a\n\n", 5.0)], 1, 5.0, None, None),
        ([(b"data: a\n", 5.0), (b"\n", 9.0)], 1, 9.0, None, None),
        ([(b"data: a\r\n\r", 5.0), (b"\ndata: b\r\n\r\n", 9.0)], 2, 9.0, None, None),
        ([(b"a\n\n", 5.0), (b"b\n\n", 25.0), (b"c\n\nd\n\n", 35.0)], 4, 5.0, 20.0, 10.0),
        ([(b"a\n\n", 5.0), (b"\n", 25.0)], 1, 5.0, None, None),
        ([(b"a\n\n", 5.0), (b"b\n", 25.0), (b"c\n\n", 35.0)], 2, 5.0, 30.0, 30.0),
        ([(b"a\n\n", 5.0), (b"b\r\n\r\n", 25.0), (b"c\n\n", 35.0)], 3, 5.0, 20.0, 15.0),
        ([(bytes([byte]), 5.0) for byte in b"data: 0123456789\r\n\r\n" * 3], 3, 5.0, 0.0, None),
    ],
    ids=["nothing", "half", "one", "split", "split-crlf", "many", "empty-line", "lines", "mixed", "bytes"],
)
def test_events_are_counted_where_they_end(
    chunks: list[tuple[bytes, float]], events: int, first: float | None, gap: float | None, pace: float | None
) -> None:
    stream = Stream()
    for data, ms in chunks:
        stream.add(data, ms)
    assert (stream.events, stream.first, stream.gap, stream.pace) == (events, first, gap, pace)


def test_silence_before_a_break_is_a_gap() -> None:
    stream = Stream()
    stream.add(b"a\n\n", 5.0)
    stream.broke(905.0)
    assert stream.gap == 900.0


@pytest.mark.parametrize("step", [1, 7, 600], ids=["bytes", "pieces", "whole"])
@pytest.mark.parametrize(
    ("end", "finish"),
    [
        (b'data: {"finish_reason":"stop"}\n\ndata: [DONE]\n\n', "stop"),
        (b'data: {"finish_reason": "length"}\n\n', "length"),
        (b'data: {"finish_reason": null}\n\n', "open"),
        (b'data: {"finish_reason": "surprise"}\n\n', "other"),
        (b"data: [DONE]\n\n", "done"),
        (b"data: x\n\n", "open"),
    ],
    ids=["stop", "length", "null", "other", "done", "open"],
)
def test_a_stream_says_how_it_ended(end: bytes, finish: str, step: int) -> None:
    stream = Stream()
    stream.add(b"data: x\n\n" * 500, 1.0)
    for at in range(0, len(end), step):
        stream.add(end[at : at + step], 2.0)
    assert stream.finish == finish


@pytest.mark.parametrize(
    ("fields", "is_one"),
    [
        ([(b"content-type", b"text/event-stream; charset=utf-8")], True),
        ([(b"content-type", b"Text/Event-Stream")], True),
        ([(b"content-type", b"application/json")], False),
        ([], False),
    ],
    ids=["charset", "case", "json", "none"],
)
def test_only_event_streams_are_looked_at(fields: list[tuple[bytes, bytes]], is_one: bool) -> None:
    assert (opened(fields) is not None) is is_one

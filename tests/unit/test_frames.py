"""Frames of a WebSocket: their ends are found however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from headgate_router.dataplanes.builtin.frames import GOING_AWAY, GOING_AWAY_MASKED, Frames

SIZES = st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 127, 65_535, 65_536, 70_000]))
FRAMES = st.lists(
    st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT]), SIZES, st.booleans()), max_size=6
)


def written(opcode: Opcode, size: int, mask: bool) -> bytes:
    return Frame(opcode, b"\x88" * size).serialize(mask=mask)


@given(FRAMES, st.lists(st.integers(0, 200_000), max_size=8))
def test_however_they_are_cut_the_ends_of_frames_are_found(
    frames: list[tuple[Opcode, int, bool]], cuts: list[int]
) -> None:
    raw = b"".join(written(*frame) for frame in frames)
    ends, at = {0}, 0
    for frame in frames:
        at += len(written(*frame))
        ends.add(at)
    read, start = Frames(), 0
    for end in sorted({cut % (len(raw) + 1) for cut in cuts} | {len(raw)}):
        read.feed(raw[start:end])
        assert read.between == (end in ends)
        start = end
    assert not read.closed


@pytest.mark.parametrize("raw", [GOING_AWAY, GOING_AWAY_MASKED, b"\x88\x00"], ids=["model's", "caller's", "bare"])
def test_a_close_is_seen_after_other_frames_and_not_inside_them(raw: bytes) -> None:
    read = Frames()
    read.feed(written(Opcode.BINARY, 300, mask=False))
    assert not read.closed
    read.feed(raw)
    assert read.closed
    assert read.between

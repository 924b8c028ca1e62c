from __future__ import annotations

import pytest

from headgate_router.dataplanes.builtin.chunks import whole


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 255, 256, 4095, 4096, 65_535, 65_536, 1_048_576])
def test_a_chunk_of_any_size_is_known(size: int) -> None:
    assert whole(chunk(b"a" * size)) == b"a" * size


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (chunk(b"ab") + chunk(b"c") * 3, b"abccc"),
        (chunk(b"a" * 300) + chunk(b"\r\n"), b"a" * 300 + b"\r\n"),
        (chunk(b"1\r\na\r\n"), b"1\r\na\r\n"),
        (chunk(b"0\r\n\r\n"), b"0\r\n\r\n"),
    ],
    ids=["several", "long and short", "a chunk within", "an end within"],
)
def test_whole_chunks_are_opened(data: bytes, body: bytes) -> None:
    assert whole(data) == body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"0\r\n\r\n",
        chunk(b"ab") + b"0\r\n\r\n",
        chunk(b"ab")[:-1],
        chunk(b"ab")[1:],
        chunk(b"ab") + b"5\r\n",
        chunk(b"ab") + b"2\r\nabcd",
        b"2;x=y\r\nab\r\n",
        b"02\r\nab\r\n",
        b"+2\r\nab\r\n",
        b"0x2\r\nab\r\n",
        b"1_0\r\nab\r\n",
        b" 2\r\nab\r\n",
        b"A\r\n0123456789\r\n",
        b"zz\r\nab\r\n",
        b"2\nab\r\n",
        b"3\r\nab\r\n",
        b"1\r\nab\r\n",
    ],
    ids=[
        "nothing", "a line end", "the end", "then the end", "half a line end", "half a size", "then a size",
        "then half a chunk", "extension", "zero before", "sign", "prefix", "underscore", "space", "capital",
        "no number", "bare LF", "too short", "too long",
    ],
)  # fmt: skip
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    assert whole(data) is None

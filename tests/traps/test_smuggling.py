"""Framing that two readers may understand in two ways (RFC 9112): however it is cut, no request is read as two.

Each row is one message, followed by a marked request on the same connection. A proxy may refuse the message and end, or
pass it on and read the marked request as the next one; never may a model hear of a request that was inside the message,
nor a caller get an answer that was not asked for.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

HEAD = b"POST /endpoints/e/score HTTP/1.1\r\nhost: here\r\nauthorization: Bearer the-key\r\n"
INNER = b"GET /endpoints/e/inner HTTP/1.1\r\nhost: here\r\nauthorization: Bearer the-key\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"

# What is refused whatever follows: it is against the grammar, or says two things.
REFUSED = {
    "two lengths": b"content-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
    "one length twice": b"content-length: 4\r\ncontent-length: 4\r\n\r\nabcd",
    "a list of lengths": b"content-length: 4, 4\r\n\r\nabcd",
    "a signed length": b"content-length: +4\r\n\r\nabcd",
    "a negative length": b"content-length: -1\r\n\r\n",
    "a hexadecimal length": b"content-length: 0x4\r\n\r\nabcd",
    "a length of two words": b"content-length: 4 4\r\n\r\nabcd",
    "a length past 64 bits": b"content-length: 18446744073709551617\r\n\r\na",
    "length and chunks": b"content-length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + INNER,
    "chunks and length": CHUNKED + b"content-length: 60\r\n\r\n0\r\n\r\n" + INNER,
    "chunked is not last": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + INNER,
    "another coding first": b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no coding we know": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two fields": CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "a coding and a NUL": b"transfer-encoding: chunked\x00\r\n\r\n0\r\n\r\n",
    "a coding and a vertical tab": b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before the colon": b"transfer-encoding : chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "tab before the colon": b"content-length\t: 4\r\n\r\nabcd",
    "no name": b": chunked\r\n\r\n",
    "a name with a space": b"x y: 1\r\n\r\n",
    "folded": b"x: a\r\n b: c\r\n\r\n",
    "a folded coding": b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a bare LF": b"x: a\ncontent-length: 4\r\n\r\nabcd",
    "LF LF ends the head": b"content-length: 0\n\n" + INNER,
    "a bare CR in a value": b"x: a\rcontent-length: 4\r\n\r\nabcd",
    "a bare CR as line end": b"x: a\r\rcontent-length: 4\r\n\r\nabcd",
    "a NUL in a value": b"x: a\x00b\r\n\r\n",
    "two hosts": b"host: there\r\n\r\n",
    "a chunk size in words": CHUNKED + b"\r\nfour\r\nabcd\r\n0\r\n\r\n",
    "a chunk size past 64 bits": CHUNKED + b"\r\n10000000000000004\r\nabcd\r\n0\r\n\r\n",
    "a signed chunk size": CHUNKED + b"\r\n+4\r\nabcd\r\n0\r\n\r\n",
    "a chunk size 0x4": CHUNKED + b"\r\n0x4\r\nabcd\r\n0\r\n\r\n",
    "a chunk size and a space": CHUNKED + b"\r\n4 \r\nabcd\r\n0\r\n\r\n",
    "an empty chunk size": CHUNKED + b"\r\n\r\nabcd\r\n0\r\n\r\n",
    "a chunk size ended by LF": CHUNKED + b"\r\n4\nabcd\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"\r\n2\r\nabcd\r\n0\r\n\r\n",
    "a chunk without its line end": CHUNKED + b"\r\n4\r\nabcd0\r\n\r\n",
    "an extension ended by LF": CHUNKED + b"\r\n4;a\nabcd\r\n0\r\n\r\n",
    "an extension with a NUL": CHUNKED + b"\r\n4;a\x00\r\nabcd\r\n0\r\n\r\n",
    "a folded trailer": CHUNKED + b"\r\n0\r\nx: a\r\n b\r\n\r\n",
    "a length as trailer": CHUNKED + b"\r\n0\r\ncontent-length: 60\r\n\r\n",
}

# What is one good message, odd as it looks.
TAKEN = {
    "capital Chunked": (b"Transfer-Encoding: Chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", b"abcd"),
    "zeros before a chunk size": (CHUNKED + b"\r\n0000004\r\nabcd\r\n000\r\n\r\n", b"abcd"),
    "capital chunk size": (CHUNKED + b"\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "chunk extensions": (CHUNKED + b'\r\n4;a=b;c="d"\r\nabcd\r\n0;z\r\n\r\n', b"abcd"),
    "ends of messages inside a chunk": (CHUNKED + b"\r\na\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n0\r\n\r\n"),
    "a request inside a chunk": (CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER), INNER),
    "a request inside a length": (b"content-length: %d\r\n\r\n%b" % (len(INNER), INNER), INNER),
    "trailers": (CHUNKED + b"\r\n1\r\na\r\n0\r\nauthorization: x\r\nhost: y\r\nx: z\r\n\r\n", b"a"),
    "no body": (b"\r\n", b""),
}


LAST = b"GET /endpoints/e/last HTTP/1.1\r\nhost: here\r\nauthorization: Bearer the-key\r\nconnection: close\r\n\r\n"


async def answers(site: Any, raw: bytes, cut: int) -> list[int]:
    """The status of every answer until the connection ends, or there are three; cut: bytes of each write."""
    site.model.heard.clear()
    caller = await site.caller()
    for start in range(0, len(raw), cut):
        if caller.writer.is_closing():
            break
        caller.write(raw[start : start + cut])
        if cut < 100:
            await asyncio.sleep(0)
    said: list[int] = []
    while len(said) < 3:
        async with asyncio.timeout(10):
            one = await caller.answer()
        if one.status == 0:
            break
        said.append(one.status)
    caller.close()
    return said


def one_at_most(site: Any, said: list[int]) -> bool:
    """No model heard of what was inside a message, and no caller heard more than was asked."""
    return len(said) <= 2 and not [heard for heard in site.model.heard if b"inner" in heard.start]


@pytest.mark.parametrize("cut", [1 << 20, 3], ids=["whole", "in threes"])
def test_what_says_two_things_is_refused(trap: Any, cut: int) -> None:
    async def scenario(site: Any) -> None:
        wrong = {}
        for name, raw in REFUSED.items():
            said = await answers(site, HEAD + raw + LAST, cut)
            expected = ([400],) if trap.kind == "builtin" else ([400], [])  # others may end before it is read
            if said not in expected or site.model.heard or not one_at_most(site, said):
                wrong[name] = (said, [heard.start for heard in site.model.heard])
        assert wrong == {}

    trap(scenario)


@pytest.mark.parametrize("cut", [1 << 20, 3, 1], ids=["whole", "in threes", "byte by byte"])
def test_what_is_one_message_is_read_as_one(trap: Any, cut: int) -> None:
    async def scenario(site: Any) -> None:
        wrong = {}
        for name, (raw, body) in TAKEN.items():
            said = await answers(site, HEAD + raw + LAST, cut)
            heard = [one.body for one in site.model.heard]
            if said != [200, 200] or heard != [body, b""] or not one_at_most(site, said):
                wrong[name] = (said, heard)
        assert wrong == {}

    trap(scenario)


def test_an_upgrade_with_a_body_is_one_message_or_none(trap: Any) -> None:
    """The parser takes what follows an upgrade for another protocol: a body there must not be read as a request."""

    async def scenario(site: Any) -> None:
        for framing in (b"content-length: %d\r\n\r\n%b" % (len(INNER), INNER), CHUNKED + b"\r\n0\r\n\r\n" + INNER):
            for cut in (1 << 20, 9):
                raw = HEAD + b"connection: upgrade\r\nupgrade: h2c\r\n" + framing
                assert one_at_most(site, await answers(site, raw + LAST, cut))

    trap(scenario, only_ours=True)


@pytest.mark.parametrize(
    "path",
    [
        b"/%0d%0ax-evil:%201",
        b"/%0d%0a%0d%0aGET%20/inner%20HTTP/1.1",
        b"/a%00b",
        b"/%2e%2e/%2e%2e/inner",
        b"/?q=%0a%0dx:",
    ],
)
def test_what_is_encoded_stays_encoded(trap: Any, path: bytes) -> None:
    async def scenario(site: Any) -> None:
        said = await site.ask(site.request(b"{}", path=b"/endpoints/e" + path))
        assert said.status == 200
        (heard,) = site.model.heard
        assert heard.start == b"POST %b HTTP/1.1" % path
        assert heard.all(b"x-evil") == []

    trap(scenario, only_ours=True)


@pytest.mark.parametrize("path", [b"/a b", b"/a\tb", b"/a\x7fb", b"/\xff", b"/a#b", b"/a\x00b"], ids=repr)
def test_what_must_be_encoded_and_is_not_is_refused(trap: Any, path: bytes) -> None:
    async def scenario(site: Any) -> None:
        said = await site.ask(site.request(b"{}", path=b"/endpoints/e" + path))
        assert said.status == 400 or (trap.kind == "asgi" and b"#" in path)  # uvicorn cuts a fragment off
        assert [b"#" in heard.start for heard in site.model.heard] in ([], [False])

    trap(scenario, only_ours=True)


@pytest.mark.parametrize(
    ("start", "status"),
    [(b"GET /endpoints/e/x HTTP/2.0", 505), (b"CONNECT here:80 HTTP/1.1", 400), (b"GET /endpoints/e/x", 505)],
    ids=["HTTP/2.0", "CONNECT", "HTTP/0.9"],
)
def test_what_is_not_spoken_here_is_refused(trap: Any, start: bytes, status: int) -> None:
    if trap.kind == "asgi":
        return  # uvicorn answers these as it does; they reach no model (the next test)

    async def scenario(site: Any) -> None:
        said = await site.ask(start + b"\r\nhost: here\r\nauthorization: Bearer the-key\r\n\r\n")
        assert said.status in (status, 400)
        assert site.model.heard == []

    trap(scenario, only_ours=True)


def test_old_requests_are_answered_and_the_connection_ends(trap: Any) -> None:
    async def scenario(site: Any) -> None:
        caller = await site.caller()
        caller.write(site.request().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await caller.answer()).body == b"ok"
        assert await caller.ended()
        chunked = site.head(b"transfer-encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0")
        assert (await site.ask(chunked + b"0\r\n\r\n")).status == 400
        without_host = b"POST /endpoints/e/score HTTP/1.1\r\nauthorization: Bearer the-key\r\ncontent-length: 0\r\n\r\n"
        assert (await site.ask(without_host)).status == 400
        assert len(site.model.heard) == 1

    trap(scenario, only_ours=True)

"""Framing that two readers may understand in two ways (RFC 9112): however it is cut, no request is read as two.

Each row is one message, followed by a marked request on the same connection. A proxy may refuse the message and end, or
pass it on and read the marked request as the next one; never may a model hear of a request that was inside the message,
nor a caller get an answer that was not asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import pytest

from framings import CHUNKED, EVERY, HEAD, INNER_BY_CHUNK, INNER_BY_LENGTH, LAST, REFUSED, TAKEN, TWO_BY_LF
from headgate_router.main import ASGI, BUILTIN, ENVOY
from trapplay import DEADLINE_S

ROWS = itertools.count(1)
PEER_WAITS_S = 0.5


async def answers(site: Any, raw: bytes, cut: int) -> list[int]:
    """The status of every answer until the connection ends, or there are three; cut: bytes of each write.

    What the model heard of other rows, broken off as they were, is left out: each row's targets have its number.
    """
    row = b"%d" % next(ROWS)
    raw = re.sub(rb"/endpoints/e/(score|last)", rb"/endpoints/e/row%b-\1" % row, raw)
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
        try:
            async with asyncio.timeout(PEER_WAITS_S if site.worker is None else DEADLINE_S):
                one = await caller.answer(b"HEAD" if raw.startswith(b"HEAD ") and not said else b"POST")
        except TimeoutError:
            if site.worker is None:  # it waits for more of what it took for a body, or for a tunnel
                break
            raise
        if one.status == 0:
            break
        said.append(one.status)
        if site.kind == ENVOY and one.all(b"connection") == [b"close"]:
            break  # it reads no more, and takes a second to close
    caller.close()
    others = re.compile(rb"/row(?!%b-)" % row)
    site.model.heard = [heard for heard in site.model.heard if not others.search(heard.start)]
    return said


def targets(site: Any) -> list[bytes]:
    """What the model was asked for, without a row's number and the endpoint."""
    asked = (heard.start.split(b" ")[1].removeprefix(b"/endpoints/e") for heard in site.model.heard)
    return [re.sub(rb"^/row\d+-", b"/", target) for target in asked]


def one_at_most(site: Any, said: list[int]) -> bool:
    """No model heard of what was inside a message, and no caller heard more than was asked."""
    asked = targets(site)
    return len(said) <= 2 and len(asked) <= 2 and b"/inner" not in asked


def reads_lf(site: Any) -> bool:
    """Whoever takes a bare LF for a line end, as RFC 9112 2.2 allows, reads these as the two requests they then are."""
    return site.kind not in (BUILTIN, ASGI)


@pytest.mark.parametrize("cut", [1 << 20, 7], ids=["whole", "in sevens"])
def test_no_message_is_read_as_two(trap: Any, cut: int) -> None:
    """Whatever is refused and whatever is taken: on every path, also those that read some messages otherwise."""

    async def scenario(site: Any) -> None:
        wrong = {}
        for name, raw in EVERY.items():
            said = await answers(site, raw + LAST, cut)
            if not one_at_most(site, said) and not (name in TWO_BY_LF and reads_lf(site)):
                wrong[name] = (said, [heard.start for heard in site.model.heard])
        assert wrong == {}

    trap(scenario)


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
        for framing in (INNER_BY_LENGTH, INNER_BY_CHUNK, CHUNKED + b"\r\n0\r\n\r\n"):
            for cut in (1 << 20, 9):
                raw = HEAD + b"connection: upgrade\r\nupgrade: h2c\r\n" + framing
                assert one_at_most(site, await answers(site, raw + LAST, cut))

    trap(scenario)


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
        assert heard.start.replace(b" /endpoints/e/", b" /") == b"POST %b HTTP/1.1" % path
        assert heard.all(b"x-evil") == []

    trap(scenario)


@pytest.mark.parametrize("path", [b"/a b", b"/a\tb", b"/a\x7fb", b"/\xff", b"/a#b", b"/a\x00b"], ids=repr)
def test_what_must_be_encoded_and_is_not_is_refused(trap: Any, path: bytes) -> None:
    async def scenario(site: Any) -> None:
        said = await site.ask(site.request(b"{}", path=b"/endpoints/e" + path))
        assert said.status == 400 or (trap.kind == "asgi" and b"#" in path)  # uvicorn cuts a fragment off
        assert [b"#" in heard.start for heard in site.model.heard] in ([], [False])

    trap(scenario)


@pytest.mark.parametrize(
    ("start", "status"),
    [(b"GET /endpoints/e/x HTTP/2.0", 505), (b"CONNECT here:80 HTTP/1.1", 400), (b"GET /endpoints/e/x", 505)],
    ids=["HTTP/2.0", "CONNECT", "HTTP/0.9"],
)
def test_what_is_not_spoken_here_is_refused(trap: Any, start: bytes, status: int) -> None:
    async def scenario(site: Any) -> None:
        said = await site.ask(start + b"\r\nhost: here\r\nauthorization: Bearer the-key\r\n\r\n")
        assert site.model.heard == []
        assert said.status in (status, 400)

    trap(scenario)


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

    trap(scenario)


def test_what_is_passed_on_is_read_as_one_by_whoever_reads_it_next(behind: Any) -> None:
    """A model may stand behind a proxy of its own: what we frame anew leaves it no choice."""

    async def scenario(site: Any) -> None:
        wrong = {}
        for name, raw in EVERY.items():
            said = await answers(site, raw + LAST, 1 << 20)
            if not one_at_most(site, said) and not (name in TWO_BY_LF and reads_lf(site)):
                wrong[name] = (said, [heard.start for heard in site.model.heard])
        for name, (raw, body) in TAKEN.items():
            said = await answers(site, HEAD + raw + LAST, 1 << 20)
            if said != [200, 200] or [one.body for one in site.model.heard] != [body, b""]:
                wrong[name] = (said, [heard.start for heard in site.model.heard])
        assert wrong == {}

    behind(scenario)


def test_what_a_proxy_before_us_takes_for_one_request_is_none_or_one_for_us(before: Any) -> None:
    """Callers may come through a proxy of their own. What it passes on after reading it as one stays one."""

    async def scenario(alone: Any, chained: Any) -> None:
        wrong = {}
        for name, raw in EVERY.items():
            await answers(alone, raw + LAST, 1 << 20)
            took = targets(alone)
            said = await answers(chained, raw + LAST, 1 << 20)
            read = targets(chained)
            if [target for target in read if target not in took] or len(read) > len(took):
                wrong[name] = (said, took, read)
            if name in TAKEN and took and len(read) != 2:
                wrong[name] = (said, took, read)
        assert wrong == {}

    before(scenario)

"""The two fronts of the router's own data path, asked the same: they say the same to callers and models, and count it
alike. What a server says before either of them is asked (bytes that are no HTTP, slow callers) is not played here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httptools
import pytest

from headgate.evidence import Counts
from headgate.table import Mirror
from headgate_router.main import ASGI, BUILTIN
from routerplay import KEY, Heard, Model, System, Writer, revision, router, run, until

PLAYS = (
    "length", "length", "chunks", "pieces", "eof", "none", "empty", "error", "long error", "cut error", "redirect",
    "cut", "cut chunks", "nothing", "no HTTP", "silent", "halts", "interim", "events", "cut events", "close", "fields",
)  # fmt: skip


async def play(heard: Heard, writer: Writer) -> None:
    """Answers as the request's field `x-play` asks."""
    kind = (heard.all("x-play") or ["length"])[0]
    head = not heard.start.startswith("HEAD ")
    body = b'{"y": 1}'
    if kind in ("error", "redirect", "empty", "none", "length", "close", "fields"):
        status = {"error": b"500 Oh  n\xe4 o", "redirect": b"302 Found", "empty": b"204 No Content"}.get(
            kind, b"200 OK"
        )
        fields = {
            "close": b"connection: close\r\n",
            "redirect": b"location: http://elsewhere/\r\ncontent-encoding: x\r\n",
            "fields": b"connection: x-mine\r\nx-mine: 1\r\nX-Theirs: 2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"
            b"server: s\r\ndate: never\r\nheadgate-revision: forged\r\nkeep-alive: timeout=5\r\n",
        }.get(kind, b"content-type: application/json\r\n")
        said = b"" if kind in ("empty", "none") else body
        length = b"" if kind == "empty" else b"content-length: %d\r\n" % len(said)
        writer.write(b"HTTP/1.1 %b\r\n%b%b\r\n%b" % (status, fields, length, said if head else b""))
    elif kind in ("chunks", "pieces", "cut chunks", "events", "cut events"):
        media = b"text/event-stream" if "events" in kind else b"text/plain"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % media)
        for piece in (b"data: 1\n\n", b"data: [DONE]\n\n") if head else ():
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if kind != "chunks":
                await writer.drain()
                await asyncio.sleep(0.02)
        if "cut" in kind:
            writer.close()
        elif head:
            writer.write(b"0\r\nx-trailer: 1\r\n\r\n")
    elif kind == "long error":
        writer.write(b"HTTP/1.1 503 No\r\nretry-after: 5\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000 * head)
    elif kind in ("cut", "cut error", "halts"):
        status = b"400 Bad" if "error" in kind else b"200 OK"
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: 20\r\n\r\n%b" % (status, body * head))
        await writer.drain()
        if kind == "halts":
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)
        writer.close()
    elif kind == "eof":
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body * head)
        writer.close()
    elif kind == "nothing":
        writer.close()
    elif kind == "no HTTP":
        writer.write(b"what?\r\n\r\n")
    elif kind == "interim":
        writer.write(b"HTTP/1.1 103 Early Hints\r\nx-early: 1\r\n\r\n")
        writer.write(b"HTTP/1.1 201 Created\r\ncontent-length: 8\r\n\r\n" + body * head)
    else:
        await asyncio.Event().wait()


@dataclass
class Read:
    """An answer as a caller read it."""

    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    status: int = 0
    reason: bytes = b""

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.ended = self.status != 100


UNLIKE = (b"date", b"connection", b"ms-azureml-model-time")  # each server's own
FRAMING = (b"content-length", b"transfer-encoding")  # may follow how an answer came in pieces


async def ask(system: System, raw: bytes, method: str) -> Any:
    """What is said, less what may differ."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(system.url.rpartition(":")[2]))
    writer.write(raw)
    said, cut = b"", False
    try:
        async with asyncio.timeout(10):
            while data := await reader.read(65536):
                said += data
    except ConnectionError:
        cut = True
    writer.close()
    while said.startswith(b"HTTP/1.1 100"):
        said = said.partition(b"\r\n\r\n")[2]
    if not said:
        return "nothing"
    read = Read()
    head, _, body = said.partition(b"\r\n\r\n")
    parser = httptools.HttpResponseParser(read)
    if method == "HEAD":
        assert body == b""
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"transfer-"))
        parser.feed_data(head + b"\r\n\r\n")
    else:
        parser.feed_data(said)
    framed = any(name in FRAMING for name, _ in read.fields)
    whole = method == "HEAD" or read.ended or (not framed and not cut)
    told = sorted(
        (name, b"" if name == b"x-ms-request-id" and len(value) == 32 else value)
        for name, value in read.fields
        if name not in UNLIKE and (method == "HEAD" or name not in FRAMING)
    )
    return parser.get_status_code(), told, read.body, whole


def counted(system: System) -> Any:
    """What the books say, less how long it took."""

    def of(counts: Counts) -> Any:
        timed = [sum(found.values()) for found in (counts.latency, counts.first_byte)]
        sizes = {size: sum(found.values()) for size, found in counts.sizes.items()}
        streams = {name: sum(found.values()) for name, found in counts.streams.items()}
        return dict(counts.outcomes), timed, sizes, streams, dict(counts.finishes)

    book = system.worker.book
    unrouted, book.unrouted = dict(book.unrouted), {}
    return unrouted, [
        (
            batch.generation,
            dict(batch.statuses),
            {name: of(counts) for name, counts in batch.live.items()},
            {name: of(counts) for name, counts in batch.mirrored.items()},
            dict(batch.dropped),
            dict(batch.chosen),
            [(pair.kind, pair.live.status, pair.live.body, pair.copy.status, pair.copy.body) for pair in batch.pairs],
        )
        for batch in book.seal(1.0)
    ]


def requests(random: Random, count: int) -> list[tuple[bytes, str]]:
    found = []
    for _ in range(count):
        method = random.choice(("POST",) * 6 + ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))
        name = random.choice(("e",) * 20 + ("other", "E", "%65"))
        path = random.choice(("score",) * 6 + ("score?a=1&b=%20", "v1/models/x%2Fy:predict", "", "score/", "a%0d%0ab"))
        version = random.choice(("1.1",) * 9 + ("1.0",))
        fields = [f"x-play: {random.choice(PLAYS)}", "connection: close"]
        fields += random.choice((["host: h"],) * 12 + ([], ["host: h", "host: i"]))
        key = f"authorization: Bearer {KEY}"
        fields += random.choice(([key],) * 20 + ([], [key, key], ["authorization: Bearer no"], ["authorization: x"]))
        fields += random.choice(([],) * 6 + (["x-ms-request-id: my.id"], ["x-ms-request-id: a b"]))
        fields += random.choice(([],) * 6 + (["x-ms-client-request-id: mine"], ["x-ms-client-request-id: \xe4"]))
        overrides = ("cand-name", "rev-name@rev", "nobody", "", "rev-name@cand")
        fields += random.choice(
            ([],) * 12 + tuple([f"azureml-model-deployment: {one}"] for one in overrides)
            + (["azureml-model-deployment: rev-name"] * 2,)
        )  # fmt: skip
        fields += random.choice(([],) * 8 + (["expect: 100-continue"], ["te: trailers", "x-kept: 1"], ["upgrade: h2c"]))
        body = random.choice((b"", b"{}", b"{}", b"x" * 3000, b"x" * 1_200_000))
        if version == "1.1" and body and random.random() < 0.3:
            fields.append("transfer-encoding: chunked")
            half = len(body) // 2 or 1
            parts = (body[:half], body[half:])
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"
        elif body or method not in ("GET", "HEAD") or random.random() < 0.2:
            fields.append(f"content-length: {len(body)}")
        random.shuffle(fields)
        head = f"{method} /endpoints/{name}/{path} HTTP/{version}\r\n" + "\r\n".join(fields) + "\r\n\r\n"
        found.append((head.encode("latin-1") + body, method))
    return found


def rests(system: System) -> Callable[[], bool]:
    return lambda: system.worker.book.in_flight == 0 and system.worker.mirrors.running == 0


def told(model: Model) -> Any:
    """What it heard since, less what tells the two apart."""
    every = [
        (heard.start, sorted(one for one in heard.fields if one[0] not in ("host", "x-ms-request-id")), heard.body)
        for heard in model.heard
    ]
    model.heard.clear()
    return every


async def played(system: System, raw: bytes, method: str, models: tuple[Model, Model], *, repeatable: bool) -> Any:
    waits = any(b"x-play: " + kind in raw[:600] for kind in (b"silent", b"halts"))
    rows = [
        revision(name, share, model, request_timeout_ms=1_000 if waits else 20_000)
        for name, share, model in zip(("rev", "cand"), (1000, 0), models, strict=True)
    ]
    system.route(*rows, mirrors=(Mirror("cand", 1000),), repeatable=repeatable)
    said = await ask(system, raw, method)
    await until(rests(system))
    return said, [told(model) for model in models], counted(system)


@pytest.mark.parametrize("seed", range(4))
def test_both_fronts_say_and_count_the_same(tmp_path: Path, seed: int) -> None:
    most = 100_000 if seed % 2 else 4_000_000

    async def scenario() -> None:
        models = (await Model(play).start(), await Model(play).start())
        async with (
            router(tmp_path / "1", dataplane=BUILTIN, max_body=most) as one,
            router(tmp_path / "2", dataplane=ASGI, max_body=most) as other,
        ):
            for raw, method in requests(Random(seed), 60):
                seen = [await played(system, raw, method, models, repeatable=seed < 2) for system in (one, other)]
                assert seen[0] == seen[1], raw[:600]

    run(scenario())

"""Azure's inference contract over HTTP, as one ASGI callable: liveness, readiness, scoring, a basic OpenAPI text.

User code runs in the workers only: nothing it does keeps `/` from answering. Refuses bodies above the limit and
request ids above 100 characters, as Azure's own server does.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from headgate.workload import READY_PATH
from headgate_serving.workers import Crew, CrewGone, Reply, StreamBroken, Worker, WorkerLost

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Pairs = Sequence[tuple[bytes, bytes]]

ID_LIMIT = 100  # characters of a request id
TEXT: Pairs = [(b"content-type", b"text/plain; charset=utf-8")]
JSON: Pairs = [(b"content-type", b"application/json")]
IDS = (b"x-request-id", b"x-ms-request-id", b"x-ms-client-request-id")


class ClientGone(Exception):
    """The caller closed the connection; nobody waits for the answer."""


class TooLarge(Exception):
    """The body is longer than the limit."""


class Inference:
    """Args:
    run_limit_s: a run() that takes longer hangs: its request fails and the replica ends.
    """

    def __init__(self, crew: Crew, *, scoring_path: str, body_limit: int, run_limit_s: float) -> None:
        self._crew = crew
        self._path = scoring_path
        self._limit = body_limit
        self._run_limit_s = run_limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ids = request_ids(scope["headers"])
        path, method = scope["path"], scope["method"]
        if any(len(value) > ID_LIMIT for _, value in ids):
            await whole(send, 431, JSON, message(f"request ids must not exceed {ID_LIMIT} characters"))
        elif path == self._path:
            await self._scoring(method, scope, receive, send, ids)
        elif method not in ("GET", "HEAD"):
            await whole(send, 404, [*JSON, *ids], message("no such route"))
        elif path == "/":
            await whole(send, 200, [*TEXT, *ids], b"Healthy")
        elif path == READY_PATH:
            await self._readiness(send, ids)
        elif path == "/swagger.json":
            await whole(send, 200, [*JSON, *ids], json.dumps(self._swagger()).encode())
        else:
            await whole(send, 404, [*JSON, *ids], message("no such route"))

    async def health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Liveness and readiness, and nothing else: for a port that anybody may reach."""
        if scope["path"] in ("/", READY_PATH):
            await self(scope, receive, send)
        else:
            await whole(send, 404, JSON, message("only health is told here"))

    async def _readiness(self, send: Send, ids: Pairs) -> None:
        if self._crew.ready:
            return await whole(send, 200, [*TEXT, *ids], b"Ready")
        why = f"a worker {self._crew.lost}" if self._crew.lost else "init() is not done"
        return await whole(send, 503, [*TEXT, *ids], why.encode())

    async def _scoring(self, method: str, scope: Scope, receive: Receive, send: Send, ids: Pairs) -> None:
        if method == "OPTIONS":
            return await whole(send, 200, [*JSON, *ids], b"")
        if method not in ("GET", "POST"):
            return await whole(
                send, 405, [*JSON, (b"allow", b"GET, POST, OPTIONS"), *ids], message("Method not allowed")
            )
        try:
            if not self._crew.ready:
                raise CrewGone
            body = await read_body(scope["headers"], receive, self._limit)
            await self._score(scope, body, receive, send, ids)
        except TooLarge:
            await whole(send, 413, [*JSON, *ids], message(f"the body is longer than {self._limit} bytes"))
        except WorkerLost:
            await whole(send, 502, [*JSON, *ids], message("the scoring process ended while it worked on this request"))
        except CrewGone:
            await whole(send, 503, [*JSON, (b"retry-after", b"1"), *ids], message("the model is not ready"))
        except TimeoutError:
            why = f"run() took longer than WORKER_TIMEOUT, {self._run_limit_s:g} s"
            self._crew.kill(f"was killed: {why}")
            await whole(send, 500, [*JSON, (b"x-ms-run-function-failed", b"True"), *ids], message(why))
        except ClientGone:
            return None  # nobody reads an answer

    async def _score(self, scope: Scope, body: bytes, receive: Receive, send: Send, ids: Pairs) -> None:
        worker = self._crew.take_now() or await self._queue(receive)
        async with asyncio.timeout(self._run_limit_s):
            reply = await worker.ask(describe(scope, ids), body)
        headers = [*reply.headers, *ids, (b"x-ms-run-fn-exec-ms", reply.run_ms.encode())]
        if reply.body is not None:
            self._crew.give(worker)
            await whole(send, reply.status, headers, reply.body)
        else:
            await self._stream(worker, reply, headers, receive, send)

    async def _queue(self, receive: Receive) -> Worker:
        """Waits for an idle worker, but not longer than the caller does."""
        waiting = self._crew.take()
        gone = asyncio.ensure_future(receive())
        ends: set[asyncio.Future[Any]] = {waiting, gone}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not gone.done():
            gone.cancel()
            return waiting.result()
        if not waiting.cancel() and not waiting.exception():
            self._crew.give(waiting.result())
        raise ClientGone

    async def _stream(self, worker: Worker, reply: Reply, headers: Pairs, receive: Receive, send: Send) -> None:
        """Chunk by chunk; ends run()'s generator when the caller has gone. A broken one ends without its last chunk."""
        sized = [header for header in headers if header[0] != b"content-length"]  # a script's own may be wrong
        gone = asyncio.ensure_future(receive())
        try:
            await send({"type": "http.response.start", "status": reply.status, "headers": sized})
            async for chunk in worker.chunks():
                if gone.done():
                    break
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            else:
                await send({"type": "http.response.body", "body": b""})
        except WorkerLost:
            return  # unfinished: the server closes the connection, the caller sees it truncated
        except StreamBroken:
            pass  # likewise; the worker lives
        except Exception:  # what the script answered cannot be sent: that costs this answer, and no worker
            await self._take_back(worker)
            raise
        finally:
            gone.cancel()
        await self._take_back(worker)

    async def _take_back(self, worker: Worker) -> None:
        """For the next request, once it is done with this one."""
        try:
            await worker.cancel()
        except WorkerLost:
            return
        self._crew.give(worker)

    def _swagger(self) -> Mapping[str, Any]:
        answer = {"200": {"description": "run()'s answer"}, "default": {"description": "an error"}}
        security: list[Mapping[str, Any]] = [{"Bearer": []}]
        kinds = {"consumes": ["application/json"], "produces": ["application/json"]}
        return {
            "swagger": "2.0",
            "info": {"title": "model", "version": "1.0"},
            "securityDefinitions": {"Bearer": {"type": "apiKey", "name": "Authorization", "in": "header"}},
            "paths": {
                "/": {"get": {"operationId": "ServiceHealthCheck", "responses": answer}},
                self._path: {
                    "post": {"operationId": "RunMLService", "security": security, **kinds, "responses": answer}
                },
            },
        }


def describe(scope: Scope, ids: Pairs) -> Mapping[str, Any]:
    return {
        "id": ids[1][1].decode("latin-1"),
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in scope["headers"]],
    }


def request_ids(headers: Pairs) -> Pairs:
    """The ids an answer carries: x-request-id, x-ms-request-id, and the client's own when it sent one."""
    given = {k: v for k, v in headers if k in IDS and v}
    own = given.get(b"x-request-id") or str(uuid.uuid4()).encode()
    client = given.get(b"x-ms-client-request-id", b"")
    legacy = given.get(b"x-ms-request-id") or client or own
    client = client or given.get(b"x-ms-request-id", b"")
    return [(IDS[0], own), (IDS[1], legacy), *([(IDS[2], client)] if client else [])]


async def read_body(headers: Pairs, receive: Receive, limit: int) -> bytes:
    length = next((v for k, v in headers if k == b"content-length"), b"0")
    if int(length) > limit:  # the HTTP parser has checked that it is a number
        raise TooLarge
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        part = event.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge
        parts.append(part)
        more = event.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def message(text: str) -> bytes:
    return json.dumps({"message": text}).encode()


async def whole(send: Send, status: int, headers: Pairs, body: bytes) -> None:
    sized = [*(h for h in headers if h[0] != b"content-length"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": sized})
    await send({"type": "http.response.body", "body": body})

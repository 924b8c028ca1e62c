"""The router as an ASGI application: scoring paths go to the data path, everything else is FastAPI.

The data path comes first and outside: routing a request through FastAPI costs several times what passing it on does.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from headgate.version import __version__
from headgate_router import headers, refusals
from headgate_router.datapath import data_path
from headgate_router.dataplanes.builtin.failures import UpstreamError
from headgate_router.place import SWAGGER, place, suffix
from headgate_router.routes import LiveRoute, Routes
from headgate_router.upstream import Ask, Message

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Said = dict[int | str, dict[str, Any]]  # what FastAPI takes as answers of a path
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SWAGGER_TIMEOUT_S = 2.0
MAX_SWAGGER = 1024 * 1024  # bytes of a model's own document


class DataPlane(Protocol):
    async def __call__(self, scope: Scope, receive: Receive, send: Send, name: str, rest: bytes) -> None: ...


class Front:
    """The outermost callable. `domain`: `NAME.<domain>` is endpoint NAME; empty: by path only."""

    def __init__(self, data: DataPlane, app: ASGIApp, domain: str = "") -> None:
        self._data = data
        self._app = app
        self._suffix = suffix(domain)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name, rest = self._asked(scope)
            if rest == SWAGGER and scope["method"] == "GET":
                scope["path"] = f"/endpoints/{name}/swagger.json"
                scope["raw_path"] = scope["path"].encode("latin-1")
            elif name:
                return await self._data(scope, receive, send, name, rest)
        return await self._app(scope, receive, send)

    def _asked(self, scope: Scope) -> tuple[str, bytes]:
        """The endpoint and the raw path below it; ("", b""): not a scoring path."""
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        return place(path, headers.find(scope["headers"], b"host") if self._suffix else b"", self._suffix)


def build(routes: Routes, collector: Collector, unready: Callable[[], str] = lambda: "") -> FastAPI:
    """Everything that is not scoring. `unready` says why no new caller should come here; empty: they may.

    FastAPI's pages are off: they load scripts from hosts of others. The document itself is at /openapi.json.
    """
    app = FastAPI(title="Headgate router", version=__version__, docs_url=None, redoc_url=None)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "data_path": data_path()}

    unready_says: Said = {503: {"description": "no new caller should come here; `status` says why"}}

    @app.get("/readyz", tags=["health"], responses=unready_says)
    @app.get("/healthz/ready", tags=["health"], responses=unready_says)
    async def readyz(response: Response) -> dict[str, Any]:
        """It serves by a table, and is not about to end."""
        table = routes.table
        why = "no table yet" if table is None else unready()
        if why:
            response.status_code = 503
        said = {"generation": table.generation, "hash": table.hash} if table is not None else {"generation": None}
        return {"status": why or "ok", **said}

    @app.get("/metrics", tags=["metrics"], response_class=Response)
    async def metrics() -> Response:
        """This worker's counters, in Prometheus' text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    refused = (refusals.UNAUTHORIZED, refusals.NO_ENDPOINT, refusals.NO_ISSUER)
    says: Said = {refusal.status: {"description": refusal.message} for refusal in refused}

    @app.get("/endpoints/{name}/swagger.json", tags=["endpoints"], responses=says)
    async def swagger(name: str, request: Request) -> Response:
        """How to call an endpoint: its model's own document, or one made from the route."""
        live = routes.find(name)
        if live is None:
            return _refusal(refusals.NO_ENDPOINT)
        refusal = live.door.refuses([v for k, v in request.headers.raw if k == b"authorization"])
        if refusal is not None:
            return _refusal(refusal)
        own = await _from_model(live)
        return Response(own, media_type="application/json") if own else JSONResponse(_described(live))

    return app


def _refusal(refusal: refusals.Refusal) -> Response:
    fields = {name.decode(): value.decode() for name, value in refusal.fields}
    return Response(refusal.body(), refusal.status, fields, "application/json")


async def _from_model(live: LiveRoute) -> bytes:
    """The heaviest revision's own swagger.json; empty: it has none, or does not answer with one soon."""
    heaviest = max(live.revisions.values(), key=lambda revision: revision.route.per_mille, default=None)
    if heaviest is None:
        return b""
    message = Message(b"GET /swagger.json HTTP/1.1\r\n", b"accept: application/json\r\n", b"")
    try:
        answering = await Ask(heaviest.copies, message, may_repeat=True).answer(SWAGGER_TIMEOUT_S)
    except UpstreamError:
        return b""
    try:
        body = b""
        while len(body) <= MAX_SWAGGER and (chunk := await answering.connection.read()):
            body += chunk
        json.loads(body)
    except (UpstreamError, ValueError, RecursionError):
        return b""
    finally:
        answering.close()
    return body if answering.connection.status == 200 else b""


def _described(live: LiveRoute) -> dict[str, Any]:
    """What can be said of any model: where to POST, with what."""
    name = live.route.name
    anything: dict[str, Any] = {"application/json": {"schema": {}}}
    errors = {str(r.status): {"description": r.message} for r in refusals.EVERY}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": live.route.commit[:12] or "0"},
        "paths": {
            f"/endpoints/{name}/score": {
                "post": {
                    "operationId": "score",
                    "security": [{"key": []}],
                    "requestBody": {"required": True, "content": anything},
                    "responses": {"200": {"description": "the model's answer", "content": anything}, **errors},
                }
            }
        },
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }

"""The router's own process, as Envoy sees it: discovery, admission of callers, and the pages that are no scoring.

One Unix socket that only this user can reach. What a caller may see and what only Envoy may are told apart by the
host, which Envoy writes: a caller's is never passed on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from headgate_router import headers, refusals
from headgate_router.dataplanes.envoy.discovery import CLUSTERS, Discovery
from headgate_router.dataplanes.envoy.resources import CALLERS, COPIES, PAGES
from headgate_router.refusals import Refusal
from headgate_router.routes import Routes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Hosts:
    """The outermost callable."""

    def __init__(self, pages: ASGIApp, control: ASGIApp) -> None:
        self._pages = pages
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        of_caller = scope["type"] != "http" or headers.find(scope["headers"], b"host") == PAGES.encode()
        await (self._pages if of_caller else self._control)(scope, receive, send)


def build(discovery: Discovery, routes: Routes) -> FastAPI:
    app = FastAPI(title="Headgate router: Envoy's side", openapi_url=None)

    @app.post("/v3/discovery:clusters")
    async def clusters(request: Request) -> Response:
        return await _answer(discovery, CLUSTERS, await request.json())

    @app.post("/v3/discovery:routes")
    async def route_configurations(request: Request) -> Response:
        asked = await request.json()
        (name,) = asked["resource_names"]
        return await _answer(discovery, name if name in (CALLERS, COPIES) else CALLERS, asked)

    @app.post("/admit/{name}")
    async def admit(name: str, request: Request) -> Response:
        """204: the caller may ask this endpoint."""
        live = routes.find(name)
        refusal = refusals.NO_ENDPOINT if live is None else live.door.refuses(_credentials(request))
        return Response(status_code=204) if refusal is None else _said(refusal)

    return app


def _credentials(request: Request) -> list[bytes]:
    return [value for name, value in request.headers.raw if name == b"authorization"]


def _said(refusal: Refusal) -> Response:
    fields = {name.decode(): value.decode() for name, value in refusal.fields}
    return Response(refusal.body(), refusal.status, fields, "application/json")


async def _answer(discovery: Discovery, kind: str, asked: dict[str, Any]) -> Response:
    """304: nothing new; Envoy asks again."""
    said = await discovery.answer(kind, asked.get("node", {}).get("id", ""), asked.get("version_info", ""))
    return Response(status_code=304) if said is None else JSONResponse(said)

"""What people and their programs read and do: status, rollouts, keys, logs, operator actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from headgate import codec
from headgate.control import OperatorAction, Reached
from headgate.findings import Finding, FindingsError, Place
from headgate.version import __version__
from headgate_controllers.controller import Controller

LAST = 2**62  # events a record can number
ACTIONS = ("pause", "resume", "promote", "abort", "rollback", "approve", "reject")


def routes(controller: Controller) -> APIRouter:
    api = APIRouter(dependencies=[Depends(controller.access.operator)])
    _seen(api, controller)
    _told(api, controller)
    _credentials(api, controller)
    _steered(api, controller)  # last: `{action}` would take the paths of the others
    return api


def _seen(api: APIRouter, controller: Controller) -> None:
    """What is asked for, and what is live."""

    @api.get("/status")
    def status() -> Response:
        return _json(controller.status())

    @api.get("/commits/{commit}")
    def commit(commit: str) -> Response:
        """Whether it was acted on, by itself or under a newer one. What is no commit was not."""
        return _json(Reached(commit, controller.commits.reached(commit), __version__))

    @api.get("/routes")
    def table(endpoint: str = "") -> Response:
        """What routers serve by, with what they counted in the last minute."""
        return _json(controller.table(endpoint))

    @api.get("/endpoints/{name}")
    def endpoint(name: str) -> Response:
        return _json(controller.endpoint_status(name))

    @api.get("/endpoints/{name}/rollouts")
    def rollouts(name: str, commit: str = "") -> Response:
        """Those that are kept, newest first; with `commit` the newest one that it asked for, if any."""
        return _json(controller.rollouts(name, commit))

    @api.get("/endpoints/{name}/routes")
    def generations(name: str) -> Response:
        """Every split the endpoint was given, by generation: what an answer's `headgate-generation` names."""
        return _json(controller.generations(name))

    @api.get("/rollouts/{rollout}")
    def rollout(rollout: str) -> Response:
        return _json(controller.rollout(rollout))

    @api.get("/endpoints/{name}/capacity")
    def space(name: str) -> Response:
        """What a rollout of it would find now: nodes, quotas, and the claims of others. It need not exist yet."""
        return _json(controller.capacity.space(name))


def _told(api: APIRouter, controller: Controller) -> None:
    """What happened, and what replicas print."""

    @api.get("/events")
    def events(
        endpoint: str = "",
        after: Annotated[int, Query(ge=0, le=LAST)] = 0,
        limit: Annotated[int, Query(ge=1, le=5_000)] = 500,
    ) -> Response:
        found = controller.events(endpoint, after, limit)
        data = [{"id": number, **codec.to_data(event)} for number, event in found]
        return _json({"events": data, "next": data[-1]["id"] if data else after})

    @api.get("/endpoints/{name}/logs")
    def logs(name: str, deployment: str = "", kind: str = "inference-server", follow: bool = False) -> Response:
        lines: Iterator[bytes] = controller.logs(name, deployment, kind, follow)
        return StreamingResponse(lines, media_type="text/plain; charset=utf-8")


def _credentials(api: APIRouter, controller: Controller) -> None:
    """Keys and tokens of callers."""

    @api.post("/endpoints/{name}/keys/rotate")
    async def rotate(name: str, request: Request) -> Response:
        which = (await _body(request)).get("which", "")
        if which not in ("primary", "secondary", "signing"):
            raise HTTPException(422, "which: primary, secondary or signing")
        return _json(await run_in_threadpool(controller.rotate, name, which))

    @api.post("/endpoints/{name}/token")
    async def token(name: str, request: Request) -> Response:
        """A signed token for callers of this endpoint: {ttl_s, who} -> {token, expires_at}."""
        asked = await _body(request)
        ttl_s, who = asked.get("ttl_s", 3600), str(asked.get("who", ""))[:200]
        if not isinstance(ttl_s, int):
            raise HTTPException(422, "ttl_s: whole seconds")
        try:
            issued = await run_in_threadpool(controller.token, name, ttl_s, who)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return _json({"token": issued.token, "expires_at": issued.expires_at})

    @api.get("/endpoints/{name}/keys")
    def keys(name: str) -> Response:
        return _json(controller.keys(name))


def _steered(api: APIRouter, controller: Controller) -> None:
    """What operators do."""

    @api.post("/endpoints/{name}/{action}")
    async def act(name: str, action: str, request: Request) -> Response:
        if action not in ACTIONS:
            raise HTTPException(404, f"there is no action {action}: {', '.join(ACTIONS)}")
        try:
            body = codec.decode(OperatorAction, await request.body())
        except codec.CodecError as error:
            raise HTTPException(422, str(error)) from error
        try:
            message = await run_in_threadpool(controller.operate, name, action, body)
        except ValueError as error:
            fix = f"`headgate status {name}` shows what it is doing, `headgate events {name}` what led there"
            raise FindingsError(Finding("conflict", str(error), "", fix, Place("control API"))) from error
        return _json({"message": message})

    @api.post("/sync")
    async def sync(request: Request) -> Response:
        accepted = str((await _body(request)).get("accept", ""))
        await run_in_threadpool(controller.sync, accepted)
        return _json({"message": f"looking again{', accepting ' + accepted if accepted else ''}"})

    @api.post("/shutdown")
    async def shutdown(request: Request) -> Response:
        replicas = bool((await _body(request)).get("replicas", False))
        await run_in_threadpool(controller.shut_down, replicas)
        return _json({"message": "stopping"})


async def _body(request: Request) -> dict[str, Any]:
    """A JSON object; nothing is an empty one. Raises HTTPException 422."""
    try:
        found: dict[str, Any] = codec.decode(dict, await request.body() or b"{}")
    except codec.CodecError as error:
        raise HTTPException(422, str(error)) from error
    return found


def _json(value: Any) -> Response:
    return Response(codec.canonical(value), media_type="application/json")

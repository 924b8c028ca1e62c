"""POST /ops/{verb}: an op asks, and is held until its phase's end condition holds or its patience ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import IO

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from headgate import codec
from headgate.control import OpReply, OpRequest, OpState
from headgate.phases import BY_VERB
from headgate_controllers.api.news import News
from headgate_controllers.controller import Controller

LONGEST_WAIT_S = 30.0
PIECE = 1 << 20  # bytes of a file on its way


def routes(controller: Controller, news: News) -> APIRouter:
    api = APIRouter()

    @api.post("/ops/{verb}")
    async def ask(verb: str, request: Request) -> Response:
        try:
            asked = codec.decode(OpRequest, await request.body())
        except codec.CodecError as error:
            raise HTTPException(422, str(error)) from error
        rollout, _, op = asked.op_key.rpartition("/")
        controller.access.op(request, rollout)
        if verb not in BY_VERB or not rollout or not op:
            raise HTTPException(404, f"there is no verb {verb}, or the op key is not WORKFLOW/OP")
        reply = await _until_done(controller, news, verb, asked)
        return Response(codec.canonical(reply), media_type="application/json")

    @api.post("/ops/open/{endpoint}")
    async def open_rollout(endpoint: str, request: Request, commit: str = "") -> dict[str, str]:
        """For a team's own pipeline: the running rollout of this commit, and a token for its ops."""
        controller.access.operator(request)
        rollout = controller.heads.get(endpoint).active
        if rollout is None or (commit and not rollout.commit.startswith(commit)):
            raise HTTPException(404, f"{endpoint} has no running rollout of {commit or 'any commit'}")
        return {"rollout": rollout.id, "token": controller.access.op_token(rollout.id)}

    @api.get("/sources/{endpoint}/{revision}.tar")
    async def source(endpoint: str, revision: str, request: Request) -> Response:
        """The files of a revision's source, for the op that builds it."""
        rollout = controller.heads.get(endpoint).rollout
        controller.access.op(request, rollout.id if rollout else "")
        file = await run_in_threadpool(controller.source, endpoint, revision)
        size = {"content-length": str(os.fstat(file.fileno()).st_size)}  # so that half of it is known to be half
        return StreamingResponse(_pieces(file), media_type="application/x-tar", headers=size)

    return api


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


async def _until_done(controller: Controller, news: News, verb: str, asked: OpRequest) -> OpReply:
    loop = asyncio.get_running_loop()
    until = loop.time() + min(asked.wait_s, LONGEST_WAIT_S)
    while True:
        bell = news.bell(asked.endpoint)
        reply = await run_in_threadpool(controller.ask, verb, asked)
        left = until - loop.time()
        if reply.state is not OpState.WAIT or left <= 0:
            return reply
        await news.wait(bell, left)

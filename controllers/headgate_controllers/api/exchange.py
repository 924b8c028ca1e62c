"""POST /exchange: table, ack, counters and pairs of a router worker in one call, held until there is news."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from headgate import codec
from headgate.control import EXCHANGE_HOLD_S, ExchangeReply, ExchangeRequest
from headgate.findings import TransientError
from headgate_controllers.api.news import News
from headgate_controllers.controller import Controller

TABLE = "table"  # the topic rung when a table is published


def routes(controller: Controller, news: News) -> APIRouter:
    api = APIRouter()

    @api.post("/exchange", dependencies=[Depends(controller.access.operator)])
    async def exchange(request: Request) -> Response:
        try:
            message = codec.decode(ExchangeRequest, await request.body())
        except codec.CodecError as error:
            return Response(str(error), 422)
        received = message.sequence
        try:
            await run_in_threadpool(controller.exchanged, message)
        except TransientError:
            received = message.sequence - 1 if message.batches else message.sequence
        acked = message.acked.generation if message.acked else -1
        bell = news.bell(TABLE)
        if controller.routes.table.generation <= acked:
            await news.wait(bell, EXCHANGE_HOLD_S)
        table = controller.routes.table
        reply = ExchangeReply(received, table if table.generation != acked else None)
        return Response(codec.canonical(reply), media_type="application/json")

    return api

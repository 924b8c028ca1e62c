"""Verdicts, for people and programs: list, explain, compute again, take the evidence home. Reads, never decides."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse

from headgate import codec
from headgate_controllers.controller import Controller


def routes(controller: Controller) -> APIRouter:
    api = APIRouter(dependencies=[Depends(controller.access.operator)])

    @api.get("/endpoints/{name}/verdicts")
    def verdicts(name: str) -> Response:
        """Of every rollout that is kept, the newest first."""
        return _json(controller.verdicts_of(name))

    @api.get("/verdicts/{verdict:path}")
    def verdict(verdict: str) -> Response:
        """One verdict and how it came about, look by look."""
        return _json(controller.verdicts.report(verdict))

    @api.get("/replays/{verdict:path}")
    def replay(verdict: str) -> Response:
        """The verdict computed again from its evidence. The gate runs on a thread of its own, beside the loop."""
        return _json(controller.verdicts.replay(verdict))

    @api.get("/rollouts/{rollout}/ops/{op}/trace")
    def trace(rollout: str, op: str) -> Response:
        """The evidence of one op, a line of JSON per look."""
        return StreamingResponse(controller.verdicts.trace(rollout, op), media_type="application/x-ndjson")

    return api


def _json(value: object) -> Response:
    return Response(codec.canonical(value), media_type="application/json")

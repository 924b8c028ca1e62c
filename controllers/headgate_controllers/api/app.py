"""The FastAPI application of the control API. Every refusal is findings: what, why, how to fix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from headgate import codec, codes
from headgate.findings import Finding, FindingsError, Place, TerminalError, TransientError
from headgate.version import __version__
from headgate_controllers.api import exchange, ops, people, verdicts
from headgate_controllers.api.news import News
from headgate_controllers.controller import Controller, NotFoundError
from headgate_controllers.metrics import registry
from headgate_kit.files import DiskFull


def application(controller: Controller, news: News) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        news.attach(asyncio.get_running_loop())
        yield

    # FastAPI's pages are off: they load scripts from hosts of others. The document itself is at /openapi.json.
    title = "Headgate control API"
    app = FastAPI(title=title, version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(exchange.routes(controller, news))
    app.include_router(ops.routes(controller, news))
    app.include_router(people.routes(controller))
    app.include_router(verdicts.routes(controller))
    metrics = registry(controller)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        """A controller that waits for its turn does not answer this with 200 (`leader.Standby`)."""
        return {"status": "ok"}

    @app.get("/metrics")
    def scrape() -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Errors that say what is wrong are answered as findings."""

    @app.exception_handler(FindingsError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, FindingsError)
        missing = all(finding.code in codes.MISSING for finding in error.findings)
        return _findings(404 if missing else 409, error.findings)

    @app.exception_handler(NotFoundError)
    async def missing(_: Request, error: Exception) -> JSONResponse:
        fix = "`headgate status` lists what there is"
        return _findings(404, [Finding("not-found", str(error), "", fix, Place("control API"))])

    @app.exception_handler(TransientError)
    async def later(_: Request, error: Exception) -> JSONResponse:
        place, fix = Place("control API"), "it changed nothing: try again"
        if isinstance(error, DiskFull):
            return _findings(503, [Finding("disk-full", str(error), "", fix, place)])
        return _findings(503, [Finding("try-again", str(error), "", fix, place)])

    @app.exception_handler(TerminalError)
    async def refused_behind(_: Request, error: Exception) -> JSONResponse:
        fix = "mend what it names: a right, a quota, a credential"
        return _findings(502, [Finding("refused-behind", str(error), "", fix, Place("control API"))])

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {401: "unauthorized", 404: "not-found"}.get(error.status_code, "bad-request")
        return _findings(error.status_code, [Finding(code, str(error.detail), "", "", Place("control API"))])


def _findings(status: int, findings: Sequence[Finding]) -> JSONResponse:
    return JSONResponse({"findings": codec.to_data(list(findings))}, status)

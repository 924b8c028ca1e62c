"""Plugin nodes answered by our sidecar in Argo's agent pod: any Argo that has executor plugins switched on.

`POST /api/v1/template.execute` with the token Argo shares with its sidecars. Speaks to the control API as an op does.
Refuses whoever has not that token; a template without `plugin.headgate` is answered `{}`: somebody else's.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from headgate import codec
from headgate.control import OpReply, OpRequest
from headgate.findings import TerminalError, TransientError
from headgate_pipelines import contract
from headgate_pipelines.op import Control, Ended
from headgate_pipelines.plugin.execute import Ask, body_of, execute

AGENT_TOKEN = Path("/var/run/argo/token")  # put there by Argo, for every sidecar of its agent
WAIT_S = 15.0  # Argo gives a call 30 s
PATIENCE_S = 5.0
LIMIT = 1024 * 1024  # bytes of one call


def application(token_file: Path, ask_as: Callable[[str], Ask]) -> FastAPI:
    """The sidecar.

    Args:
        ask_as: the control API, asked with a rollout's token, or with the sidecar's own when it is empty.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/api/v1/template.execute")
    async def template_execute(request: Request) -> dict[str, Any]:
        _authorise(request, token_file)
        template = await _template(request)
        body = body_of(template)
        if body is None:
            return {}
        result = await run_in_threadpool(execute, template, ask_as(str(body.get("token") or "")), wait_s=WAIT_S)
        if result is None:
            return {}
        reply: dict[str, Any] = {"node": result.document()}
        if result.requeue_s is not None:
            reply["requeue"] = f"{result.requeue_s:g}s"
        return reply

    @app.get("/healthz")
    async def healthy() -> dict[str, str]:
        return {"status": "ok"}

    return app


def asks(patience_s: float = PATIENCE_S) -> Callable[[str], Ask]:
    """Asks over HTTP, by the op's own client: variables HEADGATE_CONTROL and HEADGATE_TOKEN_FILE."""

    def ask_as(token: str) -> Ask:
        def ask(verb: str, request: OpRequest) -> OpReply:
            try:
                return codec.decode(OpReply, Control(patience_s, token).post(f"/ops/{verb}", codec.to_data(request)))
            except Ended as end:
                kind = TransientError if end.code == contract.AGAIN else TerminalError
                raise kind(str(end)) from None
            except codec.CodecError as error:
                raise TerminalError(f"the control API's answer cannot be read: {error}") from error

        return ask

    return ask_as


def _authorise(request: Request, token_file: Path) -> None:
    """Argo writes the token before it calls; a file that is not there lets nobody in."""
    try:
        expected = f"Bearer {token_file.read_text().strip()}"
    except OSError:
        raise HTTPException(503, f"{token_file} cannot be read") from None
    given = request.headers.get("authorization", "")
    if expected == "Bearer " or not hmac.compare_digest(given.encode(), expected.encode()):
        raise HTTPException(401, "this is not the agent's token")


async def _template(request: Request) -> dict[str, Any]:
    content = await request.body()
    if len(content) > LIMIT:
        raise HTTPException(413, f"longer than {LIMIT} bytes")
    try:
        template = json.loads(content)["template"]
    except (ValueError, KeyError, TypeError):
        raise HTTPException(422, "the call has no template") from None
    if not isinstance(template, dict):
        raise HTTPException(422, "the call has no template")
    return template

"""What a user would write: FastAPI and httpx doing the router's job.

`python -m bench.router.naive PORT BLUE GREEN SHADOW EVENTS`
"""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import uvicorn
from bench.router.job import KEYS, MIRROR, SPLIT
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

PORT, BLUE, GREEN, SHADOW, EVENTS = (int(one) for one in sys.argv[1:6])
UPSTREAMS = {"blue": BLUE, "green": GREEN}
client = httpx.AsyncClient(limits=httpx.Limits(max_connections=256, max_keepalive_connections=256), timeout=30)
copies: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await client.aclose()


app = FastAPI(lifespan=lifespan)


async def copy(path: str, body: bytes) -> None:
    try:
        await client.post(f"http://127.0.0.1:{SHADOW}/{path}", content=body)
    except httpx.HTTPError:
        return


@app.post("/endpoints/{name}/{path}")
async def score(
    name: str,
    path: str,
    request: Request,
    authorization: Annotated[str, Header()] = "",
    azureml_model_deployment: Annotated[str, Header()] = "",
    x_ms_request_id: Annotated[str, Header()] = "",
) -> StreamingResponse:
    if authorization.removeprefix("Bearer ") not in KEYS:
        raise HTTPException(401)
    chosen = azureml_model_deployment or ("green" if random.random() < SPLIT else "blue")
    if chosen not in UPSTREAMS:
        raise HTTPException(404)
    body = await request.body()
    if random.random() < MIRROR and name == "e":
        copies.add(task := asyncio.create_task(copy(path, body)))
        task.add_done_callback(copies.discard)
    port = EVENTS if name == "s" else UPSTREAMS[chosen]
    headers = {"x-ms-request-id": x_ms_request_id or uuid.uuid4().hex, "content-type": "application/json"}
    sent = client.build_request("POST", f"http://127.0.0.1:{port}/{path}", content=body, headers=headers)
    answer = await client.send(sent, stream=True)
    told = {"content-type": answer.headers["content-type"], "x-ms-request-id": headers["x-ms-request-id"]}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, told, background=BackgroundTask(answer.aclose))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="error", access_log=False)

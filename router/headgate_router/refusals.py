"""Every answer that is the router's own: status, code, words. One row each; `docs/router.md` shows the same table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    code: str  # stable, for programs
    message: str  # for people
    fields: tuple[tuple[bytes, bytes], ...] = ()
    last: bool = False  # what follows on the connection is not to be trusted

    def body(self, detail: str = "") -> bytes:
        message = f"{self.message}: {detail}" if detail else self.message
        return json.dumps({"error": {"code": self.code, "message": message}}).encode()


SOON = ((b"retry-after", b"1"),)

BAD_REQUEST = Refusal(400, "bad-request", "the request cannot be passed on", last=True)
UNAUTHORIZED = Refusal(
    401,
    "unauthorized",
    "one header `Authorization: Bearer ...` with a valid key or token is needed",
    ((b"www-authenticate", b"Bearer"),),
)
NO_WEBSOCKET = Refusal(403, "no-websocket", "this endpoint takes no WebSocket")
NO_ISSUER = Refusal(503, "no-issuer", "the keys of the token issuer are not known yet", SOON)
NO_ENDPOINT = Refusal(404, "no-endpoint", "there is no endpoint of that name")
NO_DEPLOYMENT = Refusal(404, "no-deployment", "nothing to answer this request")
TIMED_OUT = Refusal(408, "timeout", "the model did not answer within request_timeout_ms")
TOO_SLOW = Refusal(408, "too-slow", "the request took too long to arrive")
TOO_LARGE = Refusal(413, "too-large", "the request body is longer than this router takes")
MODEL_ERROR = Refusal(424, "model-error", "the model answered with an error")
BUSY = Refusal(429, "busy", "too many requests of this deployment are running and waiting", SOON)
HEAD_TOO_LARGE = Refusal(431, "head-too-large", "more than 64 KiB of head")
FAULT = Refusal(500, "fault", "this router failed on the request, which may have run; its log says why", last=True)
BROKEN = Refusal(502, "broken", "the model ended the connection before it answered; it may have run the request")
CROWDED = Refusal(503, "crowded", "too many connections", SOON)
NOT_READY = Refusal(503, "not-ready", "no replica of the chosen revision took the request", SOON)
UPSTREAM_TLS = Refusal(503, "upstream-tls", "this router and the replicas do not trust each other's certificates", SOON)
VERSION = Refusal(505, "http-version", "HTTP/1.1 and HTTP/1.0 are spoken here")

EVERY = (
    BAD_REQUEST,
    UNAUTHORIZED,
    NO_WEBSOCKET,
    NO_ISSUER,
    NO_ENDPOINT,
    NO_DEPLOYMENT,
    TIMED_OUT,
    TOO_SLOW,
    TOO_LARGE,
    MODEL_ERROR,
    BUSY,
    HEAD_TOO_LARGE,
    FAULT,
    BROKEN,
    CROWDED,
    NOT_READY,
    UPSTREAM_TLS,
    VERSION,
)
CLIENT_GONE: Final = 499  # never sent: the status a request is counted under whose caller left

"""Who may call what: one operator token (0600 in the data folder), and one token per rollout for its ops."""

from __future__ import annotations

import hashlib
import hmac

from fastapi import HTTPException, Request

SCHEME = "Bearer "


class Access:
    def __init__(self, token: str) -> None:
        self._token = token

    def op_token(self, rollout: str) -> str:
        """Good for the ops of one rollout only; derived, so that nothing needs to be stored."""
        return "op_" + hmac.new(self._token.encode(), f"op:{rollout}".encode(), hashlib.sha256).hexdigest()

    def is_op_token(self, rollout: str, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.op_token(rollout).encode())

    def operator(self, request: Request) -> None:
        """A dependency: refuses with 401 whoever has not the operator token."""
        if not hmac.compare_digest(_presented(request).encode(), self._token.encode()):
            raise HTTPException(401, "this needs the token of the data folder (control.token)")

    def op(self, request: Request, rollout: str) -> None:
        """An op of this rollout, or the operator."""
        given = _presented(request).encode()
        allowed = [self._token.encode(), self.op_token(rollout).encode()]
        if not any([hmac.compare_digest(given, token) for token in allowed]):  # noqa: C419 - all, in constant time
            raise HTTPException(401, "this token is not of this rollout")


def _presented(request: Request) -> str:
    values = request.headers.getlist("authorization")
    return values[0][len(SCHEME) :] if len(values) == 1 and values[0].startswith(SCHEME) else ""

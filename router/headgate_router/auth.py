"""Who may call: a key, a token of ours, or a token of an issuer, as the endpoint says. One kind each.

The router never holds a key or anything that signs, never logs a credential, never passes one on to a model.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from headgate.control import TOKEN_ISSUER
from headgate.table import EndpointRoute
from headgate_router.oidc import Issuers
from headgate_router.refusals import NO_ISSUER, UNAUTHORIZED, Refusal
from headgate_router.tokens import Rules, Verifier, key_set

_SCHEME: Final = b"bearer "
MAX_CREDENTIAL: Final = 8192  # bytes; longer is refused unread


class Door(Protocol):
    @property
    def lasting(self) -> bool:
        """Whether what it said of a credential holds as long as this door does."""
        ...

    def refuses(self, authorization: Sequence[bytes]) -> Refusal | None:
        """What a request with these values of the Authorization field is answered; None: it may come in."""
        ...


class Keys:
    """Keys, held as digests only. When the keys change, the route does, and has another door."""

    lasting = True

    def __init__(self, digests: Sequence[str]) -> None:
        self._digests = [digest.lower().encode() for digest in digests]

    def refuses(self, authorization: Sequence[bytes]) -> Refusal | None:
        return None if accepts(self._digests, authorization) else UNAUTHORIZED


class Tokens:
    """They expire, and issuers take their keys back."""

    lasting = False

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def refuses(self, authorization: Sequence[bytes]) -> Refusal | None:
        token = credential(authorization)
        verdict = self._verifier.accepts(token) if token else False
        if verdict is None:
            return NO_ISSUER
        return None if verdict else UNAUTHORIZED


def door(route: EndpointRoute, issuers: Issuers, clock: Callable[[], float] = time.time) -> Door:
    """The one that the route asks for; for a mode that is not known, one that nobody passes."""
    if route.auth_mode == "key":
        return Keys(route.keys)
    if route.auth_mode == "aml_token":
        keys = key_set([json.loads(text) for text in route.signers])
        return Tokens(Verifier(Rules(TOKEN_ISSUER, (route.name,)), lambda: keys, clock))
    issuer = route.issuer
    if route.auth_mode == "aad_token" and issuer is not None:
        rules = Rules(issuer.issuer, issuer.audience, issuer.claims)
        return Tokens(Verifier(rules, lambda: issuers.keys(issuer), clock, lambda: issuers.strange(issuer)))
    return Keys(())


def credential(authorization: Sequence[bytes]) -> bytes:
    """The bearer credential; empty: there is none, or more than one field, for proxies disagree on which counts."""
    if len(authorization) != 1:
        return b""
    value = authorization[0]
    if len(value) > MAX_CREDENTIAL or value[: len(_SCHEME)].lower() != _SCHEME:
        return b""
    return value[len(_SCHEME) :].strip()


def accepts(digests: Sequence[bytes], authorization: Sequence[bytes]) -> bool:
    """Whether the values of a request's Authorization fields hold one accepted key.

    Args:
        digests: sha256 of each accepted key, as lower-case hex digits.
        authorization: the field's values; more than one is refused, whatever they hold.
    Every digest is compared, in constant time, whether or not an earlier one matched.
    """
    key = credential(authorization)
    given = hashlib.sha256(key).hexdigest().encode()
    found = False
    for digest in digests:
        found |= hmac.compare_digest(given, digest)
    return found and bool(key)
